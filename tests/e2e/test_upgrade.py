"""An upgrade in place, with images that an administrator adds: one that runs, and one that does not stay up."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from support.bank import STATIC, Bank
from support.stack import ROOT, Api, Stack, address, eventually, run

BASE = "coffer/postgres:17"
GOOD = "LABEL coffer.test=newer"
BAD = 'ENTRYPOINT ["sh", "-c", "echo it does not like these files >&2; exit 3"]'
Offer = Callable[[str, str], str]


@pytest.fixture(scope="module")
def offer(stack: Stack) -> Iterator[Offer]:
    """Makes a version of PostgreSQL of such an image, as an administrator does; gives its id."""
    admin, images = stack.api("admin"), []

    def make(number: str, line: str) -> str:
        image = f"coffer/postgres:{number}"
        images.append(image)
        run("docker", "build", "--quiet", "--tag", image, "-", give=f"FROM {BASE}\n{line}\n")
        listed = {"name": number, "version": number, "datastore_name": "postgresql", "datastore_manager": "postgresql"}
        version = {**listed, "active": True, "image_tags": ["x"]}
        admin("POST", "/mgmt/datastore-versions", {"version": version}).must(202)
        pushed = run(str(ROOT / "deploy/images/push.sh"), f"{stack.name}_control", "registry:5000", image)
        record = ("coffer-manage", "register", "--state", "/run/coffer")
        stack.compose("run", "--rm", "-T", "migrate", *record, give=pushed)
        versions = admin("GET", "/mgmt/datastore-versions").must(200)["versions"]
        (found,) = [version for version in versions if version["name"] == number]
        assert found["container_digest"]
        return str(found["id"])

    yield make
    for image in images:
        run("docker", "rmi", image, check=False)
    for version in admin("GET", "/mgmt/datastore-versions").must(200)["versions"]:
        if f"coffer/postgres:{version['name']}" in images:
            admin("DELETE", f"/mgmt/datastore-versions/{version['id']}").must(202)


@pytest.fixture(scope="module")
def instance(api: Api, offer: Offer) -> Iterator[tuple[str, Bank]]:
    """It ends before the versions do, which it has one of."""
    password = secrets.token_urlsafe(18)
    made = api.create(
        "old", access={"is_public": True}, databases=[{"name": "bank"}],
        users=[{"name": "app", "password": password, "databases": [{"name": "bank"}]}],
    )
    bank = Bank(address(api.until_ready(made), "public"), "app", password, "bank")
    bank.make(rows=20_000)
    yield made, bank
    api.delete(made)


def ended(api: Api, instance: str, version: str) -> dict[str, Any]:
    """The operation of an upgrade to it."""
    answer = api("PUT", f"/instances/{instance}", {"instance": {"datastore_version": version}})
    answer.must(202)

    def finished() -> dict[str, Any] | None:
        found: dict[str, Any] = api("GET", f"/operations/{answer.headers['x-coffer-operation']}").must(200)["operation"]
        return found if "finished" in found else None

    found: dict[str, Any] = eventually(finished, within=180, what="the upgrade has ended")
    return found


def shown(api: Api, instance: str) -> str:
    return str(api.until_ready(instance)["datastore"]["version_number"])


def labels(stack: Stack, instance: str) -> Any:
    """Of the image that the database runs."""
    form = ("docker", "inspect", "--format", "{{json .Config.Labels}}", "database")
    return json.loads(stack.inside(instance, *form))


def beside_the_data(stack: Stack, instance: str) -> set[str]:
    return set(stack.inside(instance, "ls", "/data").split()) - {"lost+found"}


def test_the_new_version_runs_over_the_same_data(api: Api, stack: Stack, offer: Offer, instance: Any) -> None:
    made, bank = instance
    before, machine = bank.value(STATIC), stack.machine(made)
    bank.start_writing(seconds=30)
    bank.stop_writing()
    last, was = bank.last(), shown(api, made)
    found = ended(api, made, offer("17.98", GOOD))
    assert found["state"] == "succeeded", found
    assert (was, shown(api, made)) == ("17", "17.98")
    assert labels(stack, made)["coffer.test"] == "newer"
    assert (bank.value(STATIC), bank.last(), bank.wrong_accounts()) == (before, last, 0)
    assert stack.machine(made) == machine
    assert beside_the_data(stack, made) == {"engine"}


def test_weakness_18_what_does_not_stay_up_is_taken_back(api: Api, stack: Stack, offer: Offer, instance: Any) -> None:
    made, bank = instance
    before, running = bank.value(STATIC), labels(stack, made)
    was = shown(api, made)
    found = ended(api, made, offer("17.99", BAD))
    assert (found["state"], "it does not like these files" in json.dumps(found)) == ("failed", True), found
    assert (shown(api, made), labels(stack, made), bank.value(STATIC)) == (was, running, before)
    assert beside_the_data(stack, made) == {"engine"}
    bank.value("INSERT INTO ledger (debit, credit, amount) VALUES (1, 2, 0)")
