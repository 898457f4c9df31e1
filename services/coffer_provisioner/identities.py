"""Makes the user data of a new machine: a one-time credential, and what the agent needs to trust its services."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass

from coffer_provisioner.issuer import Issuer
from coffer_provisioner.records import PostgresRecords
from coffer_shared.identity import UserData, encode_user_data


@dataclass(frozen=True, slots=True)
class Installation:
    """What every guest of this installation is told; nothing here is secret."""

    nats_urls: tuple[str, ...]
    ca: str
    root: str
    keyset: str
    renewal_url: str


class MachineIdentities:
    def __init__(self, issuer: Issuer, records: PostgresRecords, installation: Installation) -> None:
        self._issuer = issuer
        self._records = records
        self._installation = installation

    async def user_data(self, instance: str) -> bytes:
        """The database keeps the secret's hash only. An earlier unused credential of the instance stops working."""
        secret = secrets.token_bytes(32)
        boot, expires_at = self._issuer.bootstrap(instance)
        await self._records.new_bootstrap(
            instance, secret_hash=hashlib.sha256(secret).digest(), nkey=boot.nkey, expires_at=expires_at,
        )
        told = self._installation
        return encode_user_data(
            UserData(
                instance=instance,
                nats_urls=told.nats_urls,
                ca=told.ca,
                root=told.root,
                keyset=told.keyset,
                renewal_url=told.renewal_url,
                boot_jwt=boot.jwt,
                boot_seed=boot.seed,
                secret=secret.hex(),
                expires_at=expires_at,
            ),
        )
