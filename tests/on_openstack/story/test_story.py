"""A tenant's database on a real cloud, from nothing to nothing: each test goes on where the last one ended."""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import nats
import pytest

from coffer_clouds.session import sign_in
from coffer_shared.bus import tls_context
from coffer_shared.identity import UserData, connect_options, decode_user_data
from support.bank import STATIC, Bank
from support.cloud_tenant import Databases, Network, Times, setting
from support.openstack_cli import OpenStack
from support.stack import eventually, psql

pytestmark = pytest.mark.timeout(3000)


@dataclass
class Shop:
    id: str
    password: str = field(repr=False)
    public: str
    bank: Bank
    shown: dict[str, Any]


def _address(shown: dict[str, Any], kind: str) -> str:
    (found,) = (one["address"] for one in shown["addresses"] if one["type"] == kind)
    return str(found)


def _public(shown: dict[str, Any]) -> str:
    return _address(shown, "public")


def _private(shown: dict[str, Any]) -> str:
    return _address(shown, "private")


@pytest.fixture(scope="module")
def shop(databases: Databases) -> Shop:
    """From nothing to healthy."""
    password = secrets.token_urlsafe(18)
    made = databases.create("shop", "--databases", "shop", "--users", f"app:{password}")
    shown = databases.until_healthy(made, "create, until it is healthy")
    public = _public(shown)
    return Shop(made, password, public, Bank(public, "app", password, "shop"), shown)


def _value(shop: Shop, statement: str) -> str:
    return psql(shop.public, "app", shop.password, "shop", statement)


def _reachable(shop: Shop) -> bool:
    return psql(shop.public, "app", shop.password, "shop", "SELECT 1", check=False) == "1"


def test_it_is_reached_through_the_floating_address(shop: Shop, times: Times) -> None:
    times.until("healthy, until a client is let in", lambda: _reachable(shop), minutes=2)
    shop.bank.make(rows=20_000)
    assert _value(shop, "SELECT inet_server_addr()") == _private(shop.shown)


def test_who_is_allowed_is_let_in_and_others_are_not(tenant: OpenStack, shop: Shop, databases: Databases) -> None:
    own = setting("COFFER_TEST_CLIENT_CIDR")
    for ranges, admitted in ((("203.0.113.0/24",), False), (("203.0.113.0/24", own), True)):
        words = [word for one in ranges for word in ("--allowed-cidr", one)]
        said = tenant("database", "instance", "update", shop.id, "--is-public", *words)
        assert said.status == 0, said.text
        databases.until_healthy(shop.id, f"access for {', '.join(ranges)}", minutes=3)
        eventually(lambda admitted=admitted: _reachable(shop) is admitted, within=30, what=f"admitted: {admitted}")


def test_the_tenant_sees_the_instance_and_nothing_under_it(
    tenant: OpenStack, admin: OpenStack, shop: Shop, network: Network,
) -> None:
    for kind in ("server", "volume", "security group"):
        listed = str(tenant.json(*kind.split(), "list"))
        assert shop.id not in listed, f"{kind}: {listed}"
        assert "shop" not in listed, f"{kind}: {listed}"
    # Neutron shows the owner of a network every port on it, whosever it is: of ours the one that has the address there
    ports = [port for port in tenant.json("port", "list", "--long") if shop.id in str(port)]
    assert [port["Fixed IP Addresses"][0]["ip_address"] for port in ports] == [_private(shop.shown)]
    assert tenant.json("port", "show", ports[0]["ID"])["project_id"] != network.project
    floating = tenant.json("floating", "ip", "list")
    assert [one["Floating IP Address"] for one in floating] == [shop.public], "the floating address is the tenant's own"
    servers = admin.json("server", "list", "--all-projects", "--name", "shop", "--long")
    assert len(servers) == 1, "the server is called as the instance is"
    server = admin.json("server", "show", servers[0]["ID"])
    assert server["project_id"] != network.project
    assert f"trove_instance_id_{shop.id}" in server["tags"] or shop.id in str(server["properties"])


def test_the_console_holds_no_secret(admin: OpenStack, shop: Shop) -> None:
    """It is what an operator sees of a machine; nobody logs in there."""
    server = admin.json("server", "list", "--all-projects", "--name", "shop")[0]["ID"]
    console = admin("console", "log", "show", server).text
    assert "coffer-guest" in console, "it is read, and the agent has spoken"
    assert "boot_seed" not in console
    assert shop.password not in console


