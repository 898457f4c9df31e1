"""Every method of openstacksdk's database proxy, with each way of authenticating, against the running stack.

The table is a life, in its order. What the SDK itself has not implemented is named, with what it raises.
"""

from __future__ import annotations

import secrets
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

with warnings.catch_warnings(action="ignore"):
    import openstack
    from openstack import exceptions
    from openstack.database.v1._proxy import Proxy

from support.stack import Stack, eventually
from support.ways import WAYS, arguments

pytestmark = pytest.mark.filterwarnings("ignore")  # the SDK warns of itself


@dataclass
class Life:
    database: Any
    name: str = field(default_factory=lambda: f"sdk-{secrets.token_hex(3)}")
    password: str = field(default_factory=lambda: secrets.token_urlsafe(12))
    instance: Any = None
    """As the SDK gave it, once it is made."""


@dataclass(frozen=True, slots=True)
class Case:
    method: str
    """Of the proxy, or `instance.<method>` of what it gives."""
    call: Callable[[Life], Any]
    fine: Callable[[Life, Any], bool] = lambda _life, given: given is None
    raises: type[Exception] | None = None
    """The SDK lists the method and does not implement it, or what is asked for is of a later release."""


def _made(life: Life, given: Any) -> bool:
    life.instance = given
    return bool(given.status == "BUILD" and given.flavor["id"] == "1" and given.volume == {"size": 1})


def _create(life: Life) -> Any:
    return life.database.create_instance(
        name=life.name, flavor={"id": "1"}, volume={"size": 1}, datastore={"type": "postgresql", "version": "17"},
    )


def _ready(life: Life, given: Any) -> bool:
    eventually(lambda: _operating(life) == ("ACTIVE", "HEALTHY"), within=180, what=f"{life.name} is ready")
    return given is None or bool(given.status == "ACTIVE")


def _operating(life: Life) -> tuple[str, str]:
    """The SDK's instance does not hold the second word."""
    shown = life.database.get(f"/instances/{life.instance.id}").json()["instance"]
    return shown["status"], shown["operating_status"]


def _resized(life: Life, what: str, value: Any) -> bool:
    """The SDK's own call passes over the answer."""
    _ready(life, None)
    shown = life.database.get(f"/instances/{life.instance.id}").json()["instance"]
    return bool(value in shown[what].values())


def _names(given: Any) -> set[str]:
    return {item.name for item in given}


