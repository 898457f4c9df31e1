"""Callers with tokens of a real Keystone."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from integration.api.service import Answer, Caller, World, serving
from support.nats_server import free_port

if TYPE_CHECKING:
    from support.accounts import Account
    from support.keystone import Keystone

pytestmark = [pytest.mark.docker, pytest.mark.timeout(300)]
WANTED = {"instance": {"name": "x", "flavorRef": "1", "volume": {"size": 1}}}


class Door:
    """The API as the holders of tokens meet it."""

    def __init__(self, api: Caller) -> None:
        self._api = api

    async def __call__(
        self, token: str, project: str, method: str = "GET", path: str = "/instances", body: Any = None,
    ) -> Answer:
        headers = {"X-Auth-Token": token} if token else {}
        return await self._api.bare(method, f"/v1.0/{project}{path}", body, headers=headers)

    async def becomes(self, status: int, token: str, account: Account) -> None:
        async with asyncio.timeout(30):
            while (await self(token, account.project)).status != status:
                await asyncio.sleep(0.1)


@pytest.fixture
def settings_of(keystone: Keystone, choose: Callable[..., Any]) -> Callable[..., Any]:
    def chosen(**more: Any) -> Any:
        return choose(**{
            "auth_strategy": "keystone", "keystone_clouds": keystone.clouds(), "keystone_cloud": "coffer",
            "keystone_poll": 0.5, "keystone_timeout": 20.0, "default_datastore": "postgresql", **more,
        })

    return chosen


@pytest.fixture
async def door(settings_of: Callable[..., Any]) -> AsyncIterator[Door]:
    async with serving(settings_of()) as api:
        api.user = ""
        yield Door(api)


async def test_a_member_works_in_their_own_project_alone(keystone: Keystone, door: Door, world: World):
    account = keystone.account()
    token = keystone.token(account)
    assert (await door(token, account.project)).must(200) == {"instances": []}
    assert (await door(token, account.project, "POST", "/instances", WANTED)).must(200)["instance"]["status"] == "BUILD"
    assert (await world.sql("SELECT project_id, user_id FROM instances")) == [
        {"project_id": account.project, "user_id": account.id},
    ]
    refused = await door(token, keystone.account().project)
    assert (refused.status, refused.problem) == (403, "Access was denied to this resource.")


async def test_a_reader_reads(keystone: Keystone, door: Door):
    account = keystone.account("reader")
    token = keystone.token(account)
    assert (await door(token, account.project)).status == 200
    refused = await door(token, account.project, "POST", "/instances", WANTED)
    assert (refused.status, refused.problem) == (403, "Policy doesn't allow instance:create to be performed.")


async def test_a_role_that_means_nothing_here_may_do_nothing(keystone: Keystone, door: Door):
    account = keystone.account("service")
    assert (await door(keystone.token(account), account.project)).status == 403


async def test_an_admin_finds_what_is_anothers_in_their_own_project_alone(
    keystone: Keystone, door: Door, world: World,
):
    owner, admin = keystone.account(), keystone.account("admin")
    instance = await world.instance(owner.project)
    token = keystone.token(admin)
    refused = await door(token, owner.project, path=f"/instances/{instance}")
    assert (refused.status, refused.problem) == (403, "Access was denied to this resource.")
    path = f"/instances/{instance}"
    assert (await door(token, admin.project, path=path)).must(200)["instance"]["id"] == instance
    stranger = keystone.account()
    assert (await door(keystone.token(stranger), stranger.project, path=path)).status == 404


@pytest.mark.parametrize("token", ["", "gAAAAA-nothing", "x" * 5000])
async def test_without_a_good_token(door: Door, keystone: Keystone, token: str):
    refused = await door(token, "p1")
    assert (refused.status, refused.problem) == (401, "The request you have made requires authentication.")
    assert refused.headers["www-authenticate"] == f'Keystone uri="{keystone.url}"'


async def test_tokens_that_are_for_no_project(keystone: Keystone, door: Door):
    account = keystone.account("admin")
    keystone.on_domain(account)
    keystone.on_system(account)
    for scope in ("unscoped", {"domain": {"id": "default"}}, {"system": {"all": True}}):
        token = keystone.token(account, scope)
        assert [(await door(token, project)).status for project in (account.project, "default")] == [403, 403]


async def test_a_token_ends(keystone: Keystone, door: Door):
    account = keystone.account()
    token = keystone.short_token(account)
    assert (await door(token, account.project)).status == 200
    await door.becomes(401, token, account)


async def test_a_revoked_token_and_a_disabled_user_are_out_at_once(keystone: Keystone, door: Door):
    """The memory of a minute would hold them longer than this waits."""
    account = keystone.account()
    first, second = keystone.token(account), keystone.token(account)
    for token in (first, second):
        assert (await door(token, account.project)).status == 200
    keystone.revoke(first)
    await door.becomes(401, first, account)
    assert (await door(second, account.project)).status == 200
    keystone.disable(account)
    await door.becomes(401, second, account)


async def test_a_role_that_was_taken_is_gone_when_memory_ends(keystone: Keystone, settings_of: Callable[..., Any]):
    """Keystone lists no revocation for it."""
    account = keystone.account()
    token = keystone.token(account)
    async with serving(settings_of(keystone_remember=2.0)) as api:
        api.user = ""
        door = Door(api)
        assert (await door(token, account.project)).status == 200
        keystone.strip(account)
        await door.becomes(401, token, account)


async def test_keystone_stops_and_comes_back(keystone: Keystone, settings_of: Callable[..., Any]):
    account = keystone.account()
    known, new, revoked = (keystone.token(account) for _ in range(3))
    port = free_port()
    async with serving(settings_of(keystone_timeout=5.0, metrics_port=port)) as api:
        api.user = ""
        door = Door(api)
        await _two_looks(port)  # so that nothing is new to it, and the memory is not emptied
        await door.becomes(200, known, account)
        await door.becomes(200, revoked, account)
        keystone.stop()
        try:
            refused = await door(new, account.project)
            assert (refused.status, refused.headers["x-coffer-retry-after"]) == (503, "2")
            assert (await door(known, account.project)).status == 200
            assert (await api.bare("GET", "/readyz")).status == 200
        finally:
            keystone.start()
        await door.becomes(200, new, account)
        keystone.revoke(revoked)
        await door.becomes(401, revoked, account)


async def _two_looks(port: int) -> None:
    async with aiohttp.ClientSession() as session, asyncio.timeout(60):
        while True:
            async with session.get(f"http://127.0.0.1:{port}/metrics") as answer:
                found = re.search(r'\ncoffer_api_revocation_polls_total{outcome="seen"} (\S+)', await answer.text())
            if found and float(found[1]) >= 2:
                return
            await asyncio.sleep(0.1)


async def test_a_wrong_user_is_told_and_nothing_secret_with_it(
    keystone: Keystone, settings_of: Callable[..., Any], tmp_path: Path, capfd: pytest.CaptureFixture[str],
):
    account = keystone.account()
    token = keystone.token(account)
    clouds = Path(keystone.clouds()).read_text().replace(keystone.passwords["coffer"], "hush-hush")
    (tmp_path / "wrong.yaml").write_text(clouds)
    async with serving(settings_of(keystone_clouds=str(tmp_path / "wrong.yaml"), log_level="debug")) as api:
        api.user = ""
        assert (await Door(api)(token, account.project)).status == 503
    said = capfd.readouterr()
    assert "does not take the service user's credentials" in said.out + said.err
    for secret in ("hush-hush", token):
        assert secret not in said.out + said.err


async def test_the_document_names_the_header(keystone: Keystone, settings_of: Callable[..., Any]):
    async with serving(settings_of()) as api:
        document = (await api.bare("GET", "/openapi.json")).must(200)
    schemes = document["components"]["securitySchemes"]
    assert schemes == {"token": {"type": "apiKey", "in": "header", "name": "X-Auth-Token"}}
    assert document["paths"]["/v1.0/{project}/instances"]["get"]["security"] == [{"token": []}]
