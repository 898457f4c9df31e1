"""The secrets of an installation: made once on the first start, and laid out so that each service gets its own alone.

Everything is kept in one file, `operator/foundation.json`, which no service mounts; all other files follow from it
and are written anew by every run, but for the file of users, which is the operator's own once it is there. Losing the
one file loses the means to issue; copy it to a safe place. What an earlier release did not draw yet is added to it;
nothing that is there is ever drawn again.

    <state>/<service>/database-password, ca.pem, key, guests.creds, control.creds, ...   read by <service> only
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import bcrypt
import msgspec

from coffer_db.secrets import MasterKey
from coffer_manage import authority, keystone, object_store
from coffer_provisioner.account import TEMPLATES, AccountName, account_claims, server_config
from coffer_provisioner.issuer import service_credentials
from coffer_shared import jwt, keyset
from coffer_shared.errors import CofferError
from coffer_shared.nkeys import Kind, NKey
from coffer_shared.seal import KeyPair

YEAR = 365 * 24 * 3600
SERVICE_UID = 10001
UIDS: Mapping[str, int] = {"operator": 0, "postgres": 999, "swift": 10001}
"""Whom a service's files belong to, if not to SERVICE_UID."""

DATABASE_ROLES: Mapping[str, str] = {
    "api": "coffer_api",
    "provisioner": "coffer_provisioner",
    "door": "coffer_door",
    "revoker": "coffer_revoker",
    "backup-scheduler": "coffer_scheduler",
    "status-collector": "coffer_collector",
}
SENDS: Mapping[str, tuple[str, ...]] = {
    "api": ("query",),
    "provisioner": ("start", "cancel", "query", "probe"),
    "status-collector": (),
    "backup-scheduler": (),
}
"""Which commands a guest takes from whose key."""
LOCAL = ("localhost", "127.0.0.1")
USER_FILE = "htpasswd"
VERIFIED_EXPORT = "verified-export"
DEVELOPMENT_USERS = (("admin", "admin", "admin"), ("demo", "demo", "member"), ("other", "other", "member"))
"""name, project, roles of the users that the first start makes."""


class FoundationError(CofferError):
    """The file that everything follows from is not whole. Only a copy of it helps."""


class Foundation(msgspec.Struct):
    """What is drawn at random, once."""

    operator: str
    operator_signing: str
    root: str
    """Ed25519 seed that signs key sets, hex."""
    accounts: dict[str, str]
    signing: dict[str, dict[str, str]]
    """Account to role to seed."""
    service_keys: dict[str, str]
    """X25519 private keys, hex."""
    master: str
    authority_key: str
    authority_cert: str
    database_passwords: dict[str, str]
    """By service; "postgres" is the superuser's."""
    users: dict[str, str]
    """Passwords of the development users."""
    store_keys: dict[str, str] = {}
    """Keys of the object store's users, by account and name, such as "demo:demo"."""
    keystone: dict[str, str] = {}
    """Passwords of the users of the stack's own Keystone."""


def lay(
    state: Path, *, nats_urls: tuple[str, ...], renewal_url: str,
    store: object_store.Address | object_store.CloudStore | None = None,
) -> bool:
    """Make what is missing and write every service's files. Whether this was the first time."""
    path = state / "operator" / "foundation.json"
    first = not path.exists()
    kept = None if first else load(state)
    found = _draw() if kept is None else _completed(kept)
    if found != kept:
        _write(path, msgspec.json.encode(found), uid=0)
    for service, files in _files(found, nats_urls, renewal_url, store).items():
        for name, content in files.items():
            if name == USER_FILE and (state / service / name).exists():
                continue  # the operator's own since it was made
            _write(state / service / name, content, uid=UIDS.get(service, SERVICE_UID))
    return first


def adopt(state: Path, master: MasterKey) -> None:
    """Begin an installation with the master key of an earlier one. FoundationError if it has begun with another."""
    path = state / "operator" / "foundation.json"
    if not path.exists():
        drawn = msgspec.structs.replace(_draw(), master=master.private_bytes().hex())
        _write(path, msgspec.json.encode(drawn), uid=0)
    elif (own := master_key(state).public.fingerprint) != master.public.fingerprint:
        raise FoundationError(f"this installation has the master key {own}, under which it may have sealed something")


def note_export(state: Path, fingerprint: str) -> None:
    """An export of that master key was verified; for whoever reaches the database."""
    _write(state / "manage" / VERIFIED_EXPORT, fingerprint.encode(), uid=SERVICE_UID)


def master_key(state: Path) -> MasterKey:
    return MasterKey(bytes.fromhex(load(state).master))


def load(state: Path) -> Foundation:
    """What was drawn; FoundationError if it cannot be read whole."""
    content = (state / "operator" / "foundation.json").read_bytes()
    try:
        return msgspec.json.decode(content, type=Foundation)
    except msgspec.DecodeError as error:
        raise FoundationError(f"operator/foundation.json is damaged: {error}") from None


