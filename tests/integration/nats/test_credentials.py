"""Which credentials the server takes, and what each issued role may do: the whole table, allowed and denied."""

import base64
import subprocess
import time
import uuid
from typing import Any

import msgspec
import pytest
from nats.errors import Error as NatsError

from coffer_provisioner.account import TEMPLATES, Cluster, account_claims, guest_connections
from coffer_provisioner.issuer import Issuer, service_credentials
from coffer_shared import jwt
from coffer_shared.identity import Credentials
from coffer_shared.jwt import from_base64, to_base64
from coffer_shared.nkeys import Kind, NKey
from support.nats_server import NatsServer, binary

from .conftest import Enter

IID, OTHER = str(uuid.uuid5(uuid.NAMESPACE_OID, "one")), str(uuid.uuid5(uuid.NAMESPACE_OID, "other"))
EVERYTHING = {"pub": {"allow": [">"]}, "sub": {"allow": [">"]}, "subs": -1, "data": -1, "payload": -1}


def forged_user(server: NatsServer, signer: NKey, user: NKey, **nats: Any) -> Credentials:
    body = {"type": "user", "version": 2, "issuer_account": server.keys.accounts["GUESTS"].public, **nats}
    return Credentials(jwt.encode({"sub": user.public, "name": "x", "nats": body}, signer), user.seed)


def _rogue_account(server: NatsServer) -> Credentials:
    return forged_user(server, NKey.generate(Kind.ACCOUNT), NKey.generate(Kind.USER), **EVERYTHING)


def _self_signed(server: NatsServer) -> Credentials:
    user = NKey.generate(Kind.USER)
    return forged_user(server, user, user, **EVERYTHING)


def _scoped_key_with_permissions(server: NatsServer) -> Credentials:
    return forged_user(server, server.keys.signing["GUESTS"]["guest"], NKey.generate(Kind.USER), **EVERYTHING)


def _account_identity_key(server: NatsServer) -> Credentials:
    return forged_user(server, server.keys.accounts["GUESTS"], NKey.generate(Kind.USER), **EVERYTHING)


def _edited(server: NatsServer, change: Any) -> Credentials:
    real = server.guest_creds(IID)
    head, body, signature = real.jwt.split(".")
    claims = msgspec.json.decode(from_base64(body))
    change(claims)
    return Credentials(f"{head}.{to_base64(msgspec.json.encode(claims))}.{signature}", real.seed)


def _edited_tag(server: NatsServer) -> Credentials:
    return _edited(server, lambda claims: claims["nats"].update(tags=[f"iid:{OTHER}"]))


def _edited_expiry(server: NatsServer) -> Credentials:
    return _edited(server, lambda claims: claims.update(exp=2**33))


def _algorithm_none(server: NatsServer) -> Credentials:
    real = server.guest_creds(IID)
    head = to_base64(b'{"typ":"JWT","alg":"none"}')
    return Credentials(f"{head}.{real.jwt.split('.')[1]}.", real.seed)


def _without_the_seed(server: NatsServer) -> Credentials:
    return Credentials(server.guest_creds(IID).jwt, NKey.generate(Kind.USER).seed)


def _bearer(server: NatsServer) -> Credentials:
    signer = server.keys.signing["GUESTS"]["guest"]
    made = forged_user(server, signer, NKey.generate(Kind.USER), tags=[f"iid:{IID}"], bearer_token=True)
    return Credentials(made.jwt, NKey.generate(Kind.USER).seed)


def _expired(server: NatsServer) -> Credentials:
    return server.guest_creds(IID, ttl=-5)


def _guest_key_in_another_account(server: NatsServer) -> Credentials:
    return service_credentials("x", server.keys.signing["GUESTS"]["guest"], server.keys.accounts["CTL"].public)


def _guest_key_for_the_system_account(server: NatsServer) -> Credentials:
    return service_credentials("x", server.keys.signing["GUESTS"]["guest"], server.keys.accounts["SYS"].public)


@pytest.mark.parametrize(
    "make",
    [
        _rogue_account, _self_signed, _scoped_key_with_permissions, _account_identity_key, _edited_tag, _edited_expiry,
        _algorithm_none, _without_the_seed, _bearer, _expired, _guest_key_in_another_account,
        _guest_key_for_the_system_account,
    ],
    ids=lambda make: make.__name__.strip("_"),
)  # fmt: skip
async def test_refused(server: NatsServer, enter: Enter, make: Any) -> None:
    with pytest.raises(NatsError, match=r"(?i)authorization|authentication"):
        await enter(make(server))


async def test_accepted(server: NatsServer, enter: Enter) -> None:
    assert (await enter(server.guest_creds(IID))).client.is_connected


