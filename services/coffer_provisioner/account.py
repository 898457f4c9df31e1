"""Who may do what in NATS: the permission template of every role, the three accounts, the server's configuration.

Everything here is pure. Keys are kept elsewhere; users are issued by `issuer`, account JWTs published by `revoker`.

An account JWT names the signing keys of its roles; each key can make users of its role only. So a stolen key of the
guests' role makes guests and nothing else, and a service's credential does not reach beyond its row in `TEMPLATES`.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec

from coffer_shared import jwt, subjects
from coffer_shared.jwt import Scope, Template
from coffer_shared.nkeys import NKey

AccountName: TypeAlias = Literal["GUESTS", "CTL", "SYS"]

INSTANCE_TAG = "iid"
GUEST_PAYLOAD = 128 * 1024
SERVICE_PAYLOAD = 1024 * 1024
ENROL_PAYLOAD = 4 * 1024
GUEST_CONNECTIONS = 2
"""One, and a second while a guest changes over to a renewed credential. The revoker keeps guests to it."""

CLAIMS_PAYLOAD = 4 * 1024 * 1024
"""The longest account JWT that can be published; a revocation takes 96 bytes."""

PRELOAD_IAT = 1
"""Older than everything the revoker publishes: a server takes a preloaded JWT that is newer than the one it has
stored, and would so forget the revocations in that."""

_IID = f"{{{{tag({INSTANCE_TAG})}}}}"


class AccountKeys(msgspec.Struct, frozen=True):
    """The public keys of one account: its own, and by role those that make its users."""

    public: str
    signing: dict[str, tuple[str, ...]]


def _service(publish: tuple[str, ...], subscribe: tuple[str, ...]) -> Template:
    return Template(publish=publish, subscribe=subscribe, subscriptions=64, payload=SERVICE_PAYLOAD)


TEMPLATES: Mapping[AccountName, Mapping[str, Template]] = {
    "GUESTS": {
        "guest": Template(
            publish=(f"g.{_IID}.hb", f"g.{_IID}.ev", f"g.{_IID}.req"),
            subscribe=(f"g.{_IID}.cmd", f"g.{_IID}.in.>"),
            answers=1,
            subscriptions=8,
            payload=GUEST_PAYLOAD,
        ),
        "boot": Template(
            publish=(f"e.{_IID}.enrol",),
            subscribe=(f"e.{_IID}.in.>",),
            subscriptions=2,
            payload=ENROL_PAYLOAD,
        ),
        "api": _service(("g.*.cmd",), ("_INBOX.api.>",)),
        "provisioner": _service(
            ("g.*.cmd", "g.*.in.>", "e.*.in.>"),
            (subjects.REQUESTS, subjects.ENROLMENTS, "_INBOX.provisioner.>"),
        ),
        "status-collector": _service(("g.*.in.>",), (subjects.HEARTBEATS, subjects.EVENTS)),
    },
    "CTL": {
        "api": _service((subjects.WAKES,), ("_INBOX.api.>",)),
        "provisioner": _service((subjects.WAKES,), (subjects.WAKES, "_INBOX.provisioner.>")),
        "backup-scheduler": _service((subjects.WAKES,), ("_INBOX.backup-scheduler.>",)),
        "status-collector": _service((subjects.WAKES,), ("_INBOX.status-collector.>",)),
    },
    "SYS": {
        "revoker": Template(
            publish=("$SYS.REQ.>",),
            subscribe=(
                "$SYS.ACCOUNT.*.CONNECT",
                "$SYS.ACCOUNT.*.DISCONNECT",
                "$SYS.SERVER.*.STATSZ",
                "_INBOX.revoker.>",
            ),
            payload=CLAIMS_PAYLOAD,
        ),
    },
}

CAPPED_ROLES = ("guest", "boot")
"""Roles whose users are kept to `GUEST_CONNECTIONS`; the replicas of a service share one user."""


def account_claims(
    name: AccountName,
    public: str,
    signing_keys: Mapping[str, Collection[str]],
    signer: NKey,
    *,
    revocations: Mapping[str, int] | None = None,
    connections: int = -1,
    iat: int = PRELOAD_IAT,
) -> str:
    """The account's JWT, signed by the operator's signing key.

    `signing_keys`: role to the public keys that make its users; two of one role while a signing key is changed.
    `iat` is given by the revoker alone.
    """
    unknown = signing_keys.keys() - TEMPLATES[name].keys()
    if unknown:
        raise ValueError(f"account {name} has no role {', '.join(sorted(unknown))}")
    scopes = [Scope(key, role, TEMPLATES[name][role]) for role, keys in signing_keys.items() for key in keys]
    return jwt.account(
        public, signer, name=name, scopes=scopes, revocations=revocations, connections=connections, iat=iat
    )


def guest_connections(instances: int) -> int:
    """What the GUESTS account allows in all, for that many instances."""
    return GUEST_CONNECTIONS * instances + 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """The routes between NATS servers, which listen on an address that no guest reaches."""

    name: str
    listen: str
    routes: tuple[str, ...]
    """host:port of every server"""
    cert: Path
    key: Path
    ca: Path


def server_config(
    *,
    listen: str,
    server_name: str,
    cert: Path,
    key: Path,
    operator: str,
    system_account: str,
    preload: Mapping[str, str],
    accounts_dir: Path,
    http: str = "",
    log_file: Path | None = None,
    max_connections: int = 20_000,
    cluster: Cluster | None = None,
) -> str:
    """The configuration of one server. `preload`: account to JWT, at least the system account's.

    A preloaded JWT serves a server whose `accounts_dir` is empty. It must be older than any the revoker publishes, as
    `account_claims` makes it by default: a newer one would replace what is stored, with its revocations.
    Without `log_file` the log goes to stderr and somebody else must cap it: refused messages can write 40 MB/s.
    """
    lines = [
        f"listen: {_text(listen)}",
        f"server_name: {_text(server_name)}",
        f"tls {{ cert_file: {_text(cert)}, key_file: {_text(key)}",
        '  handshake_first: true, timeout: 5, min_version: "1.3" }',
        f"operator: {_text(operator)}",
        f"system_account: {_text(system_account)}",
        f'resolver {{ type: full, dir: {_text(accounts_dir)}, allow_delete: true, interval: "15s" }}',
        "resolver_preload {",
        *(f"  {account}: {_text(claims)}" for account, claims in preload.items()),
        "}",
        # Slow enough for every guest returning at once after an outage.
        "authorization { timeout: 10 }",
        f"max_connections: {max_connections}",
        # Room for account JWTs with many revocations; every role's template has its own, smaller limit.
        f"max_payload: {CLAIMS_PAYLOAD}",
        "max_pending: 16MB",
        'write_deadline: "5s"',
        'ping_interval: "30s"',
        "ping_max: 2",
    ]
    if http:
        lines.append(f"http: {_text(http)}")
    if log_file is not None:
        lines += [f"log_file: {_text(log_file)}", "logfile_size_limit: 50MB", "logfile_max_num: 5"]
    if cluster is not None:
        lines += _cluster_lines(cluster)
    return "\n".join(lines) + "\n"


def _cluster_lines(cluster: Cluster) -> list[str]:
    routes = ", ".join(_text(f"nats-route://{route}") for route in cluster.routes)
    return [
        "cluster {",
        f"  name: {_text(cluster.name)}, listen: {_text(cluster.listen)}, no_advertise: true",
        f"  tls {{ cert_file: {_text(cluster.cert)}, key_file: {_text(cluster.key)}",
        f"    ca_file: {_text(cluster.ca)}, verify: true }}",
        f"  routes: [{routes}]",
        "}",
    ]


def _text(value: str | Path) -> str:
    return json.dumps(str(value))
