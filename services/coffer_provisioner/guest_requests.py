"""What guests ask of the provisioner: enrolment, desired state, renewal of credentials and grants, rotation of keys,
and whether a snapshot is taken.

Each handler takes a received message and gives the sealed answer, or None for silence: whoever may not be answered
learns nothing. Every handler may be asked the same thing twice, by any replica.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

from coffer_provisioner.backup_grants import BackupGrants
from coffer_provisioner.freezes import Freezes
from coffer_provisioner.issuer import Issuer
from coffer_provisioner.records import PostgresRecords
from coffer_shared import log, subjects
from coffer_shared.identity import user_nkey
from coffer_shared.messages import (
    Credential,
    Denied,
    Desired,
    Enrol,
    Frozen,
    Renew,
    RenewGrant,
    Request,
    RequestAnswer,
    Rotate,
    decode_enrol,
    decode_request,
    encode,
)
from coffer_shared.seal import PUBLIC_SIZE, BadEnvelope, KeyPair, Kind, Peer, Ring, key_id

_log = log.get(__name__)


class GuestRequests:
    """`refused` counts what got no answer, by reason, for the metrics."""

    def __init__(
        self,
        keys: KeyPair,
        issuer: Issuer,
        records: PostgresRecords,
        grants: BackupGrants,
        freezes: Freezes,
        *,
        keyset: str,
        guest_life: timedelta,
        enrolled: Callable[[str], Awaitable[None]],
    ) -> None:
        """`enrolled` is awaited with the instance id when a guest has its identity, so that its creation goes on."""
        self._keys = keys
        self._issuer = issuer
        self._records = records
        self._grants = grants
        self._freezes = freezes
        self._keyset = keyset
        self._life = guest_life
        self._enrolled = enrolled
        self.refused: Counter[str] = Counter()

    async def on_enrol(self, subject: str, data: bytes, reply: str) -> bytes | None:
        """`data` is the guest's X25519 public key, then the envelope."""
        instance = self._sender(subject, reply)
        if instance is None or len(data) <= PUBLIC_SIZE:
            return self._refuse("form")
        xpub, sealed = data[:PUBLIC_SIZE], data[PUBLIC_SIZE:]
        try:
            peer = Peer("server", self._keys, xpub)
            opened = peer.open(subject, sealed, reply, (Kind.ENROL,))
            wanted: Enrol = decode_enrol(opened.body)
            nkey = user_nkey(wanted.nkey)
        except (BadEnvelope, ValueError):
            return self._refuse("envelope")
        if wanted.xpub != xpub.hex():
            return self._refuse("key")
        known = await self._records.enrol(
            instance, secret_hash=_hash(wanted.secret), xpub=xpub, nkey=nkey, version=_plain(wanted.version),
        )
        if not known:
            _log.warning("enrolment refused", instance=instance)
            return self._refuse("enrolment")
        _log.info("guest enrolled", instance=instance, version=_plain(wanted.version))
        answer = await self._credential(instance, nkey)
        await self._enrolled(instance)
        return peer.seal(Kind.RESPONSE, reply, encode(answer), message_id=opened.message_id)

    async def on_request(self, subject: str, data: bytes, reply: str) -> bytes | None:
        instance = self._sender(subject, reply)
        if instance is None:
            return self._refuse("form")
        guest = await self._records.guest(instance)
        if guest is None or guest["xpub"] is None or guest["revoked_at"] or guest["deleted_at"]:
            return self._refuse("unknown")
        ring = Ring(*(Peer("server", self._keys, bytes(k)) for k in (guest["xpub"], guest["xpub_old"]) if k))
        try:
            peer, opened = ring.open(subject, data, reply, (Kind.REQUEST,))
            request = decode_request(opened.body)
        except (BadEnvelope, ValueError):
            return self._refuse("envelope")
        if abs(time.time() - opened.seq / 1e6) > self._life.total_seconds():
            return self._refuse("old")  # a record of long ago; a guest's clock may be wrong by less
        heard = next(k for k in (guest["xpub"], guest["xpub_old"]) if k and key_id(k) == opened.guest_key)
        answer = await self._answer(instance, guest, request, bytes(heard))
        return peer.seal(Kind.RESPONSE, reply, encode(answer), message_id=opened.message_id)

    async def _answer(
        self, instance: str, guest: dict[str, Any], request: Request, heard: bytes,
    ) -> RequestAnswer:
        """`heard` is the guest's public key that the request was sealed under."""
        if isinstance(request, Rotate):
            try:
                xpub, nkey = bytes.fromhex(request.xpub), user_nkey(request.nkey)
                Peer("server", self._keys, xpub)
            except ValueError:
                return Denied(code="invalid", text="these are not public keys")
            if not await self._records.rotate(instance, heard=heard, xpub=xpub, nkey=nkey):
                return Denied(code="invalid", text="these keys cannot be taken")
            return await self._credential(instance, nkey)
        current = heard == guest["xpub"]
        if current and (guest["nkey_old"] or guest["boot_nkey"]):
            await self._records.retire_old_keys(instance, heard)
        if isinstance(request, RenewGrant):
            return await self._grants.renew(instance, request.op)
        if isinstance(request, Frozen):
            return await self._freezes.ask(instance, request.op)
        if isinstance(request, Renew):  # for the nkey that goes with the key: a guest may not know yet of its rotation
            return await self._credential(instance, guest["nkey"] if current else guest["nkey_old"])
        expires = guest["jwt_expires_at"]
        return Desired(
            now=time.time(),
            allowed_cidrs=guest["allowed_cidrs"],
            keyset=self._keyset,
            jwt_expires_at=expires.timestamp() if expires else 0.0,
        )

    async def _credential(self, instance: str, nkey: str) -> Credential:
        now = time.time()
        token = self._issuer.guest(instance, nkey)
        await self._records.set_jwt_expiry(instance, now + self._life.total_seconds())
        return Credential(jwt=token, now=now, keyset=self._keyset)

    def _sender(self, subject: str, reply: str) -> str | None:
        try:
            instance = subjects.instance_of(subject)
        except ValueError:
            return None
        return instance if subjects.reply_allowed(subject, reply) else None

    def _refuse(self, reason: str) -> bytes | None:
        """Silence."""
        self.refused[reason] += 1
        return None


def _plain(version: str) -> str:
    """Goes into a row and into logs, and a guest says it."""
    return "".join(c for c in version if c.isprintable())[:64]


def _hash(secret: str) -> bytes:
    try:
        return hashlib.sha256(bytes.fromhex(secret)).digest()
    except ValueError:
        return b""
