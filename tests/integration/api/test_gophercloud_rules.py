"""What gophercloud's `openstack/db/v1` asks, accepts and can decode."""

from __future__ import annotations

from typing import Any

import pytest

from coffer_shared.commands import UserFound
from integration.api.guest import StubGuest, doing
from integration.api.service import VERSION, Caller, World
from support import gophercloud
from support.gophercloud import Gophercloud, Wrong

NETWORK = "99999999-9999-4999-8999-999999999999"
CREATE: dict[str, Any] = {
    "name": "json_rack_instance", "flavorRef": "1", "volume": {"size": 2},
    "datastore": {"type": "postgresql", "version": "17"},
    "databases": [{"name": "db1"}, {"name": "db2", "character_set": "UTF8"}],
    "users": [{"name": "app", "password": "app-word", "host": "%", "databases": [{"name": "db1"}]}],
    "nics": [{"net-id": NETWORK}],
}


@pytest.fixture
def go(api: Caller) -> Gophercloud:
    return Gophercloud(api)


@pytest.fixture
def go_admin(api: Caller) -> Gophercloud:
    return Gophercloud(api.as_("root"))


async def test_create_answers_exactly_200(go: Gophercloud):
    made = await go("POST", "/instances", {"instance": CREATE}, ok=(200,), instance=gophercloud.INSTANCE)
    assert (made["status"], made["flavor"]["id"], made["volume"]["size"]) == ("BUILD", "1", 2)
    assert made["datastore"] == {"type": "postgresql", "version": "17"}
    assert made["ip"] == made["addresses"] == []


async def test_times_have_no_zone(go: Gophercloud, go_admin: Gophercloud, world: World):
    instance = await world.instance(failed=True, fault_message="no room", fault_details="trace")
    for client, details in ((go, ""), (go_admin, "trace")):
        found = await client("GET", f"/instances/{instance}", instance=gophercloud.INSTANCE)
        assert found["created"]
        assert found["updated"]
        assert found["fault"]["created"]
        assert (found["fault"]["message"], found["fault"]["details"]) == ("no room", details)


async def test_an_instance_is_decoded(go: Gophercloud, world: World):
    instance = await world.instance(addresses=[
        {"address": "10.0.0.5", "type": "private", "network": "n"}, {"address": "192.0.2.7", "type": "public"},
    ])
    found = await go("GET", f"/instances/{instance}", instance=gophercloud.INSTANCE)
    assert (found["ip"], found["volume"]) == (["10.0.0.5", "192.0.2.7"], {"size": 2, "used": 0.5})
    assert found["addresses"] == [
        {"type": "private", "address": "10.0.0.5"}, {"type": "public", "address": "192.0.2.7"},
    ]
    assert {link["rel"] for link in found["links"]} == {link["rel"] for link in found["flavor"]["links"]} == {
        "self", "bookmark",
    }


async def test_flavor_id_is_int_or_null(go: Gophercloud):
    flavors = await go("GET", "/flavors", flavors=gophercloud.items(gophercloud.FLAVOR))
    assert [(f["id"], f["str_id"]) for f in flavors] == [(1, "1"), (0, "gold")]
    shown = await go("GET", "/flavors/gold", flavor=gophercloud.FLAVOR)
    assert (shown["name"], shown["ram"]) == ("large", 4096)


async def test_datastores_and_versions(go: Gophercloud):
    (datastore,) = await go("GET", "/datastores", datastores=gophercloud.items(gophercloud.DATASTORE))
    assert datastore["default_version"] == VERSION
    assert await go("GET", f"/datastores/{datastore['id']}", datastore=gophercloud.DATASTORE) == datastore
    base = f"/datastores/{datastore['id']}/versions"
    assert await go("GET", base, versions=gophercloud.items(gophercloud.VERSION)) == datastore["versions"]
    assert await go("GET", f"{base}/{VERSION}", version=gophercloud.VERSION) == datastore["versions"][0]


async def test_both_links_and_instances_links(api: Caller, go: Gophercloud, world: World):
    made = {await world.instance() for _ in range(23)}
    page = (await api("GET", "/instances")).must(200)
    assert page["links"] == page["instances_links"]
    assert len(page["instances"]) == 20
    found = await go.all("/instances", "instances", gophercloud.INSTANCE, lambda href: _path(api, href))
    assert len(found) == 23
    assert {item["id"] for item in found} == made