def _user_data(server: str) -> UserData:
    """As Nova keeps it, and shows it to administrators."""
    session, _ = sign_in(
        setting("COFFER_TEST_CLOUDS_FILE"), setting("COFFER_TEST_ADMIN_CLOUD"), 60, program="tests", why="signing in",
    )
    compute = {"service_type": "compute", "interface": "public"}
    told = session.get(f"/servers/{server}", endpoint_filter=compute, microversion="2.3").json()["server"]
    written = base64.b64decode(told["OS-EXT-SRV-ATTR:user_data"]).removeprefix(b"#cloud-config\n")
    files = {one["path"]: one["content"] for one in json.loads(written)["write_files"]}
    return decode_user_data(base64.b64decode(files["/etc/coffer/user-data.json"]))


def test_what_the_machine_was_started_with_opens_nothing_any_more(admin: OpenStack, shop: Shop) -> None:
    server = admin.json("server", "list", "--all-projects", "--name", "shop")[0]["ID"]
    data = _user_data(server)
    assert data.instance == shop.id

    async def knock() -> None:
        client = await nats.connect(
            data.nats_urls[0], allow_reconnect=False, max_reconnect_attempts=1, connect_timeout=10,
            tls=tls_context(data.ca), tls_handshake_first=True, **connect_options(data.boot),
        )
        await client.close()

    with pytest.raises(nats.errors.Error, match="(?i)authorization violation"):
        asyncio.run(knock())


def test_nothing_under_it_is_reached_from_the_database(tenant: OpenStack, shop: Shop) -> None:
    """By a program of the database's own superuser, which tenants may have. The first one shows that it would tell."""
    own, site = "127.0.0.1/5432", setting("COFFER_SITE_ADDRESS")
    targets = [own, "169.254.169.254/80", *(f"{site}/{port}" for port in (22, 4222, 5000, 8443))]
    script = (
        f'for t in {" ".join(targets)}; do (timeout 5 bash -c "exec 3<>/dev/tcp/$t" 2>/dev/null && echo $t) & done; '
        "wait"
    )
    root = tenant.json("database", "root", "enable", shop.id)
    try:
        said = psql(
            shop.public, root["name"], root["password"], "shop",
            f"CREATE TEMP TABLE reached (target text); COPY reached FROM PROGRAM '{script}'; TABLE reached",
        )
    finally:
        assert tenant("database", "root", "disable", shop.id).status == 0
    assert said.split() == [own]


def _back_up(tenant: OpenStack, shop: Shop, times: Times, name: str, *more: str) -> str:
    """Under a writer, who goes on."""
    shop.bank.start_writing(seconds=900)
    try:
        before = shop.bank.last()
        made = tenant.json("database", "backup", "create", name, "--instance", shop.id, *more)["id"]

        def completed() -> bool:
            shown = tenant.json("database", "backup", "show", made)
            assert shown["status"] != "FAILED", shown
            return bool(shown["status"] == "COMPLETED")

        times.until(f"backup {' '.join((name, *more))}, until it is completed", completed, minutes=8)
        eventually(lambda: shop.bank.last() > before, within=60, what="the writer goes on")
    finally:
        shop.bank.stop_writing()
    return str(made)


def _drop_backup(tenant: OpenStack, backup: str) -> None:
    said = tenant("database", "backup", "delete", backup)
    assert said.status == 0, said.text
    eventually(
        lambda: backup not in tenant("database", "backup", "list", "-f", "json").text, within=300, what="it is gone",
    )


def _is_equal(there: Bank, shop: Shop) -> None:
    """What was written before the backup is there, up to a moment, and nothing else."""
    eventually(lambda: there.value("SELECT 1") == "1", within=60, what="the copy lets its user in")
    assert there.value(STATIC) == shop.bank.value(STATIC)
    ledger = there.ledger()
    assert ledger, "the writer had begun"
    assert ledger == shop.bank.ledger()[: len(ledger)]
    assert there.wrong_accounts() == 0


@pytest.fixture(scope="module")
def backup(tenant: OpenStack, shop: Shop, times: Times) -> Iterator[str]:
    made = _back_up(tenant, shop, times, "night")
    yield made
    _drop_backup(tenant, made)


def test_the_backup_is_in_the_tenants_own_account(tenant: OpenStack, backup: str) -> None:
    container = tenant.json("database", "backup", "show", backup)["locationRef"].split("/")[-5:]
    names = [one["Name"] for one in tenant.json("container", "list")]
    found = [one["Name"] for name in names for one in tenant.json("object", "list", name)]
    assert any(backup in name for name in found), f"{container}: {found}"


