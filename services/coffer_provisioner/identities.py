"""Makes the user data of a new machine: a one-time credential, and what the agent needs to trust its services."""

from __future__ import annotations

import hashlib
import hmac
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
    def __init__(self, issuer: Issuer, records: PostgresRecords, installation: Installation, *, key: bytes) -> None:
        """`key`: the provisioner's private key, from which the one-time secrets are derived."""
        self._issuer = issuer
        self._records = records
        self._installation = installation
        self._key = key

    async def user_data(self, instance: str, operation: str) -> bytes:
        """The database keeps the secret's hash only. The unused credential of an earlier operation stops working.

        The secret follows from the operation: who is killed between telling the cloud and writing it down has the next
        one tell the same again, and the machine that was made meanwhile holds what still counts. Each still opens once.
        """
        secret = self._derived("secret", instance, operation)
        boot, expires_at = self._issuer.bootstrap(instance, raw=self._derived("key", instance, operation))
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

    def _derived(self, what: str, instance: str, operation: str) -> bytes:
        """32 bytes that nobody without the key can tell from random ones."""
        return hmac.digest(self._key, f"coffer enrolment {what}\0{instance}\0{operation}".encode(), "sha256")
