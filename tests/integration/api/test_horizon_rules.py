"""What trove-dashboard asks, with the library that it uses (python-troveclient), and what it insists on finding."""

from __future__ import annotations

import asyncio
import re
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import pytest
from keystoneauth1.http_basic import HTTPBasicAuth
from keystoneauth1.session import Session

from coffer_api.settings import Settings
from coffer_shared.commands import UserFound
from coffer_shared.messages import Engine
from integration.api.guest import StubGuest, doing
from integration.api.service import VERSION, Caller, World, serving
from integration.api.test_restores import add_version

with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
    from troveclient.apiclient.exceptions import ClientException
    from troveclient.v1.client import Client

T = TypeVar("T")
NETWORK = "99999999-9999-4999-8999-999999999999"
UNKNOWN = NETWORK
PROBED = ("hostname", "replicas", "replica_of", "configuration", "cluster_id", "shard_id")
"""Looked for by name: being there means something, whatever the value."""
ISO = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d")


class Dashboard:
    """The library, called in a thread as a view of the dashboard calls it."""

    def __init__(self, api: Caller) -> None:
        auth = HTTPBasicAuth(
            endpoint=f"{api.base}/v1.0/{api.project}", username=api.user, password=f"{api.user}-password",
        )
        self.client = Client(session=Session(auth=auth), auth=auth)

    async def __call__(self, view: Callable[[Any], T]) -> T:
        return await asyncio.to_thread(view, self.client)

    async def fails(self, view: Callable[[Any], Any]) -> Any:
        with pytest.raises(ClientException) as caught:
            await self(view)
        return caught.value


@pytest.fixture
def horizon(api: Caller) -> Dashboard:
    return Dashboard(api)


async def test_the_table_asks_once_more_per_row_and_finds_nothing_where_there_is_nothing(
    horizon: Dashboard, world: World,
):
    for _ in range(3):
        await world.instance()

    def rows(client: Any) -> list[dict[str, Any]]:
        return [
            {key: hasattr(instance, key) for key in PROBED} | {"host": instance.ip[0], "size": instance.volume["size"]}
            for instance in client.instances.list(limit=20)
        ]

    for row in await horizon(rows):
        assert row == {**dict.fromkeys(PROBED, False), "host": "10.0.0.5", "size": 2}


async def test_replicas_key_is_absent_not_empty(api: Caller, world: World):
    instance = await world.instance()
    for path in ("/instances", "/instances/detail"):
        (item,) = (await api("GET", path)).must(200)["instances"]
        assert not set(PROBED) & item.keys()
    assert not set(PROBED) & (await api("GET", f"/instances/{instance}")).must(200)["instance"].keys()


async def test_the_table_is_paged_by_the_dashboards_size(horizon: Dashboard, world: World):
    made = {await world.instance() for _ in range(7)}

    def pages(client: Any) -> list[list[str]]:
        found, marker = [], None
        while True:
            page = client.instances.list(limit=3, marker=marker)
            found.append([instance.id for instance in page])
            marker = page.next
            if marker is None:
                return found

    found = await horizon(pages)
    assert [len(page) for page in found] == [3, 3, 1]
    assert {item for page in found for item in page} == made


@pytest.mark.parametrize(
    ("engine", "age", "more", "status", "restart"),
    [
        (Engine.HEALTHY, 0, {}, "ACTIVE", True), (Engine.CRASHED, 0, {}, "ACTIVE", True),
        (Engine.HEALTHY, 0, {"restart_required": ["shared_buffers"]}, "RESTART_REQUIRED", True),
        (Engine.HEALTHY, 500, {}, "ACTIVE", False),
    ],
    ids=["healthy", "crashed", "restart required", "silent"],
)
async def test_actions_are_offered_by_status_and_accepted(
    api: Caller, world: World, engine: Engine, age: float, more: dict[str, Any], status: str, restart: bool,
):
    instance = await world.instance(healthy=False)
    await world.beat(instance, engine, age=age, **more)
    assert (await api("GET", f"/instances/{instance}")).must(200)["instance"]["status"] == status
    answer = await api("POST", f"/instances/{instance}/action", {"restart": {}})
    assert answer.status == (202 if restart else 422)


async def test_what_a_row_and_the_overview_read(horizon: Dashboard, world: World):
    instance = await world.instance(is_public=True, allowed_cidrs=["10.0.0.0/8"])
    found = await horizon(lambda client: client.instances.get(instance))
    assert (found.status, found.operating_status) == ("ACTIVE", "HEALTHY")
    assert (found.access["is_public"], found.access.get("allowed_cidrs")) == (True, ["10.0.0.0/8"])
    assert (found.flavor["id"], found.volume["size"]) == ("1", 2)
    assert (found.datastore["type"], found.datastore["version"]) == ("postgresql", "17")
    assert [(a["type"], a["address"]) for a in found.addresses] == [("private", "10.0.0.5")]
    assert ISO.fullmatch(found.created)
    assert ISO.fullmatch(found.updated)
    assert ISO.fullmatch(found.service_status_updated)


