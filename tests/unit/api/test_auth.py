"""The user file, remembered passwords, slowed guesses."""

from __future__ import annotations

import asyncio
import base64
import os
from pathlib import Path
from typing import Any

import bcrypt
import pytest
from prometheus_client import CollectorRegistry

from coffer_api.auth import QUEUE, HttpBasic, NoAuth
from coffer_api.htpasswd import BadUserFile, UserFile, Users, parse
from coffer_api.metrics import Metrics
from coffer_api.problems import Problem


def hashed(password: str) -> str:
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()


ANN = f"ann:{hashed('one')}:p1:member"


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Counting:
    """Counts how often a password is really verified."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        checked = Users.check

        def check(users: Users, name: str, password: bytes) -> Any:
            self.count += 1
            return checked(users, name, password)

        monkeypatch.setattr(Users, "check", check)


def scope(user: str, password: str, address: str = "10.0.0.1") -> dict[str, Any]:
    token = base64.b64encode(f"{user}:{password}".encode())
    return {"headers": [(b"host", b"x"), (b"authorization", b"Basic " + token)], "client": (address, 1)}


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "users"
    path.write_text(ANN + f"\nboss:{hashed('two')}:ops:admin,member\n")
    return path


@pytest.fixture
def basic(file: Path, clock: Clock) -> Any:
    strategy = HttpBasic(UserFile(file), Metrics(CollectorRegistry()), clock=clock)
    yield strategy
    strategy.close()


async def status(basic: HttpBasic, *given: str, project: str = "p1") -> int:
    try:
        await basic.identify(scope(*given), project)
    except Problem as problem:
        return problem.status
    return 200


async def test_a_verified_password_is_remembered_for_a_minute(
    basic: HttpBasic, clock: Clock, monkeypatch: pytest.MonkeyPatch,
):
    verified = Counting(monkeypatch)
    identity = await basic.identify(scope("ann", "one"), "p1")
    assert (identity.user, identity.project, identity.admin) == ("ann", "p1", False)
    assert await status(basic, "ann", "one") == 200
    assert verified.count == 1
    clock.now += 61
    assert await status(basic, "ann", "one") == 200
    assert verified.count == 2


async def test_many_at_a_time_are_verified_once(basic: HttpBasic, monkeypatch: pytest.MonkeyPatch):
    verified = Counting(monkeypatch)
    assert set(await asyncio.gather(*(status(basic, "ann", "one") for _ in range(20)))) == {200}
    assert verified.count == 1


async def test_no_password_is_kept(basic: HttpBasic):
    await status(basic, "ann", "one")
    kept = repr(basic._verified) + repr(basic._failures._found)
    assert "one" not in kept
    assert base64.b64encode(b"ann:one").decode() not in kept


async def test_guesses_at_a_time_are_no_more_than_guesses_in_turn(
    basic: HttpBasic, clock: Clock, monkeypatch: pytest.MonkeyPatch,
):
    verified = Counting(monkeypatch)
    assert set(await asyncio.gather(*(status(basic, "ann", f"g{n}") for n in range(30)))) == {401}
    assert verified.count == 5
    assert await status(basic, "ann", "one") == 401
    assert await status(basic, "ann", "one", "10.0.0.2") == 200
    clock.now += 61
    assert await status(basic, "ann", "one") == 200
    assert verified.count == 7


async def test_success_forgets_the_failures(basic: HttpBasic, clock: Clock):
    for n in range(4):
        await status(basic, "ann", f"g{n}")
    assert await status(basic, "ann", "one") == 200
    for n in range(4):
        assert await status(basic, "ann", f"h{n}") == 401
    clock.now += 61
    assert await status(basic, "ann", "one") == 200


async def test_an_unknown_user_costs_what_a_known_one_costs(
    basic: HttpBasic, monkeypatch: pytest.MonkeyPatch,
):
    verified = Counting(monkeypatch)
    assert await status(basic, "nobody", "one") == 401
    assert verified.count == 1


async def test_a_flood_of_names_does_not_queue_for_ever(basic: HttpBasic):
    answers = await asyncio.gather(*(status(basic, f"u{n}", "x") for n in range(QUEUE + 10)))
    assert sorted(answers) == [401] * QUEUE + [503] * 10


async def test_projects(basic: HttpBasic):
    assert await status(basic, "ann", "one", project="p2") == 403
    assert await status(basic, "boss", "two", project="p2") == 200
    assert await status(basic, "boss", "two", project="p\n2") == 403
    everybody = await NoAuth().identify({}, "any")
    assert (everybody.project, everybody.roles) == ("any", frozenset({"admin", "member"}))


async def test_the_file_is_read_again_when_it_changes(basic: HttpBasic, file: Path):
    assert await status(basic, "carl", "three") == 401
    change(file, f"carl:{hashed('three')}:p1:reader\n")
    assert await status(basic, "carl", "three") == 200
    change(file, "rubbish\n")
    assert await status(basic, "carl", "three", "10.0.0.9") == 200
    file.unlink()
    assert await status(basic, "ann", "wrong") == 401


def change(path: Path, text: str) -> None:
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)
    os.utime(path, ns=(1, path.stat().st_mtime_ns + 1))


@pytest.mark.parametrize(
    "line",
    ["ann", "ann:x:p1:member", f"ann:{hashed('x')}:p1", f":{hashed('x')}:p1:member", f"ann:{hashed('x')}::member",
     f"ann:{hashed('x')}:p1:", f"ann:{hashed('x')}:p1:king", f"ann:{hashed('x')}:p/1:member", f"{ANN}\n{ANN}",
     f"ann:{hashed('x')[:-1]}:p1:member", f"{ANN}:more"],
)
def test_a_line_that_cannot_be_understood_is_refused(line: str):
    with pytest.raises(BadUserFile, match="line") as caught:
        parse(f"# users\n\n{line}\n")
    assert "$2b$" not in str(caught.value)


def test_passwords_of_any_kind():
    long = "x" * 80
    users = parse(f"l:{bcrypt.hashpw(long[:72].encode(), bcrypt.gensalt(4)).decode()}:p:admin")
    assert users.check("l", long.encode()) is not None
    assert users.check("l", b"x" * 71) is None
    assert users.check("l", b"x" * 72 + b"\0") is None
    assert users.check("l", b"") is None
    assert users.check("l", b"\xff\xfe") is None
    assert "$2b$" not in repr(users)
