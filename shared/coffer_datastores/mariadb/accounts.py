"""What is MariaDB's own about users: how a password is told to the server."""

from __future__ import annotations

import hashlib

from coffer_datastores.mariadb.spec import DATASTORE
from coffer_shared.datastore import Datastore


class MariaDialect:
    """Implements `mysql_accounts.Dialect`."""

    @property
    def spec(self) -> Datastore:
        return DATASTORE

    def proof(self, password: str) -> str:
        """By its hash, made here, so that no password in clear reaches the server, its log or its process list. It is
        of the one kind that every client of the family knows."""
        return f"IDENTIFIED VIA mysql_native_password USING '{native_hash(password)}'"


def native_hash(password: str) -> str:
    """Twice SHA-1, as the protocol has it; without a salt, so equal passwords have equal hashes."""
    once = hashlib.sha1(password.encode(), usedforsecurity=False).digest()
    return "*" + hashlib.sha1(once, usedforsecurity=False).hexdigest().upper()
