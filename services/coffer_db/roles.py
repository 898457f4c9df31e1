"""The database roles of the services, and all that each may do. Whoever migrates owns the tables and is none of these.

`GRANTS` is the whole truth: `apply` first takes everything away, so that a grant removed here is removed there.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import asyncpg

from coffer_shared.errors import Refused

_ITERATIONS = 4096


@dataclass(frozen=True, slots=True)
class Grant:
    table: str
    privilege: str
    """select, insert, update, delete; usage for a sequence."""
    columns: tuple[str, ...] = ()
    """Empty: the whole table."""


def _read(*tables: str) -> tuple[Grant, ...]:
    return tuple(Grant(table, "select") for table in tables)


_OPERATION_COLUMNS = (
    "id", "seq", "instance_id", "project_id", "user_id", "request_id", "trace", "kind", "lifecycle", "beside", "args",
    "state",
    "step", "progress", "progress_text", "attempts", "context", "failure_code", "failure_text", "failure_step",
    "cancel_requested", "idempotency_key", "request_hash", "lease_until", "wake_at", "deadline", "guest_state",
    "guest_result", "guest_code", "guest_text", "created_at", "updated_at", "finished_at",
)
"""All but the sealed arguments and the lease token."""

_GUEST_PUBLIC = ("instance_id", "xpub", "xpub_old", "jwt_expires_at", "agent_version", "revoked_at", "created_at")

_CATALOGUE = (
    "datastores", "datastore_versions", "flavors", "version_flavors", "version_volume_types",
    "configuration_parameters",
)
_CHANGE = ("select", "insert", "update", "delete")

_BACKUP_PUBLIC = (
    "id", "project_id", "instance_id", "operation_id", "name", "description", "parent_id", "datastore_version_id",
    "state", "storage", "container", "prefix", "location", "manifest_sha256", "raw_bytes", "stored_bytes", "segments",
    "volume_gib", "fs_uuid", "position", "tools", "failure_text", "created_at", "updated_at", "completed_at",
    "deleted_at",
)
"""All but the wrapped data key."""

_FILES_OPERATIONS = (
    Grant("operations", "select", _OPERATION_COLUMNS),
    Grant("operations", "insert"),
    Grant("operation_seq", "usage"),
)

GRANTS: dict[str, tuple[Grant, ...]] = {
    "coffer_api": (
        *_read(*_CATALOGUE, "instances", "heartbeats", "operation_events", "root_history"),
        Grant("instances", "insert"),
        Grant("instances", "update", ("name", "updated_at", "reset_at", "failed", "configuration_id")),
        *_FILES_OPERATIONS,
        Grant("operations", "update", ("cancel_requested", "wake_at", "updated_at")),
        Grant("guests", "select", _GUEST_PUBLIC),
        Grant("backups", "select", _BACKUP_PUBLIC),
        Grant("backups", "insert", (
            "id", "project_id", "instance_id", "operation_id", "name", "description", "parent_id",
            "datastore_version_id", "state", "storage", "container", "prefix", "position", "tools",
        )),
        Grant("backups", "update", ("state", "updated_at")),
        # keys are drawn here and sealed; they cannot be read back
        Grant("backup_containers", "select", ("project_id", "storage", "name", "digest", "opened_at")),
        Grant("backup_containers", "insert"),
        Grant("backup_containers", "update", ("keys", "digest", "opened_at")),
        *(
            Grant(table, right)
            for table in ("backup_strategies", "configurations", "project_quotas", "request_rates")
            for right in _CHANGE
        ),
        # what administrators manage
        *(
            Grant(table, right)
            for table in ("datastores", "datastore_versions", "configuration_parameters")
            for right in ("insert", "update", "delete")
        ),
        *(Grant(table, "delete") for table in ("version_flavors", "version_volume_types")),
    ),
    "coffer_provisioner": (
        *_read(*_CATALOGUE, "instances", "heartbeats", "operations", "operation_events", "guests", "revocations",
               "root_history", "configurations"),
        Grant("instances", "update", (
            "name", "flavor_id", "datastore_version_id", "volume_gib", "volume_type", "formatted", "started_once",
            "availability_zone", "is_public", "allowed_cidrs", "addresses", "server_id", "volume_id",
            "root_enabled_at", "root_enabled_by", "configuration_id", "failed", "fault_message", "fault_details",
            "fault_at", "updated_at", "deleted_at",
        )),
        Grant("operations", "insert"),
        Grant("operations", "update"),
        Grant("operation_seq", "usage"),
        Grant("guests", "insert"),
        Grant("guests", "update"),
        Grant("heartbeats", "delete"),
        Grant("revocations", "insert"),
        Grant("revocations", "update"),
        Grant("root_history", "insert"),
        Grant("root_history_id_seq", "usage"),
        *_read("backups", "project_keys", "backup_containers"),
        Grant("backups", "update", (
            "state", "location", "data_key", "grant_until", "manifest_sha256", "raw_bytes", "stored_bytes", "segments",
            "volume_gib", "fs_uuid", "position", "tools", "failure_text", "updated_at", "completed_at", "deleted_at",
        )),
        Grant("project_keys", "insert"),
        Grant("backup_containers", "insert"),
        Grant("backup_containers", "update", ("opened_at",)),
        *(Grant("orphans", right) for right in _CHANGE),
    ),
    "coffer_revoker": (
        *_read("revocations", "account_writes"),
        Grant("guests", "select", ("instance_id", "nkey", "nkey_old", "revoked_at")),
        Grant("account_writes", "insert"),
        Grant("account_writes", "update"),
    ),
    "coffer_door": (
        Grant("guests", "select", ("instance_id", "nkey", "nkey_old", "revoked_at")),
        Grant("instances", "select", ("id", "deleted_at")),
        Grant("revocations", "select", ("nkey",)),
    ),
    "coffer_scheduler": (
        *_read(*_CATALOGUE, "instances", "heartbeats"),
        *_FILES_OPERATIONS,
        # its housekeeping: locked before they are removed, so that two schedulers take different ones
        *_read("revocations", "operation_events"),
        *(Grant(table, right) for table in ("revocations", "operation_events") for right in ("update", "delete")),
    ),
    "coffer_collector": (
        *_read(*_CATALOGUE, "instances", "heartbeats", "operation_events", "marks"),
        Grant("heartbeats", "insert"),
        Grant("heartbeats", "update"),
        Grant("operation_events", "insert"),
        Grant("operations", "select", _OPERATION_COLUMNS),
        Grant("operations", "update", (
            "progress", "progress_text", "guest_state", "guest_result", "guest_code", "guest_text", "wake_at",
            "updated_at",
        )),
        Grant("guests", "select", _GUEST_PUBLIC),
    ),
}


async def apply(admin_connection: asyncpg.Connection[Any], passwords: Mapping[str, str]) -> None:
    """Make the roles and give each exactly its grants; run it again after every migration.

    `passwords` is by role; a role that it does not name keeps the one it has. The server is given SCRAM verifiers, so
    that a password is in no statement and in no log.
    """
    unknown = passwords.keys() - GRANTS.keys()
    if unknown:
        raise Refused("unknown_role", f"no such roles: {', '.join(sorted(unknown))}")
    database = await admin_connection.fetchval("SELECT quote_ident(current_database())")
    async with admin_connection.transaction():
        # two processes that start at once would otherwise both make the same role
        await admin_connection.execute("SELECT pg_advisory_xact_lock(hashtextextended('coffer roles', 0))")
        await admin_connection.execute(f"REVOKE ALL ON DATABASE {database} FROM PUBLIC")
        await admin_connection.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
        for role, grants in GRANTS.items():
            await _make(admin_connection, role, passwords.get(role))
            for statement in _statements(role, database, grants):
                await admin_connection.execute(statement)


async def differences(connection: asyncpg.Connection[Any]) -> list[str]:
    """How the rights of the roles differ from `GRANTS`, a line each; empty when they do not."""
    wanted = {
        (role, grant.table, grant.privilege, column)
        for role, grants in GRANTS.items() for grant in grants for column in grant.columns or ("",)
    } | {(role, "alembic_version", "select", "") for role in GRANTS}
    there = {tuple(row) for row in await connection.fetch(_RIGHTS, list(GRANTS))}
    return [f"missing: {_right(*right)}" for right in sorted(wanted - there)] + [
        f"not meant: {_right(*right)}" for right in sorted(there - wanted)
    ]


def _right(role: str, table: str, privilege: str, column: str) -> str:
    return f"{role} {privilege} on {table}" + (f" ({column})" if column else "")


async def _make(connection: asyncpg.Connection[Any], role: str, password: str | None) -> None:
    exists = await connection.fetchval("SELECT true FROM pg_roles WHERE rolname = $1", role)
    if not exists:
        await connection.execute(f"CREATE ROLE {role} LOGIN")
    if password is not None:
        # a verifier is base64, '$' and ':', so it needs no quoting
        await connection.execute(f"ALTER ROLE {role} LOGIN PASSWORD '{scram_verifier(password)}'")
    await connection.execute(f"ALTER ROLE {role} SET idle_in_transaction_session_timeout = '60s'")


def _statements(role: str, database: str, grants: tuple[Grant, ...]) -> list[str]:
    statements = [
        f"REVOKE ALL ON ALL TABLES IN SCHEMA public FROM {role}",
        f"REVOKE ALL ON ALL SEQUENCES IN SCHEMA public FROM {role}",
        f"GRANT CONNECT ON DATABASE {database} TO {role}",
        f"GRANT USAGE ON SCHEMA public TO {role}",
        f"GRANT SELECT ON alembic_version TO {role}",
    ]
    for grant in grants:
        columns = f" ({', '.join(grant.columns)})" if grant.columns else ""
        kind = "SEQUENCE " if grant.privilege == "usage" else ""
        statements.append(f"GRANT {grant.privilege}{columns} ON {kind}{grant.table} TO {role}")
    return statements


def scram_verifier(password: str, salt: bytes | None = None) -> str:
    """What PostgreSQL stores of a password (RFC 5803). Printable ASCII only, which needs no normalisation."""
    if not password or not all(" " <= character <= "~" for character in password):
        raise Refused("bad_password", "a role's password must be printable ASCII")
    salt = secrets.token_bytes(16) if salt is None else salt
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, _ITERATIONS)
    client = hmac.digest(salted, b"Client Key", "sha256")
    server = hmac.digest(salted, b"Server Key", "sha256")
    stored = hashlib.sha256(client).digest()
    salt_text, stored_text, server_text = (base64.b64encode(part).decode() for part in (salt, stored, server))
    return f"SCRAM-SHA-256${_ITERATIONS}:{salt_text}${stored_text}:{server_text}"


_RIGHTS = """
    SELECT r.rolname, c.relname, lower(a.privilege_type), ''
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = 'public'
    CROSS JOIN LATERAL aclexplode(c.relacl) a JOIN pg_roles r ON r.oid = a.grantee
    WHERE r.rolname = ANY($1)
    UNION ALL
    SELECT r.rolname, c.relname, lower(a.privilege_type), t.attname
    FROM pg_attribute t JOIN pg_class c ON c.oid = t.attrelid
    JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = 'public'
    CROSS JOIN LATERAL aclexplode(t.attacl) a JOIN pg_roles r ON r.oid = a.grantee
    WHERE r.rolname = ANY($1)
"""
