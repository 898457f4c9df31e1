"""The row reads and writes of plan steps and request handlers. Each call is one short transaction of its own."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from hmac import compare_digest
from typing import Any

from sqlalchemy import RowMapping, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from coffer_db import operations
from coffer_db.database import Database
from coffer_db.revocations import revoke
from coffer_db.tables import Instance
from coffer_shared.errors import GiveUp
from coffer_shared.parameters import numbers

_INSTANCE = text("""
    SELECT i.*, f.ram_mb, f.vcpus, v.manager, v.version, v.image, v.image_digest, g.agent_version,
           g.xpub IS NOT NULL AND g.nkey IS NOT NULL AND g.revoked_at IS NULL AS enrolled,
           g.boot_used_at IS NOT NULL AS credential_used, coalesce(c.values, '{}') AS settings
    FROM instances i
    JOIN flavors f ON f.id = i.flavor_id
    JOIN datastore_versions v ON v.id = i.datastore_version_id
    LEFT JOIN guests g ON g.instance_id = i.id
    LEFT JOIN configurations c ON c.id = i.configuration_id AND c.deleted_at IS NULL
    WHERE i.id = :instance
""")
_EXCHANGE = text("""
    UPDATE instances SET configuration_id = (SELECT id FROM configurations WHERE id = :other AND deleted_at IS NULL),
        updated_at = now()
    WHERE id = :instance AND configuration_id IS NOT DISTINCT FROM CAST(:attached AS text)
""")
_VERSION = text("SELECT version, image, image_digest FROM datastore_versions WHERE id = :id")
_FILED = text("SELECT instance_id, project_id, user_id, request_id, trace FROM operations WHERE id = :id")
_HELD = text("""
    SELECT g.*, g.revoked_at IS NOT NULL OR i.deleted_at IS NOT NULL AS gone, g.boot_expires_at <= now() AS expired
    FROM guests g JOIN instances i ON i.id = g.instance_id WHERE g.instance_id = :instance FOR UPDATE OF g
""")
_CLAIMED = text("""
    SELECT 1 FROM guests WHERE instance_id <> :instance AND :nkey IN (nkey, nkey_old, boot_nkey)
    UNION ALL SELECT 1 FROM revocations WHERE nkey = :nkey LIMIT 1
""")
_ENROL = text("""
    UPDATE guests SET boot_used_at = coalesce(boot_used_at, now()), xpub = :xpub, nkey = :nkey, xpub_old = NULL,
        nkey_old = NULL, agent_version = :version WHERE instance_id = :instance
""")
_ROTATE = text("""
    UPDATE guests SET xpub = :xpub, nkey = :nkey, xpub_old = :xpub_old, nkey_old = :nkey_old
    WHERE instance_id = :instance