async def test_without_credentials(enter: Enter) -> None:
    with pytest.raises(NatsError, match=r"(?i)authorization"):
        await enter()


async def test_plain_tcp(server: NatsServer, enter: Enter) -> None:
    with pytest.raises((NatsError, OSError, TimeoutError)):
        await enter(server.guest_creds(IID), tls=None, tls_handshake_first=False, connect_timeout=1)


async def test_scoped_user_without_the_tag_has_no_permissions(server: NatsServer, enter: Enter) -> None:
    signer, account = server.keys.signing["GUESTS"]["guest"], server.keys.accounts["GUESTS"].public
    actor = await enter(service_credentials("x", signer, account))

    assert await actor.subscribe_denied(f"g.{IID}.cmd")
    assert await actor.publish_denied(f"g.{IID}.hb")


@pytest.mark.parametrize(
    "instance",
    [
        "*", ">", "", "x", "*.cmd", "g.*", IID.upper(), IID + " ", IID + "\n", " " + IID, IID[:-1], IID + "0",
        IID.replace("-", ""), "{{tag(iid)}}", IID + "." + OTHER,
    ],
)  # fmt: skip
def test_the_issuer_takes_strict_ids_only(server: NatsServer, instance: str) -> None:
    """The server itself accepts `*` as a tag and opens every guest's subjects with it."""
    public = NKey.generate(Kind.USER).public
    with pytest.raises(ValueError):
        server.issuer.guest(instance, public)
    with pytest.raises(ValueError):
        server.issuer.bootstrap(instance)


@pytest.mark.parametrize(
    "public", ["", "*", NKey.generate(Kind.ACCOUNT).public, NKey.generate(Kind.USER).seed],
    ids=["nothing", "all", "an account's", "a seed"],
)
def test_the_issuer_takes_user_keys_only(server: NatsServer, public: str) -> None:
    with pytest.raises(ValueError):
        server.issuer.guest(IID, public)


def test_lifetimes(server: NatsServer) -> None:
    signing, account = server.keys.signing["GUESTS"], server.keys.accounts["GUESTS"].public
    issuer = Issuer(signing["guest"], signing["boot"], account, clock=lambda: 1000.5)
    boot, ends = issuer.bootstrap(IID)
    guest = jwt.decode(issuer.guest(IID, boot.nkey), issuers=[signing["guest"].public])

    assert ends == jwt.decode(boot.jwt, issuers=[signing["boot"].public]).expires_at == 1000 + 15 * 60
    assert (guest.issued_at, guest.expires_at) == (1000, 1000 + 30 * 24 * 3600)
    assert guest.nats["tags"] == [f"iid:{IID}"]
    assert issuer.bootstrap(IID, ttl=5)[1] == 1005
    assert jwt.decode(issuer.guest(IID, boot.nkey, ttl=7)).expires_at == 1007


# Every role against a subject of every other's: what is not in a role's row is denied.
SUBJECTS = [
    f"g.{IID}.cmd", f"g.{IID}.hb", f"g.{IID}.ev", f"g.{IID}.req", f"g.{IID}.in.x", f"g.{OTHER}.cmd", f"g.{OTHER}.hb",
    f"g.{OTHER}.in.x", f"e.{IID}.enrol", f"e.{IID}.in.x", f"e.{OTHER}.enrol", f"e.{OTHER}.in.x", f"ctl.{IID}.wake",
    "ctl.other", "_INBOX.api.x", "_INBOX.provisioner.x", "_INBOX.status-collector.x", "_INBOX.backup-scheduler.x",
    "_INBOX.revoker.x", "_INBOX.x", "$JS.API.INFO", "$SYS.REQ.CLAIMS.UPDATE", "$SYS.ACCOUNT.A.CONNECT",
    "$SYS.ACCOUNT.A.DISCONNECT", "$SYS.SERVER.N.STATSZ", "$SYS.ACCOUNT.A.OTHER",
]  # fmt: skip
ONE, TWO = f"g.{IID}", f"g.{OTHER}"
MAY: dict[tuple[str, str], tuple[set[str], set[str]]] = {
    ("GUESTS", "guest"): ({f"{ONE}.hb", f"{ONE}.ev", f"{ONE}.req"}, {f"{ONE}.cmd", f"{ONE}.in.x"}),
    ("GUESTS", "boot"): ({f"e.{IID}.enrol"}, {f"e.{IID}.in.x"}),
    ("GUESTS", "api"): ({f"{ONE}.cmd", f"{TWO}.cmd"}, {"_INBOX.api.x"}),
    ("GUESTS", "provisioner"): (
        {f"{ONE}.cmd", f"{TWO}.cmd", f"{ONE}.in.x", f"{TWO}.in.x", f"e.{IID}.in.x", f"e.{OTHER}.in.x"},
        {f"{ONE}.req", f"e.{IID}.enrol", f"e.{OTHER}.enrol", "_INBOX.provisioner.x"},
    ),
    ("GUESTS", "status-collector"): ({f"{ONE}.in.x", f"{TWO}.in.x"}, {f"{ONE}.hb", f"{TWO}.hb", f"{ONE}.ev"}),
    ("CTL", "api"): ({f"ctl.{IID}.wake"}, {"_INBOX.api.x"}),
    ("CTL", "provisioner"): ({f"ctl.{IID}.wake"}, {f"ctl.{IID}.wake", "_INBOX.provisioner.x"}),
    ("CTL", "backup-scheduler"): ({f"ctl.{IID}.wake"}, {"_INBOX.backup-scheduler.x"}),
    ("CTL", "status-collector"): ({f"ctl.{IID}.wake"}, {"_INBOX.status-collector.x"}),
    ("SYS", "revoker"): (
        {"$SYS.REQ.CLAIMS.UPDATE"},
        {"$SYS.ACCOUNT.A.CONNECT", "$SYS.ACCOUNT.A.DISCONNECT", "$SYS.SERVER.N.STATSZ", "_INBOX.revoker.x"},
    ),
}