OFFERS = (
    Case("flavors", lambda life: list(life.database.flavors()), lambda _, given: "tiny" in _names(given)),
    Case("get_flavor", lambda life: life.database.get_flavor("1"), lambda _, given: given.name == "tiny"),
    Case("find_flavor", lambda life: life.database.find_flavor("tiny"), lambda _, given: given.name == "tiny"),
    Case("find_flavor", lambda life: life.database.find_flavor("none-such"), lambda _, given: given is None),
)
INSTANCE = (
    Case("create_instance", _create, _made),
    Case("wait_for_status", lambda life: life.database.wait_for_status(life.instance, "ACTIVE", wait=180, interval=0.5),
         _ready),
    Case("get_instance", lambda life: life.database.get_instance(life.instance.id),
         lambda life, given: given.name == life.name and given.created_at is not None),
    Case("find_instance", lambda life: life.database.find_instance(life.name),
         lambda life, given: given.id == life.instance.id),
    Case("find_instance", lambda life: life.database.find_instance("none-such"), lambda _, given: given is None),
    Case("instances", lambda life: list(life.database.instances()),
         lambda life, given: life.instance.id in {item.id for item in given}),
    Case("instances", lambda life: list(life.database.instances(limit=1)),
         lambda life, given: life.instance.id in {item.id for item in given}),
    Case("update_instance", lambda life: life.database.update_instance(life.instance.id, name=f"{life.name}-b"),
         lambda life, given: life.database.get_instance(life.instance.id).name == f"{life.name}-b"),
)
CONTENTS = (
    Case("create_database",
         lambda life: life.database.create_database(life.instance, name="shop", character_set="UTF8"),
         lambda _, given: given.name == "shop"),
    Case("databases", lambda life: list(life.database.databases(life.instance)),
         lambda _, given: _names(given) == {"shop"}),
    Case("get_database", lambda life: life.database.get_database("shop", life.instance),
         raises=exceptions.MethodNotSupported),
    Case("find_database", lambda life: life.database.find_database("shop", life.instance),
         raises=exceptions.MethodNotSupported),
    Case("create_user", lambda life: life.database.create_user(
        life.instance, name="app", password=life.password, databases=[{"name": "shop"}],
    ), lambda _, given: given.name == "app"),
    Case("users", lambda life: list(life.database.users(life.instance)),
         lambda _, given: [(user.name, user.databases) for user in given] == [("app", [{"name": "shop"}])]),
    Case("get_user", lambda life: life.database.get_user("app", life.instance),
         raises=exceptions.MethodNotSupported),
    Case("find_user", lambda life: life.database.find_user("app", life.instance),
         raises=exceptions.MethodNotSupported),
    Case("delete_user", lambda life: life.database.delete_user("app", life.instance),
         lambda life, _: not list(life.database.users(life.instance))),
    Case("delete_user", lambda life: life.database.delete_user("app", life.instance, ignore_missing=False),
         raises=exceptions.NotFoundException),
    Case("delete_database", lambda life: life.database.delete_database("shop", life.instance),
         lambda life, _: not list(life.database.databases(life.instance))),
)
ACTIONS = (
    Case("instance.is_root_enabled", lambda life: life.instance.is_root_enabled(life.database),
         lambda _, given: given is False),
    Case("instance.enable_root_user", lambda life: life.instance.enable_root_user(life.database),
         lambda _, given: len(given["password"]) > 8),
    Case("instance.is_root_enabled", lambda life: life.instance.is_root_enabled(life.database),
         lambda _, given: given is True),
    Case("instance.restart", lambda life: life.instance.restart(life.database), _ready),
    Case("instance.resize", lambda life: life.instance.resize(life.database, "2"),
         lambda life, _: _resized(life, "flavor", "2")),
    Case("instance.resize_volume", lambda life: life.instance.resize_volume(life.database, 7),
         lambda life, _: _resized(life, "volume", 7)),
)
END = (
    Case("delete_instance", lambda life: life.database.delete_instance(life.instance)),
    Case("wait_for_delete", lambda life: life.database.wait_for_delete(life.instance, wait=120, interval=0.5),
         lambda life, _: life.database.find_instance(life.instance.id) is None),
)
CASES = (*OFFERS, *INSTANCE, *CONTENTS, *ACTIONS, *END)


@pytest.fixture(params=WAYS)
def life(request: pytest.FixtureRequest, stack: Stack) -> Iterator[Life]:
    with openstack.connection.Connection(**arguments(stack, request.param)) as connection:
        found = Life(connection.database)
        yield found
        for item in list(found.database.instances()):
            if item.name.startswith(found.name):
                found.database.delete_instance(item)


def test_no_method_of_the_proxy_is_forgotten():
    own = {name for name, value in vars(Proxy).items() if callable(value) and not name.startswith("_")}
    assert len(own) > 15
    assert {case.method for case in CASES if "." not in case.method} == own


@pytest.mark.timeout(400)
def test_every_method(life: Life, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]):
    scores, wrong = dict[str, list[str]](), list[str]()
    for case in CASES:
        why = judged(case, life)
        scores.setdefault(case.method, []).append(why or (f"raises {case.raises.__name__}" if case.raises else "works"))
        if why:
            wrong.append(f"{case.method}: {why}")
    with capsys.disabled():
        print(f"\n{request.node.callspec.id}: {len(scores) - len({line.partition(':')[0] for line in wrong})} of "
              f"{len(scores)} methods do as they should")
        for method in sorted(scores):
            print(f"    {method:26} {'; '.join(dict.fromkeys(scores[method]))}")
    assert not wrong, "\n".join(wrong)


def judged(case: Case, life: Life) -> str:
    """Nothing if all is as it should be, else why not."""
    try:
        given = case.call(life)
        if case.raises is not None:
            return f"does not raise {case.raises.__name__}"
        return "" if case.fine(life, given) else f"gave {given!r}"[:400]
    except Exception as error:  # noqa: BLE001 - the rest of the table is still of interest
        return "" if case.raises is not None and isinstance(error, case.raises) else f"raised {error!r}"[:400]
