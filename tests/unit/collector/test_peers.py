"""The keys of guests: read in bulk, read singly, and not read because somebody sends junk."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from uuid import uuid4

import pytest

from coffer_shared.seal import BadEnvelope, KeyPair, Kind, Peer
from coffer_status_collector import peers as module
from coffer_status_collector.peers import Peers

MINE = KeyPair.generate()


class Stored:
    """`Keys` in memory, which counts what it is asked."""

    def __init__(self) -> None:
        self.rows: dict[str, tuple[bytes, bytes | None]] = {}
        self.pages = 0
        self.asked: list[list[str]] = []

    async def page(self, after: str, limit: int) -> Sequence[tuple[str, bytes, bytes | None]]:
        self.pages += 1
        return [(i, *self.rows[i]) for i in sorted(self.rows) if i > after][:limit]

    async def some(self, instances: Sequence[str]) -> Sequence[tuple[str, bytes, bytes | None]]:
        self.asked.append(list(instances))
        return [(i, *self.rows[i]) for i in instances if i in self.rows]


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def stored() -> Stored:
    return Stored()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def peers(stored: Stored, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Peers]:
    monkeypatch.setattr(module, "ASK_EVERY", 0)
    made = Peers(MINE, stored, clock=clock)
    task = asyncio.create_task(made.run())
    yield made
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def enrolled(stored: Stored, former: KeyPair | None = None) -> tuple[str, KeyPair]:
    instance, keys = str(uuid4()), KeyPair.generate()
    stored.rows[instance] = (keys.public, former.public if former else None)
    return instance, keys


def opens(peers: Peers, instance: str, keys: KeyPair) -> bool:
    sealed = Peer("client", keys, MINE.public).seal(Kind.HEARTBEAT, "s", b"x")
    ring = peers.ring(instance)
    if ring is None:
        return False
    try:
        ring.open("s", sealed)
    except BadEnvelope:
        return False
    return True


async def ask(peers: Peers, instance: str) -> bool:
    """Ask and wait for it; whether it was taken."""
    done = asyncio.Event()
    if not peers.ask(instance, done.set):
        return False
    await done.wait()
    return True


async def test_all_pages_are_read(stored: Stored, peers: Peers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PAGE", 3)
    known = [enrolled(stored) for _ in range(7)]
    await peers.load()
    assert len(peers) == 7
    assert stored.pages == 3
    assert all(opens(peers, instance, keys) for instance, keys in known)


async def test_both_keys_open_during_a_rotation_and_the_old_one_no_more_after(stored: Stored, peers: Peers) -> None:
    old = KeyPair.generate()
    instance, new = enrolled(stored, old)
    await peers.load()
    assert opens(peers, instance, old)
    assert opens(peers, instance, new)
    stored.rows[instance] = (new.public, None)
    await peers.load()
    assert not opens(peers, instance, old)
    assert opens(peers, instance, new)


async def test_a_guest_that_has_just_enrolled_is_read_by_itself(stored: Stored, peers: Peers) -> None:
    await peers.load()
    instance, keys = enrolled(stored)
    assert peers.ring(instance) is None
    assert await ask(peers, instance)
    assert opens(peers, instance, keys)


async def test_a_guest_that_is_gone_is_forgotten(stored: Stored, peers: Peers) -> None:
    instance, _ = enrolled(stored)
    await peers.load()
    del stored.rows[instance]
    assert await ask(peers, instance)
    assert instance not in peers
    assert peers.ring(instance) is None


async def test_what_was_read_singly_during_a_load_is_kept(stored: Stored, peers: Peers) -> None:
    """The page was read before the guest changed its keys; the single read came after."""
    instance, _ = enrolled(stored)
    page = stored.page
    changed = KeyPair.generate()

    async def slow(after: str, limit: int) -> Sequence[tuple[str, bytes, bytes | None]]:
        found = await page(after, limit)
        stored.rows[instance] = (changed.public, None)
        assert await ask(peers, instance)
        return found

    stored.page = slow  # type: ignore[method-assign]
    await peers.load()
    assert opens(peers, instance, changed)


async def test_junk_of_one_guest_costs_a_query_a_second_and_then_ever_fewer(
    stored: Stored, peers: Peers, clock: Clock,
) -> None:
    instance = str(uuid4())
    for _ in range(600):  # ten minutes, ten messages a second
        for _ in range(10):
            await ask(peers, instance)
            clock.now += 0.1
    assert 8 <= len(stored.asked) <= 16


async def test_junk_of_many_guests_is_one_query(stored: Stored, peers: Peers) -> None:
    answered: list[str] = []
    taken = [peers.ask(str(uuid4()), lambda: answered.append("x")) for _ in range(3000)]
    assert sum(taken) == 2000
    while len(answered) < 2000:
        await asyncio.sleep(0)
    assert len(stored.asked) == 4


async def test_messages_of_one_guest_that_wait_for_its_keys_are_few(stored: Stored, peers: Peers) -> None:
    instance, _ = enrolled(stored)
    answered: list[int] = []
    taken = [peers.ask(instance, lambda n=n: answered.append(n)) for n in range(20)]  # type: ignore[misc]
    while len(answered) < 8:
        await asyncio.sleep(0)
    assert taken == [True] * 8 + [False] * 12
    assert answered == list(range(8))


async def test_a_rotation_long_after_the_last_is_read_at_once(stored: Stored, peers: Peers, clock: Clock) -> None:
    instance, _ = enrolled(stored)
    for _ in range(3):
        assert await ask(peers, instance)
        assert not peers.ask(instance, lambda: None)
        clock.now += 3600.0


def test_a_key_that_no_agreement_can_be_made_with_opens_nothing(stored: Stored) -> None:
    instance = str(uuid4())
    peers = Peers(MINE, stored)
    stored.rows[instance] = (bytes(32), None)
    asyncio.run(peers.load())
    assert instance in peers
    assert not opens(peers, instance, KeyPair.generate())
