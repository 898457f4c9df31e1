"""The journal and the spool through crashes: whatever was reported to be on disk is there after any of them."""

from __future__ import annotations

import sqlite3
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from coffer_guest.journal import Journal
from coffer_guest.state import Home, Identity, Prepared, State
from coffer_guest.store import Store
from coffer_shared.commands import NewDatabase, Prepare, UserArgs
from coffer_shared.messages import Start
from unit.guest.fakes import World, machine_in, options_in
from unit.guest.orders import prepare_args

SECRET = "Correct-Horse-9731"


class Killed(BaseException):
    pass


class MortalStore(Store):
    """Dies before or after its nth commit, as a process does with the power."""

    lives: int | None = None
    after = False

    async def write(self, work: Callable[[sqlite3.Connection], Any]) -> Any:
        if self.lives is not None:
            self.lives -= 1
            if self.lives == 0 and not self.after:
                raise Killed
        result = await super().write(work)
        if self.lives == 0:
            raise Killed
        return result


async def open_at(path: Path, lives: int | None = None, *, after: bool = False) -> MortalStore:
    store = await MortalStore.open(path)
    assert isinstance(store, MortalStore)
    store.lives, store.after = lives, after
    return store


def start(op: str = "op-1", **args: Any) -> Start:
    return Start(op=op, kind="create_users", args=args, deadline=9e9)


async def test_a_command_is_there_after_a_crash_and_runs_only_once(tmp_path: Path) -> None:
    store = await open_at(tmp_path / "db")
    assert await Journal(store).add(start(), floor=7) is not None
    await store.close()
    store = await open_at(tmp_path / "db")
    journal = Journal(store)
    assert await journal.add(start(), floor=8) is None
    assert [entry.op for entry in await journal.running()] == ["op-1"]
    assert await journal.floor() == 8
    await store.close()


async def life(journal: Journal) -> None:
    """A command from its arrival to the acknowledgement of its last event; every part may be repeated."""
    await journal.add(start(password=SECRET), floor=5)
    if not await journal.running():
        return
    await journal.note("op-1", "checked")
    await journal.progress("op-1", 10, "begun", 1.0)
    await journal.progress("op-1", 50, "half", 2.0)
    await journal.finish("op-1", "done", {"x": 1}, "", "", 3.0)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("lives", range(1, 7))
async def test_killed_at_every_commit_it_ends_once_and_its_events_have_no_gap(
    tmp_path: Path, lives: int, after: bool
) -> None:
    store = await open_at(tmp_path / "db", lives, after=after)
    with suppress(Killed):
        await life(Journal(store))
    await store.close()
    store = await open_at(tmp_path / "db")
    journal = Journal(store)
    if await journal.state_of("op-1") in {None, "running"}:
        await life(journal)
    events = []
    while waiting := await journal.unsent():
        (event,) = waiting
        events.append(event)
        await journal.acknowledged(event.op, event.n)
    assert [event.n for event in events] == list(range(len(events)))
    assert [b'"t":"finished"' in event.body for event in events].count(True) == 1
    assert b'"t":"finished"' in events[-1].body
    assert await journal.running() == []
    await store.close()


async def test_events_of_one_operation_go_out_one_by_one_in_order_and_others_beside_them(tmp_path: Path) -> None:
    store = await open_at(tmp_path / "db")
    journal = Journal(store)
    for op in ("a", "b"):
        await journal.add(start(op), floor=1)
    for percent in (1, 2, 3):
        await journal.progress("a", percent, "", 0.0)
    await journal.progress("b", 1, "", 0.0)
    assert [(event.op, event.n) for event in await journal.unsent()] == [("a", 0), ("b", 0)]
    await journal.acknowledged("a", 0)
    assert [(event.op, event.n) for event in await journal.unsent()] == [("a", 1), ("b", 0)]
    await store.close()


async def test_progress_is_bounded_while_nobody_listens_but_the_ending_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coffer_guest.journal._MAX_UNSENT", 10)
    store = await open_at(tmp_path / "db")
    journal = Journal(store)
    await journal.add(start(), floor=1)
    for n in range(25):
        await journal.progress("op-1", n, "", 0.0)
    await journal.finish("op-1", "done", {}, "", "", 0.0)
    numbers = []
    while waiting := await journal.unsent():
        numbers.append(waiting[0].n)
        await journal.acknowledged("op-1", waiting[0].n)
    assert numbers == list(range(11))
    await store.close()


async def test_no_password_is_left_in_any_file_when_the_command_has_ended(tmp_path: Path) -> None:
    store = await open_at(tmp_path / "db")
    journal = Journal(store)
    await journal.add(start(users=[{"name": "a", "password": SECRET * 200}]), floor=1)
    assert SECRET.encode() in b"".join(file.read_bytes() for file in tmp_path.iterdir())
    await journal.finish("op-1", "failed", {}, "invalid", "no", 0.0)
    assert SECRET.encode() not in b"".join(file.read_bytes() for file in tmp_path.iterdir())
    await store.close()


async def test_the_record_of_a_database_holds_no_password(tmp_path: Path, world: World) -> None:
    store = await open_at(tmp_path / "db")
    order = msgspec.convert(prepare_args(), Prepare)
    order = msgspec.structs.replace(order, users=[UserArgs("u", SECRET)], databases=[NewDatabase("d")])
    await machine_in(options_in(tmp_path), State(store), world).record(Prepared(order))
    assert SECRET.encode() not in b"".join(file.read_bytes() for file in tmp_path.iterdir())
    found = await State(store).prepared()
    assert found is not None
    assert found.order.image == order.image
    await store.close()


async def test_only_its_owner_reads_it(tmp_path: Path) -> None:
    store = await open_at(tmp_path / "s" / "db")
    await State(store).set_identity(Identity("00" * 32, "seed", 0.0))
    files = list((tmp_path / "s").iterdir())
    assert len(files) >= 2
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in files)
    await store.close()


async def test_old_identities_leave_no_trace(tmp_path: Path) -> None:
    store = await open_at(tmp_path / "db")
    state = State(store)
    await state.set_identity(Identity("aa" * 32, "OLDSEED", 0.0, "oldjwt"))
    await state.set_next_identity(Identity("bb" * 32, "NEWSEED", 0.0))
    await state.set_identity(Identity("bb" * 32, "NEWSEED", 0.0, "newjwt"))
    assert await state.next_identity() is None
    assert b"OLDSEED" not in b"".join(file.read_bytes() for file in tmp_path.iterdir())
    await store.close()


async def test_identity_and_home_are_stored_together_or_not_at_all(tmp_path: Path) -> None:
    for lives, after in ((1, False), (1, True)):
        path = tmp_path / f"db-{after}"
        store = await open_at(path, lives, after=after)
        with pytest.raises(Killed):
            await State(store).enrolled(Identity("aa", "s", 0.0, "j"), Home("i", (), "", "", ""))
        await store.close()
        store = await open_at(path)
        identity, home = await State(store).identity(), await State(store).home()
        assert (identity is None) == (home is None) == (not after)
        await store.close()
