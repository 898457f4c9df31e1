"""The secrets of an installation: made once on the first start, and laid out so that each service gets its own alone.

Everything is kept in one file, `operator/foundation.json`, which no service mounts; all other files follow from it
and are written anew by every run. Losing that file loses the means to issue; copy it to a safe place.

    <state>/<service>/database-password, ca.pem, key, guests.creds, control.creds, ...   read by <service> only
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import bcrypt
import msgspec

from coffer_manage import authority
from coffer_provisioner.account import TEMPLATES, AccountName, account_claims, server_config
from coffer_provisioner.issuer import service_credentials
from coffer_shared import jwt, keyset
from coffer_shared.nkeys import Kind, NKey
from coffer_shared.seal import KeyPair

YEAR = 365 * 24 * 3600
SERVICE_UID = 10001
POSTGRES_UID = 999

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
DEVELOPMENT_USERS = (("admin", "admin", "admin"), ("demo", "demo", "member"), ("other", "other", "member"))
"""name, project, roles of the users that the first start makes."""


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


def lay(state: Path, *, nats_urls: tuple[str, ...], renewal_url: str) -> bool:
    """Make what is missing and write every service's files. Whether this was the first time."""
    path = state / "operator" / "foundation.json"
    first = not path.exists()
    if first:
        _write(path, msgspec.json.encode(_draw()), uid=0)
    found = msgspec.json.decode(path.read_bytes(), type=Foundation)
    for service, files in _files(found, nats_urls, renewal_url).items():
        uid = POSTGRES_UID if service == "postgres" else 0 if service == "operator" else SERVICE_UID
        for name, content in files.items():
            _write(state / service / name, content, uid=uid)
    return first


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
    )


def _files(found: Foundation, nats_urls: tuple[str, ...], renewal_url: str) -> dict[str, dict[str, bytes]]:
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

    base = {
        service: {
            "database-password": found.database_passwords[service].encode(),
            "ca.pem": found.authority_cert.encode(),
        }
        for service in DATABASE_ROLES
    }
    for service, pair in keys.items():
        base[service] |= {
            "key": pair.private.hex().encode(),
            "control.creds": creds("CTL", service),
            **trusted,
        }
    for service in ("api", "provisioner", "status-collector"):
        base[service]["guests.creds"] = creds("GUESTS", service)
    guest_seed = found.signing["GUESTS"]["guest"].encode()
    base["api"] |= {"master.pub": master_public.encode(), "htpasswd": _htpasswd(found.users)}
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
        **_server_files(found, ("door", "localhost", "127.0.0.1")),
    }
    base["revoker"] |= {
        "system.creds": creds("SYS", "revoker"),
        "operator-signing.seed": found.operator_signing.encode(),
        "accounts.json": accounts,
    }
    base["postgres"] = {"password": found.database_passwords["postgres"].encode()}
    base["manage"] = {
        "database-password": found.database_passwords["postgres"].encode(),
        "role-passwords.json": msgspec.json.encode(
            {role: found.database_passwords[service] for service, role in DATABASE_ROLES.items()},
        ),
    }
    base["nats"] = _nats(found, public, signers)
    base["operator"] = {"users.json": msgspec.json.encode(
        {name: {"password": found.users[name], "project": project} for name, project, _ in DEVELOPMENT_USERS},
    )}
    return base


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
    return {"server.conf": config.encode(), **_server_files(found, ("nats", "localhost", "127.0.0.1"))}


def _server_files(found: Foundation, names: tuple[str, ...]) -> dict[str, bytes]:
    key, cert = authority.server(found.authority_key, found.authority_cert, names)
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