def expected(found: Foundation) -> dict[str, frozenset[str]]:
    """The files of each service, but for those of the object store, which an installation may lack."""
    laid = {service: frozenset(files) for service, files in _files(found, (), "", None).items()}
    return laid | {"operator": laid["operator"] | {"foundation.json"}}


def _completed(found: Foundation) -> Foundation:
    return msgspec.convert(_merged(msgspec.to_builtins(_draw()), msgspec.to_builtins(found)), Foundation)


def _merged(fresh: dict[str, Any], kept: dict[str, Any]) -> dict[str, Any]:
    """`kept`, and of `fresh` what it lacks, at every depth."""
    return fresh | {
        name: _merged(fresh.get(name, {}), value) if isinstance(value, dict) else value for name, value in kept.items()
    }


def _draw() -> Foundation:
    key, cert = authority.new()
    return Foundation(
        operator=NKey.generate(Kind.OPERATOR).seed,
        operator_signing=NKey.generate(Kind.OPERATOR).seed,
        root=secrets.token_hex(32),
        accounts={name: NKey.generate(Kind.ACCOUNT).seed for name in TEMPLATES},
        signing={
            name: {role: NKey.generate(Kind.ACCOUNT).seed for role in roles} for name, roles in TEMPLATES.items()
        },
        service_keys={service: secrets.token_hex(32) for service in SENDS},
        master=secrets.token_hex(32),
        authority_key=key,
        authority_cert=cert,
        database_passwords={s: secrets.token_urlsafe(32) for s in ("postgres", *DATABASE_ROLES)},
        users={name: secrets.token_urlsafe(18) for name, _, _ in DEVELOPMENT_USERS},
        store_keys={
            user: secrets.token_urlsafe(32)
            for user in (object_store.SETUP, object_store.BACKUP, *map(_store_user, DEVELOPMENT_USERS))
        },
        keystone={name: secrets.token_urlsafe(32) for name in keystone.NAMES},
    )


def _files(
    found: Foundation, nats_urls: tuple[str, ...], renewal_url: str,
    store: object_store.Address | object_store.CloudStore | None,
) -> dict[str, dict[str, bytes]]:
    """Service to file name to content."""
    now = int(time.time())
    public = {name: NKey.from_seed(seed).public for name, seed in found.accounts.items()}
    signers = {a: {r: NKey.from_seed(s) for r, s in roles.items()} for a, roles in found.signing.items()}
    keys = {service: KeyPair.from_private(bytes.fromhex(k)) for service, k in found.service_keys.items()}
    trusted = _trusted(found, keys, now)
    master_public = KeyPair.from_private(bytes.fromhex(found.master)).public.hex()
    accounts = msgspec.json.encode({
        name: {"public": public[name], "signing": {role: [key.public] for role, key in roles.items()}}
        for name, roles in signers.items()
    })

    def creds(account: AccountName, role: str) -> bytes:
        made = service_credentials(role, signers[account][role], public[account], expires_at=now + YEAR)
        return msgspec.json.encode(made)

    base = _database_files(found)
    for service, pair in keys.items():
        base[service] |= {
            "key": pair.private.hex().encode(),
            "control.creds": creds("CTL", service),
            **trusted,
        }
    for service in ("api", "provisioner", "status-collector"):
        base[service]["guests.creds"] = creds("GUESTS", service)
    guest_seed = found.signing["GUESTS"]["guest"].encode()
    base["api"] |= {"master.pub": master_public.encode(), USER_FILE: _htpasswd(found.users)}
    base["provisioner"] |= {
        "master.key": found.master.encode(),
        "guest-signing.seed": guest_seed,
        "boot-signing.seed": found.signing["GUESTS"]["boot"].encode(),
        "accounts.json": accounts,
        "installation.json": msgspec.json.encode({"nats_urls": nats_urls, "renewal_url": renewal_url}),
    }
    base["door"] |= {
        "guest-signing.seed": guest_seed,
        "accounts.json": accounts,
        **_server_files(found, ("door", *LOCAL, *_hosts(renewal_url))),
    }
    base["revoker"] |= {
        "system.creds": creds("SYS", "revoker"),
        "operator-signing.seed": found.operator_signing.encode(),
        "accounts.json": accounts,
    }
    base["nats"] = _nats(found, public, signers) | _server_files(found, ("nats", *LOCAL, *_hosts(*nats_urls)))
    base["operator"] = {"users.json": _known(found), "keystone.json": msgspec.json.encode(found.keystone)}
    base["keystone"] = {"keystone.json": keystone.users_file(found.keystone)}
    base["api-keystone"] = {"clouds.yaml": keystone.service_clouds(found.keystone)}
    if isinstance(store, object_store.CloudStore):
        base["provisioner"]["storage.json"] = object_store.cloud_storage_file(store)
    elif store is not None:
        base["swift"] = {"users.conf": object_store.users_file(_store_users(found))}
        base["provisioner"]["storage.json"] = object_store.storage_file(store, found.store_keys)
    return base