def test_every_role_is_in_the_table_below() -> None:
    assert {(account, role) for account, roles in TEMPLATES.items() for role in roles} == MAY.keys()


@pytest.mark.parametrize(("account", "role"), MAY, ids=[f"{account}-{role}" for account, role in MAY])
async def test_role(server: NatsServer, enter: Enter, account: Any, role: str) -> None:
    publishes, subscribes = MAY[account, role]
    actor = await enter(role_credentials(server, account, role))
    for subject in SUBJECTS:
        await actor.client.publish(subject, b"")
    await actor.settle()
    refused = " ".join(actor.errors)

    assert {subject for subject in SUBJECTS if f'to "{subject.lower()}"' not in refused.lower()} == publishes
    assert {subject for subject in SUBJECTS if not await actor.subscribe_denied(subject)} == subscribes


def role_credentials(server: NatsServer, account: Any, role: str) -> Credentials:
    if role == "guest":
        return server.guest_creds(IID)
    return server.issuer.bootstrap(IID)[0] if role == "boot" else server.service_creds(role, account)


async def test_push_signed_by_the_operators_identity_key(server: NatsServer, enter: Enter) -> None:
    """Stolen from its safe it could still sign operators; accounts take the online key only."""
    revoker = await enter(server.service_creds("revoker", "SYS"), inbox_prefix="_INBOX.revoker")
    claims = server.keys.account_jwt("GUESTS", iat=int(time.time()), signer=server.keys.operator)
    answer = msgspec.json.decode((await revoker.client.request("$SYS.REQ.CLAIMS.UPDATE", claims.encode())).data)

    assert "signing key" in answer["error"]["description"]


async def test_ten_thousand_revocations_fit(server: NatsServer, enter: Enter) -> None:
    revoker = await enter(server.service_creds("revoker", "SYS"), inbox_prefix="_INBOX.revoker")
    fill = "U" + base64.b32encode(bytes(33)).decode().rstrip("=")
    revocations = {f"{fill[:-6]}{number:05}A": 1 for number in range(10_000)}
    claims = server.keys.account_jwt("GUESTS", revocations, iat=int(time.time()))
    answer = msgspec.json.decode(
        (await revoker.client.request("$SYS.REQ.CLAIMS.UPDATE", claims.encode(), timeout=5)).data
    )

    assert answer["data"]["code"] == 200
    await revoker.client.request(
        "$SYS.REQ.CLAIMS.UPDATE", server.keys.account_jwt("GUESTS", iat=int(time.time()) + 1).encode()
    )


def test_claims_know_their_roles(server: NatsServer) -> None:
    with pytest.raises(ValueError, match="nobody"):
        account_claims("CTL", "A", {"nobody": ["A"]}, server.keys.operator_signing)
    assert guest_connections(1000) == 2100


@pytest.mark.parametrize("clustered", [False, True], ids=["one server", "cluster"])
def test_the_server_accepts_its_configuration(server: NatsServer, clustered: bool) -> None:
    files = {name: server.directory / f"{name}.pem" for name in ("cert", "key", "ca")}
    cluster = Cluster(name="coffer", listen="127.0.0.1:0", routes=("127.0.0.1:1",), **files)
    before = server.config.read_text()
    server.write_config(cluster if clustered else None)
    checked = subprocess.run([binary(), "-t", "-c", str(server.config)], capture_output=True, text=True, check=False)
    server.config.write_text(before)

    assert checked.returncode == 0, checked.stderr