def test_it_is_restored_into_another_instance_and_equal(
    tenant: OpenStack, shop: Shop, backup: str, databases: Databases,
) -> None:
    copy = databases.create("copy", "--backup", backup)
    shown = databases.until_healthy(copy, "restore, until it is healthy", minutes=25)
    _is_equal(Bank(_public(shown), "app", shop.password, "shop"), shop)
    databases.delete(copy)


def test_a_snapshot_of_the_volume_becomes_another_instance(
    tenant: OpenStack, admin: OpenStack, shop: Shop, databases: Databases, times: Times,
) -> None:
    made = _back_up(tenant, shop, times, "still", "--storage-driver", "cinder")
    name = f"trove-{made}-backup"
    assert tenant.json("database", "backup", "show", made)["locationRef"].startswith("cinder://")
    assert name in str(admin.json("volume", "snapshot", "list", "--all-projects"))
    assert tenant.json("volume", "snapshot", "list") == []
    twin = databases.create("twin", "--backup", made)
    shown = databases.until_healthy(twin, "restore of the snapshot, until it is healthy", minutes=25)
    _is_equal(Bank(_public(shown), "app", shop.password, "shop"), shop)
    databases.delete(twin)
    _drop_backup(tenant, made)
    assert name not in str(admin.json("volume", "snapshot", "list", "--all-projects"))


def test_the_volume_grows_while_it_is_written_to(tenant: OpenStack, shop: Shop, databases: Databases) -> None:
    shop.bank.start_writing(seconds=900)
    try:
        before = shop.bank.last()
        said = tenant("database", "instance", "resize", "volume", shop.id, "2")
        assert said.status == 0, said.text
        shown = databases.until_healthy(shop.id, "volume of 1 GiB grown to 2", minutes=6)
        assert shown["volume"] == 2 or "2" in str(shown["volume"])
        last = shop.bank.last()
        assert last > before
        eventually(lambda: shop.bank.last() > last, within=60, what="the writer goes on")
    finally:
        shop.bank.stop_writing()
    assert shop.bank.wrong_accounts() == 0


def test_the_flavor_is_changed(tenant: OpenStack, admin: OpenStack, shop: Shop, databases: Databases) -> None:
    kept, before = shop.bank.value(STATIC), shop.bank.value("SHOW shared_buffers")
    flavor = setting("COFFER_TEST_OTHER_FLAVOR")
    said = tenant("database", "instance", "resize", "flavor", shop.id, flavor)
    assert said.status == 0, said.text
    databases.until_healthy(shop.id, "flavor resized, until it is healthy", minutes=20)
    eventually(lambda: _reachable(shop), within=60, what="clients are let in again")
    assert shop.bank.value(STATIC) == kept
    assert shop.bank.value("SHOW shared_buffers") != before
    server = admin.json("server", "list", "--all-projects", "--name", "shop", "--long")[0]
    assert flavor in {server.get("Flavor Name"), server.get("Flavor"), server.get("Flavor ID")}
    assert server["Status"] == "ACTIVE", "the new size is confirmed"


def test_the_machine_is_rebuilt_and_the_data_kept(admin: OpenStack, shop: Shop, databases: Databases) -> None:
    kept = shop.bank.value(STATIC)
    image = admin.json("image", "list", "--tag", "coffer-guest", "--sort", "created_at:desc")[0]["ID"]
    said = admin("database", "instance", "rebuild", shop.id, image)
    assert said.status == 0, said.text
    databases.until_healthy(shop.id, "rebuilt, until it is healthy", minutes=25)
    eventually(lambda: _reachable(shop), within=60, what="clients are let in again")
    assert shop.bank.value(STATIC) == kept
    assert shop.bank.wrong_accounts() == 0


def test_deleting_leaves_nothing_in_any_project(
    admin: OpenStack, shop: Shop, databases: Databases, network: Network,
) -> None:
    databases.delete(shop.id)
    for words in (
        ("server", "list", "--all-projects"), ("volume", "list", "--all-projects"), ("port", "list", "--long"),
        ("security", "group", "list"), ("floating", "ip", "list", "--long"),
        ("volume", "snapshot", "list", "--all-projects", "--long"),
        ("server", "group", "list", "--all-projects"),
    ):
        listed = str(admin.json(*words))
        assert shop.id not in listed, f"{' '.join(words)}: {listed}"
    there = admin.json("port", "list", "--network", network.id, "--long")
    assert not [port for port in there if port["Device Owner"].startswith("compute:")]