async def test_access_is_a_dict_whatever_was_asked(api: Caller, world: World):
    await world.instance()
    await world.instance(is_public=True)
    for path in ("/instances", "/instances/detail"):
        every = (await api("GET", path)).must(200)["instances"]
        assert sorted(item["access"]["is_public"] for item in every) == [False, True]


async def test_the_launch_dialogue(api: Caller, horizon: Dashboard):
    def fill(client: Any) -> Any:
        (datastore,) = client.datastores.list()
        (version,) = client.datastore_versions.list(datastore.id)
        assert [*client.configurations.list(), *client.backups.list(), *client.instances.list()] == []
        assert version.id == datastore.default_version == VERSION
        made = client.instances.create(
            "from-horizon", "1", volume={"size": 1, "type": None}, databases=[{"name": "shop"}],
            users=[{"name": "app", "password": "app-word", "databases": [{"name": "shop"}], "host": "%"}],
            restorePoint=None, nics=[{"net-id": NETWORK}], datastore=datastore.name, datastore_version=version.id,
            replica_of=None, replica_count=None, configuration=None, locality=None, availability_zone="nova",
            access={"is_public": True, "allowed_cidrs": ["10.0.0.0/8"]}, region_name="RegionOne",
        )
        return made.id, made.status, hasattr(made, "ip")

    made, *facts = await horizon(fill)
    assert facts == ["BUILD", False]
    assert (await api("GET", f"/instances/{made}")).must(200)["instance"]["access"]["is_public"]


async def test_the_tabs_of_an_instance(asking: Caller, guest: StubGuest):
    guest.databases, guest.users = ["shop"], [UserFound("app", "%", ["shop"])]

    def tabs(client: Any) -> Any:
        instance = client.instances.get(guest.instance)
        users = client.users.list(instance.id)
        return (
            client.root.is_root_enabled(instance.id).rootEnabled,
            [(user.name, [d.name for d in client.users.list_access(instance.id, user.name, hostname=user.host)])
             for user in users],
            [database.name for database in client.databases.list(instance.id)],
            client.instances.backups(instance.id),
        )

    assert await Dashboard(asking)(tabs) == (False, [("app", ["shop"])], ["shop"], [])


async def test_the_tab_of_defaults(horizon: Dashboard, world: World):
    instance = await world.instance()
    found = await horizon(lambda client: client.instances.configuration(instance))
    assert found.configuration


async def test_the_tab_of_logs_says_that_it_waits(horizon: Dashboard, world: World):
    instance = await world.instance()
    for view in (
        lambda client: client.instances.log_list(instance),
        lambda client: client.instances.log_action(instance, "general", publish=True),
        lambda client: client.instances.log_action(instance, "general", discard=True),
    ):
        error = await horizon.fails(view)
        assert (error.http_status, error.message.endswith("is not implemented in this release.")) == (501, True)


async def test_row_actions(api: Caller, horizon: Dashboard, world: World):
    instance, newer = await world.instance(), await add_version(world, "17.9")
    await horizon(lambda client: client.instances.update(instance, name="renamed"))
    await horizon(lambda client: client.instances.update(instance, remove_configuration=True))
    assert (await api("GET", f"/instances/{instance}")).body["instance"]["name"] == "renamed"
    for view in (
        lambda client: client.instances.update(instance, detach_replica_source=True),
        lambda client: client.instances.promote_to_replica_source(instance),
        lambda client: client.instances.eject_replica_source(instance),
    ):
        assert (await horizon.fails(view)).http_status == 501
    for view in (
        lambda client: client.instances.upgrade(instance, newer),
        lambda client: client.instances.restart(instance),
        lambda client: client.instances.resize_instance(instance, "gold"),
        lambda client: client.instances.resize_volume(instance, 3),
    ):
        await horizon(view)
        await world.finish()
    await horizon(lambda client: client.instances.delete(instance))


async def test_a_superuser_stops_an_instance(api: Caller, world: World):
    instance = await world.instance()
    await Dashboard(api.as_("root"))(lambda client: client.mgmt_instances.stop(instance))


async def test_access_is_changed(api: Caller, horizon: Dashboard, world: World):
    instance = await world.instance()
    await horizon(lambda client: client.instances.update(instance, is_public=True, allowed_cidrs=["10.0.0.0/8"]))
    await world.finish()


