"""What is remembered of tokens: how long, how many, shared, dropped; and what becomes of them without Keystone."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from coffer_api import keystone
from coffer_api.keystone import BAD, BLIND, QUEUE, KeystoneTokens, TokenMetrics
from coffer_api.keystone_service import Away, Refused, Token, connect
from coffer_api.problems import Problem
from coffer_api.settings import Settings
from coffer_shared.settings import BadSettings
from support.fake_keystone import FakeKeystone


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Scene:
    def __init__(self) -> None:
        self.clock = Clock()
        self.keystone = FakeKeystone()
        self.registry = CollectorRegistry()
        self.tokens = KeystoneTokens(
            self.keystone, TokenMetrics(self.registry), uri="http://keystone", clock=self.clock,
        )
        self.account = self.keystone.account()
        self.token = self.keystone.token(self.account)

    async def asked(self, token: str | None = None, project: str | None = None) -> int:
        """The status that a request with the token is answered with."""
        try:
            await self.tokens.identify(scope(self.token if token is None else token), project or self.account.project)
        except Problem as problem:
            return problem.status
        return 200

    async def look(self) -> None:
        await self.tokens._look()

    def counted(self, outcome: str) -> float:
        return self.registry.get_sample_value("coffer_api_tokens_total", {"outcome": outcome}) or 0.0

    def gauge(self, name: str) -> float:
        return self.registry.get_sample_value(f"coffer_api_{name}") or 0.0


def scope(token: str) -> dict[str, Any]:
    return {"headers": [(b"host", b"x"), (b"x-auth-token", token.encode("latin-1"))]}


@pytest.fixture
async def scene() -> Any:
    made = Scene()
    await made.look()
    yield made
    await made.tokens.close()


async def test_a_good_token_is_asked_for_once_a_minute(scene: Scene):
    identity = await scene.tokens.identify(scope(scene.token), scene.account.project)
    assert (identity.user, identity.project, identity.roles) == (scene.account.id, scene.account.project, {"member"})
    scene.clock.now += 59.9
    assert await scene.asked() == 200
    assert scene.keystone.asked[scene.token] == 1
    scene.clock.now += 0.2
    assert await scene.asked() == 200
    assert scene.keystone.asked[scene.token] == 2
    assert (scene.counted("remembered"), scene.counted("validated")) == (1, 2)
    assert scene.gauge("token_validation_duration_seconds_count") == 2


async def test_it_is_never_remembered_beyond_its_own_end(scene: Scene):
    token = scene.keystone.token(scene.account, life=7.0)
    assert await scene.asked(token) == 200
    scene.clock.now += 6.5
    assert await scene.asked(token) == 200
    scene.clock.now += 0.6
    assert await scene.asked(token) == 200
    assert scene.keystone.asked[token] == 2


async def test_requests_with_one_token_share_one_validation(scene: Scene):
    scene.keystone.gate = asyncio.Event()
    requests = [asyncio.create_task(scene.asked()) for _ in range(200)]
    await asyncio.sleep(0)
    requests[0].cancel()
    scene.keystone.gate.set()
    assert await asyncio.gather(*requests[1:]) == [200] * 199
    assert scene.keystone.asked[scene.token] == 1
    assert scene.counted("shared") == 199


async def test_validations_do_not_queue_for_ever(scene: Scene):
    scene.keystone.gate = asyncio.Event()
    tokens = [scene.keystone.token(scene.account) for _ in range(QUEUE + 10)]
    requests = [asyncio.create_task(scene.asked(token)) for token in tokens]
    await asyncio.sleep(0)
    scene.keystone.gate.set()
    assert sorted(await asyncio.gather(*requests)) == [200] * QUEUE + [503] * 10
    assert scene.counted("overflow") == 10
    assert scene.tokens._asking == {}


async def test_a_bad_token_is_remembered_briefly(scene: Scene):
    assert [await scene.asked("bad") for _ in range(5)] == [401] * 5
    assert scene.keystone.asked["bad"] == 1
    scene.clock.now += BAD + 0.1
    assert await scene.asked("bad") == 401
    assert scene.keystone.asked["bad"] == 2
    assert (scene.counted("bad"), scene.counted("bad_remembered")) == (2, 4)


async def test_memory_is_bounded(scene: Scene, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(keystone, "SIZE", 10)
    tokens = [scene.keystone.token(scene.account) for _ in range(15)]
    for token in tokens:
        assert await scene.asked(token) == 200
        assert await scene.asked(f"bad-{token}") == 401
    assert (len(scene.tokens._good), len(scene.tokens._bad)) == (10, 10)
    await scene.asked(tokens[-1])
    assert scene.keystone.asked[tokens[-1]] == 1
    await scene.asked(tokens[0])
    assert scene.keystone.asked[tokens[0]] == 2


async def test_no_token_is_kept(scene: Scene):
    await scene.asked()
    await scene.asked("bad-token")
    kept = repr(scene.tokens._good) + repr(scene.tokens._bad)
    assert scene.account.id in kept
    assert scene.token not in kept
    assert "bad-token" not in kept


@pytest.mark.parametrize("token", ["", "a b", "é", "x" * 4097, "a\nb"])
async def test_what_is_no_token_is_not_asked_about(scene: Scene, token: str):
    with pytest.raises(Problem) as caught:
        await scene.tokens.identify(scope(token), scene.account.project)
    assert caught.value.status == 401
    assert caught.value.headers == {"WWW-Authenticate": 'Keystone uri="http://keystone"'}
    assert not scene.keystone.asked


async def test_the_project_must_be_the_tokens_for_an_admin_too(scene: Scene):
    admin = scene.keystone.account("admin")
    assert await scene.asked(scene.keystone.token(admin), admin.project) == 200
    assert await scene.asked(scene.keystone.token(admin)) == 403
    for where in ("unscoped", "domain", "system"):
        assert await scene.asked(scene.keystone.token(admin, where), admin.project) == 403


async def test_everything_is_dropped_when_something_was_revoked(scene: Scene):
    other = scene.keystone.token(scene.account)
    assert [await scene.asked(), await scene.asked(other)] == [200, 200]
    scene.keystone.revoke(scene.token)
    assert await scene.asked() == 200
    await scene.look()
    assert [await scene.asked(), await scene.asked(other)] == [401, 200]
    assert scene.keystone.asked[other] == 2
    await scene.look()
    assert await scene.asked(other) == 200
    assert scene.keystone.asked[other] == 2
    assert scene.gauge("tokens_dropped_total") == 2  # the first look drops as well


async def test_what_was_asked_before_a_revocation_is_not_remembered_after_it(scene: Scene):
    scene.keystone.gate = asyncio.Event()
    request = asyncio.create_task(scene.asked())
    while not scene.keystone.asked:
        await asyncio.sleep(0)
    scene.keystone.events.append((time.time(), "somebody"))
    await scene.look()
    scene.keystone.gate.set()
    assert await request == 200
    assert await scene.asked() == 200
    assert scene.keystone.asked[scene.token] == 2


async def test_without_keystone_what_is_known_goes_on_and_the_rest_waits(scene: Scene):
    assert await scene.asked() == 200
    scene.clock.now += 1
    scene.keystone.fault = Away("it is away")
    await scene.look()
    assert scene.gauge("revocations_watched") == 0
    scene.clock.now += 58
    assert await scene.asked() == 200
    with pytest.raises(Problem) as caught:
        await scene.tokens.identify(scope("new"), scene.account.project)
    assert (caught.value.status, caught.value.headers) == (503, {"Retry-After": "2"})
    scene.clock.now += 2
    assert await scene.asked() == 503
    scene.keystone.fault = None
    await scene.look()
    assert [await scene.asked(), await scene.asked("new")] == [200, 401]
    assert scene.gauge("revocations_watched") == 1


@pytest.mark.parametrize("fault", [Refused("it answered 403"), Away("no answer within 5 s")])
async def test_while_revocations_cannot_be_seen_memory_is_short(scene: Scene, fault: Away):
    scene.keystone.blind = fault
    await scene.look()
    assert await scene.asked() == 200
    scene.clock.now += BLIND - 0.1
    assert await scene.asked() == 200
    assert scene.keystone.asked[scene.token] == 1
    scene.clock.now += 0.2
    assert await scene.asked() == 200
    assert scene.keystone.asked[scene.token] == 2
    scene.keystone.blind = None
    await scene.look()
    scene.clock.now += BLIND + 1
    assert await scene.asked() == 200
    assert scene.keystone.asked[scene.token] == 2


async def test_a_refused_look_shortens_what_was_remembered_before(scene: Scene):
    assert await scene.asked() == 200
    scene.keystone.blind = Refused("it answered 403")
    await scene.look()
    scene.clock.now += BLIND + 0.1
    await scene.asked()
    assert scene.keystone.asked[scene.token] == 2


async def test_what_was_revoked_while_nobody_looked_is_seen_afterwards(scene: Scene):
    assert await scene.asked() == 200
    scene.keystone.fault = Away("it is away")
    await scene.look()
    scene.keystone.revoke(scene.token)
    scene.keystone.fault = None
    await scene.look()
    assert await scene.asked() == 401


async def test_it_looks_again_and_again(scene: Scene):
    tokens = KeystoneTokens(scene.keystone, TokenMetrics(CollectorRegistry()), uri="", poll=0.01)
    before = scene.keystone.polled
    tokens.start()
    async with asyncio.timeout(5):
        while scene.keystone.polled < before + 3:
            await asyncio.sleep(0.01)
    await tokens.close()


def test_a_token_is_not_part_of_what_is_known_of_it():
    assert set(Token.__dataclass_fields__) == {"user", "project", "roles", "expires_at"}


CLOUDS = '{"clouds": {"here": {"auth": {"auth_url": "http://k", "username": "u", "password": "hush-hush"}}}}'


@pytest.mark.parametrize(
    "text",
    [CLOUDS.replace("here", "there"), CLOUDS.replace('"auth_url": "http://k", ', ""),
     CLOUDS.replace('"auth":', '"auth_type": "no-such", "auth":'), "a: [hush-hush", "password: {hush-hush: [}"],
)
def test_a_file_that_is_no_use_stops_the_start_and_shows_nothing(tmp_path: Any, text: str):
    (tmp_path / "clouds.yaml").write_text(text)
    with pytest.raises(BadSettings) as caught:
        connect(str(tmp_path / "clouds.yaml"), "here", 1.0)
    assert "hush-hush" not in str(caught.value)


def test_the_address_comes_from_the_file(tmp_path: Any):
    (tmp_path / "clouds.yaml").write_text(CLOUDS)
    service, address = connect(str(tmp_path / "clouds.yaml"), "here", 1.0)
    service.close()
    assert address == "http://k"
    assert "hush-hush" not in repr(service) + repr(vars(service))


@pytest.mark.parametrize("wrong", [{"keystone_poll": 0.0}, {"keystone_remember": -1.0}, {"keystone_uri": 'x"y'}])
def test_settings_that_cannot_be(wrong: dict[str, Any]):
    with pytest.raises(BadSettings, match="COFFER_KEYSTONE"):
        Settings(
            database_host="h", database_user="u", database_password="p", state_dir="/s", **wrong,
        ).check()
