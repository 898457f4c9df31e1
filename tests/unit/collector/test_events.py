"""Events up to the database: which are acknowledged, and who is woken."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import uuid4

import pytest

from coffer_db.guest_events import GuestEvent
from coffer_shared.errors import Unavailable
from coffer_shared.messages import Finished, Progress
from coffer_status_collector.events import Events
from coffer_status_collector.wakes import Wakes
from unit.collector.guest_side import Guest, peers_of

Stored = tuple[str, int]


class Table:
    """Operations and their owners."""

    def __init__(self, owners: dict[str, str]) -> None:
        self.owners = owners
        self.batches: list[list[GuestEvent]] = []
        self.away = False
        self.poison = ""

    async def note(self, events: Sequence[GuestEvent]) -> set[Stored]:
        if self.away:
            raise Unavailable("away")
        if any(self.poison and event.text == self.poison for event in events):
            raise RecursionError
        self.batches.append(list(events))
        return {(e.op, e.n) for e in events if self.owners.get(e.op) == e.instance}

    async def existing(self, ids: Sequence[str]) -> set[str]:
        return {one for one in ids if one in self.owners}


class Woken(Wakes):
    """Says who would be told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []
        self.now = 100.0
        super().__init__(self._nothing, self._tell, clock=lambda: self.now)

    async def _nothing(self, _operation: str) -> None: ...

    async def _tell(self, instance: str, operation: str) -> None: ...

    def _add(self, instance: str, operation: str, *, mark: bool) -> None:
        self.told.append((instance, operation))


class Scene:
    def __init__(self, guest: Guest, table: Table, events: Events, wakes: Woken) -> None:
        self.guest, self.table, self.events, self.wakes = guest, table, events, wakes
        self.op = next(iter(table.owners))


async def scene(*others: Guest) -> Scene:
    guest = Guest()
    table, wakes = Table({str(uuid4()): guest.instance}), Woken()
    return Scene(guest, table, Events(await peers_of(guest, *others), table.note, table.existing, wakes), wakes)


def progress(op: str, n: int = 0, text: str = "") -> Progress:
    return Progress(op=op, n=n, percent=10, text=text, at=1.0)


async def test_stored_and_acknowledged_under_the_keys_and_the_id_of_the_event() -> None:
    s = await scene()
    sent = s.guest.event(progress(s.op))
    s.events.take(sent)
    assert s.guest.noted() == 0
    await s.events.flush()
    ((subject, data),) = s.guest.connection.sent
    assert subject == sent.reply
    opened = s.guest.peer.open(subject, data)
    assert opened.message_id == sent.data[24:40]
    assert s.guest.noted() == 1


async def test_nothing_is_acknowledged_while_the_database_is_away_and_all_is_once_it_is_back() -> None:
    s = await scene()
    for n in range(3):
        s.events.take(s.guest.event(progress(s.op, n)))
    s.table.away = True
    with pytest.raises(Unavailable):
        await s.events.flush()
    assert (s.guest.noted(), s.events.waiting) == (0, 3)
    s.table.away = False
    await s.events.flush()
    assert (s.guest.noted(), s.events.waiting) == (3, 0)


@pytest.mark.parametrize(
    "reply", ["", "g.x.in.1", "_INBOX.api.1", "g.{other}.in.1", "g.{own}.in.*", "g.{own}.in.", "g.{own}.cmd"],
)
async def test_only_the_own_inbox_is_answered(reply: str) -> None:
    s = await scene()
    reply = reply.format(own=s.guest.instance, other=Guest().instance)
    s.events.take(s.guest.event(progress(s.op), reply))
    await s.events.flush()
    assert s.events.counts["reply"] == 1
    assert s.guest.connection.sent == []
    assert s.table.batches == []


async def test_another_guests_operation_is_refused_even_beside_its_owners_own_event() -> None:
    thief = Guest()
    s = await scene(thief)
    s.events.take(s.guest.event(progress(s.op, 0, "mine")))
    s.events.take(thief.event(progress(s.op, 0, "stolen")))
    await s.events.flush()
    assert s.guest.noted() == 1
    assert thief.noted() == 0
    assert s.events.counts["refused"] == 1
    assert s.wakes.told == [(s.guest.instance, s.op)]


async def test_an_event_of_an_operation_without_a_row_may_be_forgotten() -> None:
    s = await scene()
    s.events.take(s.guest.event(progress(str(uuid4()))))
    await s.events.flush()
    assert s.guest.noted() == 1
    assert s.events.counts["forgotten"] == 1
    assert s.wakes.told == []


async def test_an_id_that_is_none_does_not_reach_the_database() -> None:
    s = await scene()
    s.events.take(s.guest.event(progress("\0")))
    await s.events.flush()
    assert s.events.counts["malformed"] == 1
    assert s.table.batches == []


async def test_an_event_that_cannot_be_stored_stands_alone() -> None:
    s = await scene()
    s.table.poison = "poison"
    for n in range(5):
        s.events.take(s.guest.event(progress(s.op, n, "poison" if n == 2 else "")))
    await s.events.flush()
    assert s.guest.noted() == 4
    assert s.events.counts["unstorable"] == 1


async def test_one_guest_cannot_crowd_out_another() -> None:
    loud = Guest()
    s = await scene(loud)
    for n in range(1000):
        s.events.take(loud.event(progress(str(uuid4()), n)))
    s.events.take(s.guest.event(progress(s.op)))
    await s.events.flush()
    assert s.events.counts["full"] == 744
    assert s.guest.noted() == 1


async def test_the_end_wakes_at_once_and_progress_once_a_second() -> None:
    s = await scene()
    for n in range(3):
        s.events.take(s.guest.event(progress(s.op, n)))
    await s.events.flush()
    assert len(s.wakes.told) == 1
    s.wakes.now += 1.0
    s.events.take(s.guest.event(progress(s.op, 3)))
    s.events.take(s.guest.event(Finished(op=s.op, n=4, state="done", at=2.0)))
    await s.events.flush()
    assert len(s.wakes.told) == 3


async def test_a_connection_that_is_gone_does_not_stop_the_others_answers() -> None:
    other = Guest()
    s = await scene(other)
    s.guest.connection.gone = True
    s.table.owners[op := str(uuid4())] = other.instance
    s.events.take(s.guest.event(progress(s.op)))
    s.events.take(other.event(progress(op)))
    await s.events.flush()
    assert s.events.counts["unanswered"] == 1
    assert other.noted() == 1


@pytest.mark.parametrize(("state", "percent"), [("done", 100), ("failed", 0), ("cancelled", 0)])
async def test_the_terminal_event_as_stored(state: str, percent: int) -> None:
    s = await scene()
    s.events.take(s.guest.event(Finished(op=s.op, n=7, state=state, result={"a": 1}, code="c", text="t", at=3.0)))
    await s.events.flush()
    assert s.table.batches == [[
        GuestEvent(instance=s.guest.instance, op=s.op, n=7, kind=state, at=3.0, percent=percent, text="t", code="c",
                   result={"a": 1}),
    ]]