async def test_users_and_databases(asking: Caller, world: World, guest: StubGuest):
    base = f"/instances/{guest.instance}"
    for method, path, body in [
        ("POST", "/databases", {"databases": [{"name": "shop"}]}),
        ("POST", "/users", {"users": [{"name": "u", "password": "word", "databases": []}]}),
        ("PUT", "/users/u%40%25", {"user": {"name": "v"}}),
        ("PUT", "/users/a%2eb%40%25/databases", {"databases": [{"name": "shop"}]}),
        ("DELETE", "/users/v/databases/shop", None), ("DELETE", "/users/v", None), ("DELETE", "/databases/shop", None),
    ]:
        answer, _ = await doing(asking, world, method, base + path, body)
        assert answer.status == 202, path


async def test_backups_and_their_strategies(horizon: Dashboard, world: World):
    instance = await world.instance()
    made = await horizon(lambda client: client.backups.create("b", instance, description="d", swift_container="mine"))
    assert (made.status, made.parent_id) == ("NEW", None)
    assert ISO.fullmatch(made.created)
    (listed,) = await horizon(lambda client: client.backups.list())
    assert (listed.id, listed.parent_id, listed.datastore["type"]) == (made.id, None, "postgresql")
    parent = await world.backup(instance)
    error = await horizon.fails(lambda client: client.backups.create("b", instance, parent_id=parent))
    assert error.http_status == 501

    def strategies(client: Any) -> Any:
        client.backup_strategies.create(swift_container="mine")
        found = [item.swift_container for item in client.backup_strategies.list()]
        client.backup_strategies.delete()
        return found, client.backup_strategies.list()

    assert await horizon(strategies) == (["mine"], [])


async def test_configurations_send_their_values_as_an_object(horizon: Dashboard, world: World):
    await world.parameters()

    def life(client: Any) -> Any:
        made = client.configurations.create(
            "c", '{"max_connections": 100}', description="d", datastore="postgresql", datastore_version=VERSION,
        )
        shown = client.configurations.get(made.id)
        parameters = client.configuration_parameters.parameters_by_version(shown.datastore_version_id)
        client.configurations.update(made.id, '{"max_connections": 120}')
        changed = client.configurations.get(made.id).values
        instances = client.configurations.instances(made.id)
        listed = [item.id for item in client.configurations.list()]
        client.configurations.delete(made.id)
        return shown.values, bool(parameters), changed, instances, listed == [made.id]

    assert await horizon(life) == ({"max_connections": 100}, True, {"max_connections": 120}, [], True)


async def test_the_panel_of_clusters_is_empty_and_creating_one_waits(horizon: Dashboard):
    assert await horizon(lambda client: client.clusters.list()) == []
    error = await horizon.fails(lambda client: client.clusters.create("c", "postgresql", "17", instances=[]))
    assert error.http_status == 501


async def test_every_error_reaches_the_user(api: Caller, world: World, choose: Callable[..., Settings]):
    """The library shows nothing of an error that carries Retry-After, unless it is 413."""
    instance = await world.instance()
    wanted: list[tuple[Dashboard, Callable[[Any], Any], int, str]] = [
        (Dashboard(api), lambda client: client.instances.delete(instance), 422, "cannot be|is not"),
        (Dashboard(api), lambda client: client.databases.list(instance), 503, "not connected to the guests"),
        (Dashboard(api), lambda client: client.instances.get(UNKNOWN), 404, UNKNOWN),
        (Dashboard(api.as_("rita")), lambda client: client.instances.restart(instance), 403, "instance:restart"),
    ]
    (await api("POST", "/backups", {"backup": {"name": "b", "instance": instance}})).must(202)
    async with serving(choose(cancel_wait=0.1, http_get_rate=1)) as hasty:
        hurried = Dashboard(hasty)
        wanted[0] = (hurried, *wanted[0][1:])
        for dashboard, view, status, says in wanted:
            error = await dashboard.fails(view)
            assert (error.http_status, bool(re.search(says, str(error)))) == (status, True), error
        await hurried(lambda client: client.flavors.list())
        error = await hurried.fails(lambda client: client.flavors.list())
        assert (error.http_status, error.retry_after >= 1) == (413, True)


async def test_a_guess_too_many_is_told(api: Caller):
    guesser = Dashboard(api)
    guesser.client.client.session.auth.password = "wrong"
    errors = [await guesser.fails(lambda client: client.flavors.list()) for _ in range(7)]
    assert {error.http_status for error in errors} == {401}
    assert "try again later" in str(errors[-1])


async def test_find_by_name_needs_a_404(horizon: Dashboard, world: World):
    instance = await world.instance(name="by-name")
    backup = await world.backup(instance, name="kept")
    assert (await horizon(lambda client: client.instances.find(name="by-name"))).id == instance
    for kind in ("instances", "backups", "configurations", "clusters", "flavors", "datastores"):
        error = await horizon.fails(lambda client, kind=kind: getattr(client, kind).get("by-name"))
        assert error.http_status == 404, kind
    assert (await horizon(lambda client: client.backups.get(backup))).name == "kept"