""")
_STOLEN = text("UPDATE guests SET stolen_at = coalesce(stolen_at, now()) WHERE instance_id = :instance")
_RETIRE = text("UPDATE guests SET xpub_old = NULL, nkey_old = NULL, boot_nkey = NULL WHERE instance_id = :instance")
_GONE = text("UPDATE guests SET revoked_at = coalesce(revoked_at, now()) WHERE instance_id = :instance")


class PostgresRecords:
    """`Records` for plans (see `reach`), and what the enrolment and request handlers need beside."""

    def __init__(
        self, db: Database, ports: dict[str, int], *, jwt_life: timedelta, patience: float = 1.0,
    ) -> None:
        """`patience` multiplies the time of what is filed here."""
        self._db = db
        self._patience = patience
        self._ports = ports
        """TCP port by datastore manager."""
        self._jwt_life = jwt_life

    async def instance(self, instance: str) -> dict[str, Any]:
        row = await self._one(_INSTANCE, instance=instance)
        if row is None:
            raise GiveUp("no_instance", "the instance has no row")
        return {**row, "settings": numbers(row["settings"]), "port": self._ports[row["manager"]]}

    async def set_instance(self, instance: str, **columns: Any) -> None:
        statement = update(Instance).where(Instance.id == instance).values(**columns)  # type: ignore[arg-type]
        async with self._db.begin() as session:
            await session.execute(statement)

    async def flavor(self, flavor: str) -> dict[str, Any]:
        row = await self._one(text("SELECT ram_mb, vcpus FROM flavors WHERE id = :id"), id=flavor)
        if row is None:
            raise GiveUp("no_flavor", f"the flavor {flavor} is not on offer any more")
        return row

    async def version(self, version: str) -> dict[str, Any]:
        row = await self._one(_VERSION, id=version)
        if row is None:
            raise GiveUp("no_version", "the version is not on offer any more")
        return row

    async def exchange_configuration(self, instance: str, attached: str | None, other: str | None) -> None:
        async with self._db.begin() as session:
            await session.execute(_EXCHANGE, {"instance": instance, "attached": attached, "other": other})

    async def file_after(self, operation: str, kind: str, *, within: timedelta, beside: bool = False) -> None:
        """Its idempotency key makes it one."""
        async with self._db.begin() as session:
            before = (await session.execute(_FILED, {"id": operation})).mappings().one()
            new = operations.NewOperation(
                kind=kind, within=within * self._patience, lifecycle=False, beside=beside,
                idempotency_key=f"{kind} after {operation}", request_hash="", **before,
            )
            with suppress(operations.Replayed, operations.KeyReused):
                await operations.file(session, new, None)

    async def heartbeat(self, instance: str) -> dict[str, Any] | None:
        return await self._one(
            text("SELECT engine, facts, received_at FROM heartbeats WHERE instance_id = :instance"), instance=instance,
        )

    async def operation(self, operation: str) -> dict[str, Any]:
        row = await self._one(
            text("SELECT state, guest_state, guest_result, guest_code, guest_text FROM operations WHERE id = :id"),
            id=operation,
        )
        if row is None:
            raise GiveUp("no_operation", "the operation has no row")
        return row

    async def set_guest_state(self, operation: str, state: str) -> None:
        """Only forward: a terminal state that arrived meanwhile stays."""
        async with self._db.begin() as session:
            await session.execute(
                text("UPDATE operations SET guest_state = :state "
                     "WHERE id = :id AND guest_state NOT IN ('done', 'failed', 'cancelled')"),
                {"id": operation, "state": state},
            )

    async def note_root_enabled(self, instance: str, operation: str) -> None:
        """The time is the operation's filing, so that noting it twice finds it noted."""
        async with self._db.begin() as session:
            await session.execute(
                text("INSERT INTO root_history (instance_id, user_id, enabled_at) "
                     "SELECT o.instance_id, o.user_id, o.created_at FROM operations o WHERE o.id = :id "
                     "AND NOT EXISTS (SELECT FROM root_history h WHERE h.instance_id = o.instance_id "
                     "AND h.enabled_at = o.created_at)"),
                {"id": operation},
            )
            await session.execute(
                text("UPDATE instances i SET root_enabled_at = coalesce(i.root_enabled_at, o.created_at), "
                     "root_enabled_by = coalesce(i.root_enabled_by, o.user_id) "
                     "FROM operations o WHERE o.id = :id AND i.id = :instance"),
                {"id": operation, "instance": instance},
            )

    async def new_bootstrap(self, instance: str, *, secret_hash: bytes, nkey: str, expires_at: float) -> None:
        """Record a one-time credential; an earlier one stops working. The same again only lengthens its life: used, it
        stays used."""
        async with self._db.begin() as session:
            await session.execute(
                text("INSERT INTO guests (instance_id, agent_version, boot_hash, boot_nkey, boot_expires_at) "
                     "VALUES (:instance, '', :hash, :nkey, :expires) ON CONFLICT (instance_id) DO UPDATE SET "
                     "boot_hash = :hash, boot_nkey = :nkey, boot_expires_at = :expires, "
                     "boot_used_at = CASE WHEN guests.boot_hash = :hash THEN guests.boot_used_at END"),
                {"instance": instance, "hash": secret_hash, "nkey": nkey,
                 "expires": datetime.fromtimestamp(expires_at, UTC)},
            )

    async def revoke_guest(self, instance: str, reason: str) -> None:
        async with self._db.begin() as session:
            guest = await _held(session, instance)
            if guest is not None:
                await self._revoke(session, instance, (guest["nkey"], guest["nkey_old"], guest["boot_nkey"]), reason)
                await session.execute(_GONE, {"instance": instance})

    # --- enrolment and requests ---

    async def guest(self, instance: str) -> dict[str, Any] | None:
        return await self._one(
            text("SELECT g.*, i.allowed_cidrs, i.deleted_at FROM guests g JOIN instances i ON i.id = g.instance_id "
                 "WHERE g.instance_id = :instance"),
            instance=instance,
        )

    async def enrol(self, instance: str, *, secret_hash: bytes, xpub: bytes, nkey: str, version: str) -> bool:
        """Take the one-time credential and store the guest's keys, or confirm that the same guest asks again.

        False when it is not to be had: wrong secret, expired, revoked, or used by other keys (which is recorded)."""
        async with self._db.begin() as session:
            guest = await _held(session, instance)
            if guest is None or guest["boot_hash"] is None or not compare_digest(guest["boot_hash"], secret_hash):
                return False
            again = guest["xpub"] == xpub and guest["nkey"] == nkey
            if guest["boot_used_at"] is not None and not again:
                await session.execute(_STOLEN, {"instance": instance})
                return False
            if guest["gone"] or guest["expired"] or not (again or await _free(session, instance, nkey)):
                return False
            if not again:  # an agent that lost its identity and was given another credential
                await self._revoke(session, instance, (guest["nkey"], guest["nkey_old"]), "replaced")
            await session.execute(_ENROL, {"instance": instance, "xpub": xpub, "nkey": nkey, "version": version})
        return True

    async def set_jwt_expiry(self, instance: str, expires_at: float) -> None:
        async with self._db.begin() as session:
            await session.execute(
                text("UPDATE guests SET jwt_expires_at = :at WHERE instance_id = :instance"),
                {"instance": instance, "at": datetime.fromtimestamp(expires_at, UTC)},
            )

    async def rotate(self, instance: str, *, heard: bytes, xpub: bytes, nkey: str) -> bool:
        """Both key pairs open from now on; the old NATS user is revoked when the new one is first heard.

        `heard`: the key that the request was sealed under. It stays valid: the answer may be lost. Every other key that
        is pushed out is revoked here. False unless both keys are new, or both are those of the last rotation."""
        async with self._db.begin() as session:
            guest = await _held(session, instance)
            if guest is None or guest["gone"] or heard not in {guest["xpub"], guest["xpub_old"]}:
                return False
            if guest["xpub"] == xpub and guest["nkey"] == nkey:
                return True
            own = {guest["nkey"], guest["nkey_old"], guest["boot_nkey"]}
            if xpub in {guest["xpub"], guest["xpub_old"]} or nkey in own or not await _free(session, instance, nkey):
                return False
            kept, pushed_out = ("", "_old") if heard == guest["xpub"] else ("_old", "")
            await self._revoke(session, instance, (guest[f"nkey{pushed_out}"],), "replaced")
            await session.execute(_ROTATE, {
                "instance": instance, "xpub": xpub, "nkey": nkey,
                "xpub_old": guest[f"xpub{kept}"], "nkey_old": guest[f"nkey{kept}"],
            })
        return True

    async def retire_old_keys(self, instance: str, heard: bytes) -> None:
        """The guest was heard under `heard`: if that is its present key, the ones before, and the bootstrap's, open
        nothing any more."""
        async with self._db.begin() as session:
            guest = await _held(session, instance)
            if guest is None or guest["xpub"] != heard:
                return
            await self._revoke(session, instance, (guest["nkey_old"], guest["boot_nkey"]), "replaced")
            await session.execute(_RETIRE, {"instance": instance})

    async def _revoke(self, session: AsyncSession, instance: str, nkeys: Iterable[str | None], reason: str) -> None:
        expires_at = datetime.now(UTC) + self._jwt_life
        for nkey in nkeys:
            if nkey is not None:
                await revoke(session, nkey, instance=instance, expires_at=expires_at, reason=reason)

    async def _one(self, statement: Any, **values: Any) -> dict[str, Any] | None:
        async with self._db.begin() as session:
            row = (await session.execute(statement, values)).mappings().first()
        return dict(row) if row is not None else None


async def _held(session: AsyncSession, instance: str) -> RowMapping | None:
    """The guest's row, locked until the transaction ends."""
    return (await session.execute(_HELD, {"instance": instance})).mappings().first()


async def _free(session: AsyncSession, instance: str, nkey: str) -> bool:
    """Whether no other guest has the nkey: revoking this guest would throw that one out. Nor a revoked one."""
    return (await session.execute(_CLAIMED, {"instance": instance, "nkey": nkey})).first() is None