def _database_files(found: Foundation) -> dict[str, dict[str, bytes]]:
    """The database's own password, and each of its users' with the authority that services trust."""
    passwords = found.database_passwords
    base = {
        service: {"database-password": passwords[service].encode(), "ca.pem": found.authority_cert.encode()}
        for service in DATABASE_ROLES
    }
    roles = msgspec.json.encode({role: passwords[service] for service, role in DATABASE_ROLES.items()})
    base["postgres"] = {"password": passwords["postgres"].encode()}
    base["manage"] = {
        "database-password": passwords["postgres"].encode(),
        "role-passwords.json": roles,
        "master-fingerprint": MasterKey(bytes.fromhex(found.master)).public.fingerprint.encode(),
    }
    return base


def _known(found: Foundation) -> bytes:
    """The development users, for `coffer-manage clients`."""
    return msgspec.json.encode({
        user[0]: {
            "password": found.users[user[0]], "project": user[1],
            "store_user": _store_user(user), "store_key": found.store_keys[_store_user(user)],
        }
        for user in DEVELOPMENT_USERS
    })


def _store_user(user: tuple[str, str, str]) -> str:
    name, project, _ = user
    return f"{project}:{name}"


def _store_users(found: Foundation) -> list[object_store.User]:
    groups = {object_store.SETUP: (".reseller_admin",), object_store.BACKUP: ()}
    users = []
    for user in (*groups, *map(_store_user, DEVELOPMENT_USERS)):
        account, _, name = user.partition(":")
        users.append(object_store.User(account, name, found.store_keys[user], groups.get(user, (".admin",))))
    return users


def _trusted(found: Foundation, keys: Mapping[str, KeyPair], now: int) -> dict[str, bytes]:
    """The signed key set and the root that signed it, which every service and guest holds."""
    root = bytes.fromhex(found.root)
    entries = tuple(
        keyset.ServiceKey(
            service=service, public=pair.public.hex(), kinds=SENDS[service], not_before=0, not_after=now + 10 * YEAR,
        )
        for service, pair in keys.items()
    )
    signed = keyset.sign(keyset.KeySet(keys=entries, issued_at=now), root)
    return {"keyset": signed.encode(), "root.pub": keyset.root_public(root).encode()}


def _nats(
    found: Foundation, public: Mapping[str, str], signers: Mapping[AccountName, Mapping[str, NKey]] | Any,
) -> dict[str, bytes]:
    operator, signing = NKey.from_seed(found.operator), NKey.from_seed(found.operator_signing)
    preload = {
        public[name]: account_claims(
            name, public[name], {role: [key.public] for role, key in roles.items()}, signing,
        )
        for name, roles in signers.items()
    }
    config = server_config(
        listen="0.0.0.0:4222",
        server_name="nats-1",
        cert=Path("/etc/coffer/server.pem"),
        key=Path("/etc/coffer/server.key"),
        operator=jwt.operator(operator, name="coffer", system_account=public["SYS"], signing_keys=(signing.public,)),
        system_account=public["SYS"],
        preload=preload,
        accounts_dir=Path("/var/lib/nats/accounts"),
        http="127.0.0.1:8222",
    )
    return {"server.conf": config.encode()}


def _hosts(*urls: str) -> tuple[str, ...]:
    """What guests know the servers by, which their certificates must name."""
    return tuple(host for url in urls if (host := urlsplit(url).hostname) and host not in LOCAL)


def _server_files(found: Foundation, names: tuple[str, ...]) -> dict[str, bytes]:
    key, cert = authority.server(found.authority_key, found.authority_cert, tuple(dict.fromkeys(names)))
    return {"server.key": key.encode(), "server.pem": cert.encode()}


def _htpasswd(users: Mapping[str, str]) -> bytes:
    lines = [
        f"{name}:{bcrypt.hashpw(users[name].encode(), bcrypt.gensalt(10)).decode()}:{project}:{roles}"
        for name, project, roles in DEVELOPMENT_USERS
    ]
    return ("\n".join(lines) + "\n").encode()


def _write(path: Path, content: bytes, *, uid: int) -> None:
    """Whole or not at all, readable by its one owner."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if os.geteuid() == 0:
        os.chown(path.parent, uid, uid)
    path.parent.chmod(0o500 if uid and os.geteuid() == 0 else 0o700)
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400), "wb") as file:
        if os.geteuid() == 0:
            os.fchown(file.fileno(), uid, uid)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
