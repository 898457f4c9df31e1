"""The life of an instance of every engine on offer, by a client of that engine. PostgreSQL has whole suites instead."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest

from support.engines import CLIENTS
from support.instances import Database
from support.stack import Api, address, eventually

ROWS = 20_000


@pytest.fixture(scope="module", params=sorted(CLIENTS.keys() - {"postgresql"}))
def one(request: pytest.FixtureRequest, api: Api) -> Iterator[Database]:
    made = Database.make(api, request.param)
    yield made
    api.delete(made.id)


def _names(api: Api, one: Database, what: str) -> set[str]:
    return {item["name"] for item in api("GET", f"/instances/{one.id}/{what}").must(200)[what]}


def test_its_user_is_let_in_and_nobody_else(one: Database) -> None:
    one.ask("CREATE TABLE kept (n int PRIMARY KEY)")
    one.ask(f"INSERT INTO kept {CLIENTS[one.engine].numbers(ROWS)}")
    assert one.ask("SELECT count(*) FROM kept") == ROWS
    assert one.is_denied(password="another")
    assert one.is_denied(user="nobody")


def test_databases_and_users_come_and_go(api: Api, one: Database) -> None:
    path, password = f"/instances/{one.id}", secrets.token_urlsafe(18)
    api("POST", f"{path}/databases", {"databases": [{"name": "second"}]}).must(202)
    user = {"name": "clerk", "password": password, "databases": [{"name": "second"}]}
    api("POST", f"{path}/users", {"users": [user]}).must(202)
    assert (_names(api, one, "databases"), _names(api, one, "users")) == ({"shop", "second"}, {"app", "clerk"})
    assert one.ask("SELECT 1", user="clerk", password=password, database="second") == 1
    assert one.is_denied(user="clerk", password=password)
    assert api("POST", f"{path}/users", {"users": [user]}).status == 400
    api("DELETE", f"{path}/users/clerk").must(202)
    api("DELETE", f"{path}/databases/second").must(202)
    assert (_names(api, one, "databases"), _names(api, one, "users")) == ({"shop"}, {"app"})
    assert one.is_denied(user="clerk", password=password, database="shop")


def test_root_is_given_and_taken_back(api: Api, one: Database) -> None:
    given = api("POST", f"/instances/{one.id}/root").must(200)["user"]
    who = {"user": given["name"], "password": given["password"], "database": CLIENTS[one.engine].home}
    assert one.ask("SELECT 1", **who) == 1
    api("DELETE", f"/instances/{one.id}/root").must(204)
    assert one.is_denied(**who)


def test_it_is_restarted_with_its_data(api: Api, one: Database) -> None:
    api("POST", f"/instances/{one.id}/action", {"restart": {}}).must(202)
    api.until_ready(one.id)
    assert one.ask("SELECT count(*) FROM kept") == ROWS


def test_a_backup_of_it_becomes_another_instance(api: Api, one: Database) -> None:
    made = api("POST", "/backups", {"backup": {"name": "b", "instance": one.id}}).must(202)["backup"]["id"]

    def completed() -> bool:
        shown = api("GET", f"/backups/{made}").must(200)["backup"]
        assert shown["status"] != "FAILED", shown
        return bool(shown["status"] == "COMPLETED")

    eventually(completed, within=180, what="the backup is completed")
    copy = api.create(
        "copy", datastore={"type": one.engine}, access={"is_public": True}, restorePoint={"backupRef": made},
    )
    try:
        there = Database(copy, one.engine, address(api.until_ready(copy), "public"), one.password)
        assert there.ask("SELECT count(*) FROM kept") == ROWS
        assert there.ask("SELECT sum(n) FROM kept") == ROWS * (ROWS + 1) // 2
    finally:
        api.delete(copy)
        api("DELETE", f"/backups/{made}").must(202)
