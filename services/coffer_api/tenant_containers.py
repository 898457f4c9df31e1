"""The container of a project's backups in its own object store, made and opened by the tenant's own token.

What a container carries is the truth: two keys that sign grants, and a line for the provisioner's user in both ACLs.
Its owner may see the keys, so with the owner's token they are read there, sealed, and stored. Keys are drawn only where
there are none of ours. So whoever dies between setting and storing loses nothing: the next request with a token stores
what it finds. Of several at once the last to set wins, and the row is written only by one that has read what the row
does not say yet; the others look again.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Mapping
from urllib.parse import quote

from sqlalchemy import text

from coffer_api.call import Call
from coffer_api.problems import Problem, bad_request, not_found, over_limit
from coffer_api.tenant_cloud import Reply, TenantCloud
from coffer_db.secrets import container_context

STORAGE = "swift"
_READ, _WRITE = "X-Container-Read", "X-Container-Write"
_KEYS = ("X-Container-Meta-Temp-URL-Key", "X-Container-Meta-Temp-URL-Key-2")
_KEY = re.compile(r"[0-9a-f]{64}")
_LOOKS = 6
"""Of which two suffice where nobody else is at it."""
_KNOWN = """
    SELECT digest, opened_at FROM backup_containers WHERE project_id = $1 AND storage = $2 AND name = $3
"""
_OPENED = text("""
    INSERT INTO backup_containers (project_id, storage, name, keys, digest, opened_at)
    VALUES (:project, :storage, :name, :keys, :digest, now())
    ON CONFLICT (project_id, storage, name) DO UPDATE SET keys = :keys, digest = :digest, opened_at = now()
        WHERE backup_containers.digest IS NOT DISTINCT FROM CAST(:seen AS text)
    RETURNING 1
""")
_AGAIN = text("""
    UPDATE backup_containers SET opened_at = now()
    WHERE project_id = :project AND storage = :storage AND name = :name AND digest = :digest
    RETURNING 1
""")
_LOST = text("""
    UPDATE backup_containers SET opened_at = NULL WHERE project_id = :project AND storage = :storage AND name = :name
""")


async def ensure(call: Call, project: str, name: str, *, make: bool = True) -> None:
    """It is there and open to the service, as far as is known; what is not known is looked at and seen to with the
    caller's token. Nothing is asked where it was seen open and has let the service in ever since.

    Problem 404 if it is not there and not to be made, 401 where the caller has no right to the object store."""
    tenants = _tenants(call)
    if tenants is None:
        return
    known = await call.api.reads.one(_KNOWN, project, STORAGE, name)
    if known is not None and known["opened_at"] is not None:
        return
    if call.project != project:
        raise Problem(403, f"The container {name} is opened with a token of the project that it is of, {project}.")
    await _open(call, tenants, name, make=make)


async def is_gone(call: Call, project: str, name: str) -> bool:
    """Whether its owner has removed it, by the caller's token; one that is there is opened if it was closed. False also
    where the token says nothing of it."""
    tenants = _tenants(call)
    if tenants is None or call.project != project:
        return False
    try:
        gone = (await _ask(call, tenants, "HEAD", name)).status == 404
        if not gone:
            await ensure(call, project, name, make=False)
    except Problem:
        return False
    if gone:
        async with call.api.db.begin() as session:
            await session.execute(_LOST, {"project": project, "storage": STORAGE, "name": name})
    return gone


def _tenants(call: Call) -> TenantCloud | None:
    return call.api.tenants if call.api.settings.object_store == "tenant" else None


async def _open(call: Call, tenants: TenantCloud, name: str, *, make: bool) -> None:
    entry = call.api.settings.storage_user or ":".join(await tenants.own_user())
    drawn = (secrets.token_hex(32), secrets.token_hex(32))
    for _ in range(_LOOKS):
        # read before the container: what is written then replaces only what was there before the look
        known = await call.api.reads.one(_KNOWN, call.project, STORAGE, name)
        there = await _ask(call, tenants, "HEAD", name)
        if there.status == 404 and not make:
            raise not_found(f"The container {name} cannot be found in the object store.")
        keys = _ours(there.headers) or drawn
        lacking = _lacking(there.headers, entry, keys)
        if lacking:
            await _ask(call, tenants, "PUT" if there.status == 404 else "POST", name, lacking)
        elif await _store(call, name, keys, None if known is None else known["digest"]):
            return
    raise Problem(503, f"The container {name} is being changed by somebody else; try again.")


def _ours(headers: Mapping[str, str]) -> tuple[str, str] | None:
    """The keys that it carries, if they are such as are drawn here."""
    first, second = (headers.get(header, "") for header in _KEYS)
    return (first, second) if _KEY.fullmatch(first) and _KEY.fullmatch(second) else None


def _lacking(headers: Mapping[str, str], entry: str, keys: tuple[str, str]) -> dict[str, str]:
    """What has to be set. Entries of the tenant's own stay."""
    wanted = dict(zip(_KEYS, keys, strict=True))
    for header in (_READ, _WRITE):
        entries = [each.strip() for each in headers.get(header, "").split(",") if each.strip()]
        if entry not in entries:
            wanted[header] = ",".join([*entries, entry])
    return {header: value for header, value in wanted.items() if headers.get(header) != value}


async def _store(call: Call, name: str, keys: tuple[str, str], seen: str | None) -> bool:
    """Whether the row now says these keys. Not so where it has changed since it was `seen`."""
    place = {"project": call.project, "storage": STORAGE, "name": name, "digest": _digest(keys)}
    async with call.api.db.begin() as session:
        if seen == place["digest"]:
            return (await session.execute(_AGAIN, place)).first() is not None
        sealed = call.api.master.wrap(container_context(call.project, STORAGE, name), {"keys": list(keys)})
        return (await session.execute(_OPENED, {**place, "keys": sealed, "seen": seen})).first() is not None


def _digest(keys: tuple[str, str]) -> str:
    return hashlib.sha256("\n".join(keys).encode()).hexdigest()


async def _ask(
    call: Call, tenants: TenantCloud, method: str, name: str, headers: Mapping[str, str] | None = None,
) -> Reply:
    """2xx, and 404 for a look; anything else is the caller's Problem."""
    path = f"/{quote(name, safe='')}"
    answer = await tenants.ask_store(call.token, call.project, method, path, headers=headers)
    if 200 <= answer.status < 300 or (answer.status == 404 and method == "HEAD"):
        return answer
    if answer.status in {401, 403}:
        raise Problem(401, (
            f"Swift account not accessible for tenant {call.project}: its object store takes a user with a role for "
            "it, such as member or swiftoperator."
        ))
    if answer.status == 404:
        raise not_found(f"Swift is disabled for tenant {call.project}.")
    if answer.status in {413, 507}:
        raise over_limit(f"The object store of tenant {call.project} takes no further container.")
    raise bad_request(f"The object store refuses the container {name}: it answered {answer.status}.")
