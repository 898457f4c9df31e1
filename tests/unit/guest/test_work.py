"""The runner: one command at a time that changes the machine, and one beside it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from coffer_guest.clock import Clock
from coffer_guest.commands import Command
from coffer_guest.commands.context import Context
from coffer_guest.journal import Journal
from coffer_guest.machine import Machine
from coffer_guest.state import State
from coffer_guest.store import Store
from coffer_guest.work import Work
from coffer_shared.datastore import EngineError
from coffer_shared.errors import GiveUp
from coffer_shared.messages import Accepted, Cancel, Failure, Finished, Progress, Refused, Start, decode_event
from unit.guest.fakes import World, machine_in, options_in


class Form(msgspec.Struct):
    word: str = ""


class Bench:
    """Commands that record what was done to them."""

    def __init__(self) -> None:
        self.ran: list[tuple[str, bool]] = []
        self.go = asyncio.Event()
        self.go_beside = asyncio.Event()
        self.seen_ending: list[bool] = []

    async def side(self, context: Context, args: Form) -> None:
        self.ran.append((args.word, context.resumed))
        try:
            await context.note("begun")
            await self.go_beside.wait()
        except asyncio.CancelledError:
            self.seen_ending.append(context.ending())
            raise

    async def quick(self, context: Context, args: Form) -> Form:
        self.ran.append((args.word, context.resumed))
        await context.progress(40, "forty")
        return Form(args.word + "!")

    async def slow(self, context: Context, args: Form) -> None:
        self.ran.append((args.word, context.resumed))
        await context.note("begun")
        await self.go.wait()

    async def bad(self, context: Context, args: Form) -> None:
        raise {"engine": EngineError("exists", "it exists"), "final": GiveUp("volume", "no"), "bug": ValueError("hm")}[
            args.word
        ]

    @property
    def table(self) -> dict[str, Command]:
        return {
            "quick": Command(Form, self.quick),
            "slow": Command(Form, self.slow),
            "bad": Command(Form, self.bad),
            "side": Command(Form, self.side, beside=True),
            "side quick": Command(Form, self.quick, beside=True),
        }


class Desk:
    def __init__(self, journal: Journal, work: Work, bench: Bench) -> None:
        self.journal = journal
        self.work = work
        self.bench = bench

    async def send(self, op: str, kind: str, word: str = "", *, left: float = 60.0) -> Any:
        return await self.work.start(Start(op=op, kind=kind, args={"word": word}, deadline=time.time() + left), 1)

    async def ending(self, op: str) -> Finished:
        async with asyncio.timeout(5):
            while True:
                for event in await self.events():
                    if isinstance(event, Finished) and event.op == op:
                        return event
                await asyncio.sleep(0.005)

    async def events(self) -> list[Progress | Finished]:
        rows = await self.journal._store.read(lambda db: db.execute("SELECT body FROM event ORDER BY id").fetchall())
        return [decode_event(row[0]) for row in rows]


async def desk_in(tmp_path: Path, world: World, bench: Bench) -> tuple[Store, Desk]:
    store = await Store.open(tmp_path / "db")
    journal = Journal(store)
    machine: Machine = machine_in(options_in(tmp_path), State(store), world)
    work = Work(journal, machine, Clock(), bench.table, lambda: None, world.renew, world.is_copied)
    await work.load()
    return store, Desk(journal, work, bench)


@pytest.fixture
async def desk(tmp_path: Path, world: World) -> AsyncIterator[Desk]:
    store, desk = await desk_in(tmp_path, world, Bench())
    yield desk
    await desk.work.close()
    await store.close()


async def test_a_command_is_accepted_runs_and_reports(desk: Desk) -> None:
    assert await desk.send("a", "quick", "x") == Accepted()
    ending = await desk.ending("a")
    assert (ending.state, ending.result, ending.code) == ("done", {"word": "x!"}, "")
    assert [event.n for event in await desk.events()] == [0, 1]


async def test_the_same_operation_never_runs_twice(desk: Desk) -> None:
    for _ in range(3):
        assert await desk.send("a", "quick", "x") == Accepted()
    await desk.ending("a")
    assert await desk.send("a", "quick", "x") == Accepted()
    assert await asyncio.gather(*(desk.send("b", "quick", "y") for _ in range(5))) == [Accepted()] * 5
    await desk.ending("b")
    assert desk.bench.ran == [("x", False), ("y", False)]


async def test_a_second_command_is_refused_and_told_what_runs(desk: Desk) -> None:
    await desk.send("a", "slow")
    refused = await desk.send("b", "quick")
    assert isinstance(refused, Refused)
    assert refused.code == Failure.BUSY
    assert "slow" in refused.text
    assert "a" in refused.text
    assert desk.work.running == ["a"]
    desk.bench.go.set()
    await desk.ending("a")
    assert await desk.send("b", "quick") == Accepted()
    assert await desk.ending("b")


async def test_what_cannot_run_is_refused_and_leaves_no_trace(desk: Desk) -> None:
    for kind, args, left, code in (
        ("fly", {}, 60.0, Failure.UNKNOWN_KIND),
        ("quick", {"word": 7}, 60.0, Failure.INVALID),
        ("quick", {}, -1.0, Failure.DEADLINE),
    ):
        answer = await desk.work.start(Start(op="a", kind=kind, args=args, deadline=time.time() + left), 1)
        assert isinstance(answer, Refused)
        assert answer.code == code
    assert await desk.journal.state_of("a") is None


@pytest.mark.parametrize(
    ("word", "code", "text"),
    [("engine", "exists", "it exists"), ("final", "volume", "no"), ("bug", "internal", "ValueError in the agent")],
)
async def test_every_failure_is_a_terminal_event_with_a_code(desk: Desk, word: str, code: str, text: str) -> None:
    await desk.send("a", "bad", word)
    ending = await desk.ending("a")
    assert (ending.state, ending.code, ending.text) == ("failed", code, text)


async def test_the_guest_enforces_the_deadline(desk: Desk) -> None:
    await desk.send("a", "slow", left=0.1)
    ending = await desk.ending("a")
    assert (ending.state, ending.code) == ("failed", "deadline")


async def test_a_running_command_can_be_cancelled_and_others_not(desk: Desk) -> None:
    await desk.send("a", "slow")
    answer = await desk.work.cancel(Cancel(op="b"), 1)
    assert isinstance(answer, Refused)
    assert await desk.work.cancel(Cancel(op="a"), 1) == Accepted()
    ending = await desk.ending("a")
    assert (ending.state, ending.code) == ("cancelled", "cancelled")
    assert await desk.work.cancel(Cancel(op="a"), 1) == Accepted()
    assert await desk.send("c", "quick") == Accepted()


async def test_what_a_restart_interrupted_is_resumed_with_its_notes_before_anything_else(
    tmp_path: Path, world: World
) -> None:
    first = Bench()
    store, desk = await desk_in(tmp_path, world, first)
    await desk.send("a", "slow", "x")
    async with asyncio.timeout(5):
        while not (await desk.journal.running())[0].note:
            await asyncio.sleep(0.005)
    await desk.work.close()
    assert await desk.journal.state_of("a") == "running"
    assert [event for event in await desk.events() if isinstance(event, Finished)] == []
    await store.close()

    second = Bench()
    store, desk = await desk_in(tmp_path, world, second)
    assert desk.work.running == ["a"]
    assert isinstance(await desk.send("b", "quick"), Refused)
    second.go.set()
    await desk.work.resume()
    assert (await desk.ending("a")).state == "done"
    assert second.ran == [("x", True)]
    assert await desk.send("b", "quick") == Accepted()
    await desk.ending("b")
    await store.close()


async def test_what_waits_to_be_resumed_can_be_cancelled(tmp_path: Path, world: World) -> None:
    store, desk = await desk_in(tmp_path, world, Bench())
    await desk.send("a", "slow")
    await desk.work.close()
    await store.close()
    store, desk = await desk_in(tmp_path, world, Bench())
    assert await desk.work.cancel(Cancel(op="a"), 1) == Accepted()
    assert (await desk.ending("a")).state == "cancelled"
    await desk.work.resume()
    assert desk.bench.ran == []
    await store.close()


async def test_a_kind_that_this_release_does_not_know_ends_as_interrupted(tmp_path: Path, world: World) -> None:
    store, desk = await desk_in(tmp_path, world, Bench())
    await desk.journal.add(Start(op="a", kind="of another release", deadline=9e9), 1)
    await desk.work.load()
    await desk.work.resume()
    assert (await desk.ending("a")).code == "interrupted"
    await store.close()


async def test_a_machine_that_stops_takes_no_commands(desk: Desk) -> None:
    await desk.work.close()
    assert isinstance(await desk.send("a", "quick"), Refused)


# --- beside ---


async def test_one_runs_beside_another_and_each_reports_for_itself(desk: Desk) -> None:
    await desk.send("a", "slow", "x")
    assert await desk.send("s", "side", "y") == Accepted()
    assert desk.work.running == ["a", "s"]
    for kind, told in (("quick", "slow runs (operation a)"), ("side quick", "side runs (operation s)")):
        refused = await desk.send("z", kind)
        assert isinstance(refused, Refused)
        assert (refused.code, refused.text) == (Failure.BUSY, told)
    desk.bench.go_beside.set()
    assert (await desk.ending("s")).state == "done"
    assert desk.work.running == ["a"]
    assert await desk.send("t", "side quick", "w") == Accepted()
    await desk.ending("t")
    desk.bench.go.set()
    assert (await desk.ending("a")).state == "done"


async def test_what_runs_beside_does_not_hold_the_machine(desk: Desk) -> None:
    await desk.send("s", "side")
    await until(lambda: desk.bench.ran)
    assert not desk.work._machine.busy.locked()
    assert not desk.work.changes_machine
    assert await desk.send("a", "quick", "x") == Accepted()
    await desk.ending("a")
    async with desk.work._machine.busy:
        desk.bench.go_beside.set()
        assert (await desk.ending("s")).state == "done"


async def test_each_is_cancelled_for_itself(desk: Desk) -> None:
    await desk.send("a", "slow")
    await desk.send("s", "side")
    await until(lambda: len(desk.bench.ran) == 2)
    assert await desk.work.cancel(Cancel(op="s"), 1) == Accepted()
    assert (await desk.ending("s")).state == "cancelled"
    assert desk.bench.seen_ending == [False]
    assert desk.work.running == ["a"]
    desk.bench.go.set()
    assert (await desk.ending("a")).state == "done"


async def test_both_are_resumed_and_neither_waits_for_the_other(tmp_path: Path, world: World) -> None:
    store, desk = await desk_in(tmp_path, world, Bench())
    await desk.send("a", "slow", "x")
    await desk.send("s", "side", "y")
    await until(lambda: len(desk.bench.ran) == 2)
    await desk.work.close()
    assert desk.bench.seen_ending == [True]
    await store.close()

    second = Bench()
    store, desk = await desk_in(tmp_path, world, second)
    assert desk.work.running == ["a", "s"]
    assert isinstance(await desk.send("t", "side quick"), Refused)
    second.go.set()
    await desk.work.resume()
    assert (await desk.ending("a")).state == "done"
    assert desk.work.running == ["s"]
    assert await desk.send("b", "quick") == Accepted()
    await desk.ending("b")
    second.go_beside.set()
    assert (await desk.ending("s")).state == "done"
    assert sorted(second.ran) == [("", False), ("x", True), ("y", True)]
    await desk.work.close()
    await store.close()


async def test_a_cancellation_that_comes_with_the_end_leaves_the_lane_free(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish, ending = desk.journal.finish, asyncio.Event()

    async def slow_finish(*arguments: Any) -> None:
        ending.set()
        await asyncio.sleep(0.02)
        await finish(*arguments)

    monkeypatch.setattr(desk.journal, "finish", slow_finish)
    await desk.send("a", "quick")
    await ending.wait()
    assert await desk.work.cancel(Cancel(op="a"), 1) == Accepted()
    assert (await desk.ending("a")).state == "done"
    await until(lambda: not desk.work.running)


async def until(check: Callable[[], Any]) -> None:
    async with asyncio.timeout(5):
        while not check():
            await asyncio.sleep(0.001)


async def test_a_text_alone_is_told_now_and_then(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("coffer_guest.work.time.monotonic", lambda: now[0])
    await desk.journal.add(Start(op="a", kind="slow", deadline=9e9), 1)
    context = desk.work._context((await desk.journal.running())[0], resumed=False)
    for text in ("1 MB", "2 MB", "2 MB", "3 MB", "4 MB"):
        await context.progress(10, text)
        now[0] += 6.0
    assert [event.text for event in await desk.events()] == ["1 MB", "2 MB", "4 MB"]
