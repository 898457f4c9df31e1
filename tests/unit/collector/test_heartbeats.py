"""Heartbeats up to the database: what is refused, what is kept, what is written at once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from coffer_shared import subjects
from coffer_shared.connection import Delivery
from coffer_shared.errors import Unavailable
from coffer_shared.messages import Engine
from coffer_shared.seal import Kind
from coffer_status_collector import heartbeats as module
from coffer_status_collector.heartbeats import Heartbeats
from coffer_status_collector.store import BadRow, Beat, Turn, Written
from unit.collector.guest_side import NOW, Guest, facts, peers_of


class Table:
    """The database: holds what is written, fails on demand."""

    def __init__(self) -> None:
        self.batches: list[list[Beat]] = []
        self.away = False
        self.poison = ""
        self.turns: tuple[Turn, ...] = ()

    async def write(self, beats: Sequence[Beat]) -> Written:
        if self.away:
            raise Unavailable("away")
        if any(self.poison and self.poison in beat.facts for beat in beats):
            raise BadRow("poison")
        self.batches.append(list(beats))
        return Written(stored=len(beats), gone=0, turns=self.turns)

    @property
    def beats(self) -> list[Beat]:
        return [beat for batch in self.batches for beat in batch]


async def taking(*guests: Guest, engines: bool = True) -> tuple[Heartbeats, Table, Table, list[Turn]]:
    """Those guests known; their engines, unless told otherwise, known as healthy."""
    usual, urgent = Table(), Table()
    turned: list[Turn] = []
    taken = Heartbeats(await peers_of(*guests), usual.write, urgent.write, turned.extend, clock=lambda: NOW)
    if engines:
        taken.remember({guest.instance: Engine.HEALTHY.value for guest in guests})
    return taken, usual, urgent, turned


async def test_the_newest_of_many_is_written_once() -> None:
    guest = Guest()
    taken, usual, urgent, _ = await taking(guest)
    sent = [guest.heartbeat(detail=f"d{n}") for n in range(5)]
    for message in (sent[0], sent[4], sent[2], sent[3], sent[4]):
        taken.take(message)
    await taken.flush()
    (beat,) = usual.beats
    assert facts(beat.facts)["detail"] == "d4"
    assert beat.seq == guest.sender.seq
    assert urgent.beats == []
    assert taken.counts["coalesced"] == 4


async def test_first_and_changed_are_urgent_and_others_are_not() -> None:
    guest = Guest()
    taken, usual, urgent, _ = await taking(guest, engines=False)
    for engine in (Engine.STARTING, Engine.STARTING, Engine.HEALTHY, Engine.HEALTHY, Engine.CRASHED):
        taken.take(guest.heartbeat(engine))
        await taken.flush()
    assert [beat.engine for beat in urgent.beats] == ["starting", "healthy", "crashed"]
    assert [beat.engine for beat in usual.beats] == ["starting", "healthy"]


async def test_an_urgent_one_does_not_wait_for_the_second_to_pass() -> None:
    guest = Guest()
    taken, _, urgent, _ = await taking(guest, engines=False)
    running = asyncio.create_task(taken.run())
    await asyncio.sleep(0)
    began = asyncio.get_running_loop().time()
    taken.take(guest.heartbeat())
    async with asyncio.timeout(0.5):
        while not urgent.beats:
            await asyncio.sleep(0.001)
    assert asyncio.get_running_loop().time() - began < 0.5 < module.EVERY
    running.cancel()


async def test_who_turned_is_told() -> None:
    guest = Guest()
    taken, _, urgent, turned = await taking(guest, engines=False)
    urgent.turns = (Turn(guest.instance, "an operation"),)
    taken.take(guest.heartbeat())
    await taken.flush()
    assert turned == [Turn(guest.instance, "an operation")]


async def test_batches_are_bounded() -> None:
    guests = [Guest() for _ in range(7)]
    taken, usual, _, _ = await taking(*guests)
    for guest in guests:
        taken.take(guest.heartbeat())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BATCH", 3)
        await taken.flush()
    assert [len(batch) for batch in usual.batches] == [3, 3, 1]


async def test_what_could_not_be_written_waits_and_gives_way_to_newer() -> None:
    first, second = Guest(), Guest()
    taken, usual, _, _ = await taking(first, second)
    taken.take(first.heartbeat(detail="old"))
    taken.take(second.heartbeat(detail="only"))
    usual.away = True
    with pytest.raises(Unavailable):
        await taken.flush()
    taken.take(first.heartbeat(detail="new"))
    assert taken.waiting == 2
    usual.away = False
    await taken.flush()
    assert {beat.instance: facts(beat.facts)["detail"] for beat in usual.beats} == {
        first.instance: "new", second.instance: "only",
    }


async def test_a_row_that_cannot_be_stored_does_not_hold_up_the_rest() -> None:
    guests = [Guest() for _ in range(9)]
    taken, usual, _, _ = await taking(*guests)
    for number, guest in enumerate(guests):
        taken.take(guest.heartbeat(detail="poison" if number == 4 else ""))
    usual.poison = "poison"
    await taken.flush()
    assert len(usual.beats) == 8
    assert taken.counts["unstorable"] == 1
    assert taken.counts["stored"] == 8


def by_another(guest: Guest) -> Delivery:
    return Guest(guest.instance).heartbeat()


def on_another_subject(guest: Guest) -> Delivery:
    sent = guest.heartbeat()
    return Delivery(subjects.heartbeat("6b0c2a2e-8a0d-4f0e-9a53-0d4d7f0e5a11"), "", sent.data, sent.connection)


def of_another_kind(guest: Guest) -> Delivery:
    return guest.sealed(Kind.EVENT, subjects.heartbeat(guest.instance), b"{}")


def changed(guest: Guest) -> Delivery:
    sent = guest.heartbeat()
    return Delivery(sent.subject, "", sent.data[:-1] + bytes([sent.data[-1] ^ 1]), sent.connection)


def from_the_future(guest: Guest) -> Delivery:
    guest.sender.seq += 121_000_000
    return guest.heartbeat()


def with_a_wide_subject(guest: Guest) -> Delivery:
    sent = guest.heartbeat()
    return Delivery("g.*.hb", "", sent.data, sent.connection)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (by_another, "key"),
        (on_another_subject, "key"),
        (of_another_kind, "kind"),
        (changed, "tag"),
        (from_the_future, "ahead"),
        (with_a_wide_subject, "subject"),
        (lambda g: Delivery(subjects.heartbeat(g.instance), "", b"", g.connection), "short"),
        (lambda g: g.heartbeat(detail="x" * 40_000), "large"),
        (lambda g: g.raw_heartbeat(b'{"t":"heartbeat"}'), "malformed"),
        (lambda g: g.raw_heartbeat(b'{"t":"heartbeat","at":1e999,"version":"1","engine":"healthy"}'), "malformed"),
        (lambda g: g.raw_heartbeat(b'{"t":"heartbeat","at":1,"version":"\xff","engine":"healthy"}'), "malformed"),
        (lambda g: g.raw_heartbeat(b'{"x":' + b"[" * 30_000), "malformed"),
    ],
)
async def test_refused_and_counted(make, reason: str) -> None:  # type: ignore[no-untyped-def]
    guest = Guest()
    taken, usual, urgent, _ = await taking(guest)
    for _ in range(40):  # more than may wait for keys
        taken.take(make(guest))
    await taken.flush()
    assert taken.counts[reason] >= 30
    assert usual.beats == urgent.beats == []


@pytest.mark.parametrize(
    ("sent", "stored"),
    [
        (rb"a\u0000b", "a\ufffdb"), (rb"\u0000\u0000", "\ufffd\ufffd"), (rb"a\\u0000b", "a\\u0000b"),
        (rb"\\\u0000", "\\\ufffd"),
    ],
)
async def test_no_nul_reaches_the_database(sent: bytes, stored: str) -> None:
    guest = Guest()
    taken, usual, _, _ = await taking(guest)
    start = b'{"t":"heartbeat","at":1,"version":"1","engine":"healthy","detail":"'
    taken.take(guest.raw_heartbeat(start + sent + b'"}'))
    await taken.flush()
    assert facts(usual.beats[0].facts)["detail"] == stored


async def test_what_is_not_known_is_not_stored() -> None:
    guest = Guest()
    taken, usual, _, _ = await taking(guest)
    body = b'{"t":"heartbeat","at":1,"version":"2","engine":"healthy","new_in_the_next_release":{"a":1e99999}}'
    taken.take(guest.raw_heartbeat(body))
    await taken.flush()
    assert facts(usual.beats[0].facts) == {"t": "heartbeat", "at": 1.0, "version": "2", "engine": "healthy"}