async def test_both_links_and_databases_links_and_users_links(asking: Caller, guest: StubGuest):
    go = Gophercloud(asking)
    guest.databases = [f"d{n:02}" for n in range(23)]
    guest.users = [UserFound(f"u {n:02}%", "%", ["d00"]) for n in range(23)]
    for key, of in (("databases", gophercloud.DATABASE), ("users", gophercloud.USER)):
        path = f"/instances/{guest.instance}/{key}"
        page = (await asking("GET", path)).must(200)
        assert page["links"] == page[f"{key}_links"]
        found = await go.all(path, key, of, lambda href: _path(asking, href))
        assert len({item["name"] for item in found}) == len(found) == 23
    assert found[0]["databases"] == [{"name": "d00", "character_set": "", "collate": ""}]


async def test_databases_and_users_answer_202(asking: Caller, world: World, guest: StubGuest):
    base = f"/instances/{guest.instance}"
    for method, path, body in [
        ("POST", "/databases", {"databases": [{"name": "a", "character_set": "UTF8"}]}),
        ("DELETE", "/databases/a", None),
        ("POST", "/users", {"users": [{"name": "u", "password": "word", "databases": [{"name": "a"}]}]}),
        ("DELETE", "/users/u", None),
    ]:
        answer, _ = await doing(asking, world, method, base + path, body)
        assert answer.status in {202} & set(gophercloud.ACCEPTED[method])


async def test_root_is_enabled_with_200_and_asked_for(asking: Caller, world: World, guest: StubGuest):
    base = f"/instances/{guest.instance}/root"
    answer, _ = await doing(asking, world, "POST", base)
    user = gophercloud.USER(answer.must(200)["user"], "user")
    assert user["name"]
    assert user["password"]
    assert (await Gophercloud(asking)("GET", base))["rootEnabled"] is False


async def test_restart_answers_202(go: Gophercloud, world: World):
    await go("POST", f"/instances/{await world.instance()}/action", {"restart": {}})


async def test_delete_answers_202(go: Gophercloud, world: World):
    await go("DELETE", f"/instances/{await world.instance()}")


async def test_detach_by_empty_object_answers_202(go: Gophercloud, world: World):
    await go("PUT", f"/instances/{await world.instance()}", {"instance": {}}, ok=(202,))


@pytest.mark.parametrize(
    "nic", [{"port-id": NETWORK}, {"net-id": NETWORK, "v4-fixed-ip": "10.0.0.7"}, {"v6-fixed-ip": "::1"}], ids=str,
)
async def test_ports_and_fixed_addresses_are_refused_not_passed_over(api: Caller, nic: dict[str, str]):
    assert (await api("POST", "/instances", {"instance": {**CREATE, "nics": [nic]}})).status == 400


async def test_an_unknown_instance_is_404_and_nothing_else(go: Gophercloud):
    with pytest.raises(Wrong, match="404"):
        await go("GET", f"/instances/{NETWORK}", instance=gophercloud.INSTANCE)


async def test_configuration_groups(api: Caller, go: Gophercloud):
    body = {"name": "small", "values": {}, "datastore": {"type": "postgresql", "version": "17"}}
    made = await go("POST", "/configurations", {"configuration": body}, ok=(200,),
                    configuration=gophercloud.CONFIGURATION)
    path = f"/configurations/{made['id']}"
    assert await go("GET", path, configuration=gophercloud.CONFIGURATION) == made
    assert made["created"]
    (listed,) = await go("GET", "/configurations", configurations=gophercloud.items(gophercloud.CONFIGURATION))
    assert listed == {**made, "values": {}}
    assert await go("GET", f"{path}/instances", instances=gophercloud.items(gophercloud.INSTANCE)) == []
    await go("PATCH", path, {"configuration": {"values": {}}})
    await go("PUT", path, {"configuration": {"name": "smaller", "values": {}}})
    await go("DELETE", path)
    assert (await api("GET", path)).status == 404


async def test_parameters_have_numeric_limits(go: Gophercloud, world: World):
    await world.parameters()
    by_name = f"/datastores/postgresql/versions/{VERSION}/parameters"
    by_id = f"/datastores/versions/{VERSION}/parameters"
    every = gophercloud.items(gophercloud.PARAMETER)
    found = await go("GET", by_name, **{"configuration-parameters": every})
    assert found
    assert await go("GET", by_id, **{"configuration-parameters": every}) == found
    assert gophercloud.PARAMETER(await go("GET", f"{by_id}/{found[0]['name']}"), "it") == found[0]


async def test_quotas_are_integers(go_admin: Gophercloud):
    quotas = await go_admin("GET", "/mgmt/quotas/p1", quotas=gophercloud.items(gophercloud.QUOTA))
    assert {"instances", "ram", "volumes", "backups"} == {quota["resource"] for quota in quotas}


def _path(api: Caller, href: str) -> str:
    assert href.startswith(f"{api.base}/v1.0/p1/")
    return href.removeprefix(f"{api.base}/v1.0/p1")
