"""Who is believed, what is answered, and what gets silence."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from coffer_guest.clock import Clock
from coffer_guest.commands import COMMANDS, QUERIES
from coffer_guest.journal import Journal
from coffer_guest.keeping import Keeper
from coffer_guest.machine import Machine
from coffer_guest.reception import Reception
from coffer_guest.state import Home, Identity, State
from coffer_guest.store import Store
from coffer_guest.trust import Trust
from coffer_guest.work import Work
from coffer_shared import messages, seal, subjects
from coffer_shared.keyset import KeySet, ServiceKey, root_public, sign
from coffer_shared.messages import (
    Accepted,
    Answer,
    Cancel,
    CommandAnswer,
    Probe,
    Query,
    Refused,
    Start,
    decode_command_answer,
)
from coffer_shared.seal import KeyPair, Kind, Peer
from unit.guest.fakes import World, machine_in, options_in
from unit.guest.orders import prepare_args

IID = "7d444840-9dc0-11d1-b245-5ffdce74fad2"
SUBJECT = subjects.command(IID)
REPLY = "_INBOX.provisioner.x.1"
ROOT = bytes(range(32))


@dataclass
class Received:
    """A delivery as the bus hands it over."""

    subject: str
    reply: str
    data: bytes
    answers: list[bytes] = field(default_factory=list)

    async def answer(self, data: bytes) -> None:
        self.answers.append(data)


class Aged(seal.Sender):
    """Its messages say that they were sealed a while ago."""

    def __init__(self, age: float) -> None:
        super().__init__()
        self._age = age

    def next(self) -> int:
        return super().next() - int(self._age * 1e6)


class Office:
    """The services' side of one guest, with a key of each kind."""

    def __init__(self, reception: Reception, guest: KeyPair, keys: dict[str, KeyPair]) -> None:
        self.reception = reception
        self.peers = {name: Peer("server", pair, guest.public) for name, pair in keys.items()}

    async def send(self, command: Any, by: str = "provisioner", *, age: float = 0.0) -> CommandAnswer | None:
        return await self.deliver(self.sealed(command, by, age=age), by)

    def sealed(self, command: Any, by: str = "provisioner", *, age: float = 0.0) -> Received:
        peer = self.peers[by]
        peer._sender = Aged(age)
        return Received(SUBJECT, REPLY, peer.seal(Kind.CMD, SUBJECT, messages.encode(command), REPLY))

    async def deliver(self, received: Received, by: str = "provisioner") -> CommandAnswer | None:
        received.answers.clear()
        await self.reception.receive(received)  # type: ignore[arg-type]
        if not received.answers:
            return None
        (raw,) = received.answers
        opened = self.peers[by].open(REPLY, raw, kinds=(Kind.CMD_ANSWER,))
        assert opened.message_id == received.data[24:40]
        answer: CommandAnswer = decode_command_answer(opened.body)
        return answer


@dataclass
class Guest:
    office: Office
    journal: Journal
    work: Work
    machine: Machine
    keeper: Keeper
    reception: Reception


def key_set(keys: dict[str, KeyPair], *, expired: str = "") -> str:
    kinds = {"provisioner": ("start", "cancel", "query", "probe"), "api": ("query",)}
    listed = tuple(
        ServiceKey(name, pair.public.hex(), kinds.get(name, ()), 0.0, 1.0 if name == expired else 9e9)
        for name, pair in keys.items()
    )
    return sign(KeySet(listed, time.time()), ROOT)


async def guest_in(tmp_path: Path, world: World, *, expired: str = "") -> tuple[Store, Guest]:
    store = await Store.open(tmp_path / "db")
    state, journal, clock = State(store), Journal(store), Clock()
    own = KeyPair.generate()
    keys = {name: KeyPair.generate() for name in ("provisioner", "api", "status-collector", "retired")}
    home = Home(IID, (), "", root_public(ROOT), key_set(keys, expired=expired))
    known = Identity(own.private.hex(), "seed", 0.0)
    trust = Trust(state, home, known, clock)
    machine = machine_in(options_in(tmp_path), state, world)
    await machine.load(IID)

    async def desired(*_: Any) -> None:
        pass

    keeper = Keeper(state, home, known, trust, clock, desired, sync_seconds=300)
    work = Work(journal, machine, clock, COMMANDS, lambda: None, world.renew, world.is_copied)
    await work.load()
    reception = Reception(trust, work, machine, keeper, QUERIES, clock, floor=await journal.floor())
    return store, Guest(Office(reception, own, keys), journal, work, machine, keeper, reception)


@pytest.fixture
async def guest(tmp_path: Path, world: World) -> AsyncIterator[Guest]:
    store, made = await guest_in(tmp_path, world)
    yield made
    await made.work.close()
    await store.close()


def start(op: str = "a", kind: str = "stop") -> Start:
    return Start(op=op, kind=kind, deadline=time.time() + 60)


def query(name: str = "ping", *, left: float = 5.0, **args: Any) -> Query:
    return Query(name=name, args=args, deadline=time.time() + left)


async def test_a_command_of_the_provisioner_is_accepted(guest: Guest) -> None:
    assert await guest.office.send(start()) == Accepted()
    assert await guest.journal.state_of("a") is not None


async def test_a_query_is_answered_to_whoever_may_ask(guest: Guest) -> None:
    for service in ("provisioner", "api"):
        assert await guest.office.send(query(), service) == Answer(result=True)


@pytest.mark.parametrize("command", [Start(op="a", kind="stop", deadline=9e9), Cancel(op="a"), Probe()])
async def test_the_apis_key_may_only_ask(guest: Guest, command: Any) -> None:
    answer = await guest.office.send(command, "api")
    assert isinstance(answer, Refused)
    assert answer.code == "forbidden"
    assert await guest.journal.state_of("a") is None


async def test_a_key_that_sends_nothing_is_refused_everything(guest: Guest) -> None:
    answer = await guest.office.send(query(), "status-collector")
    assert isinstance(answer, Refused)
    assert answer.code == "forbidden"


async def test_an_expired_key_gets_silence(tmp_path: Path, world: World) -> None:
    store, guest = await guest_in(tmp_path, world, expired="retired")
    assert await guest.office.send(query(), "retired") is None
    await store.close()


async def test_a_replayed_command_gets_silence_and_runs_once(guest: Guest) -> None:
    message = guest.office.sealed(start())
    assert await guest.office.deliver(message) == Accepted()
    for _ in range(3):
        assert await guest.office.deliver(message) is None
    assert guest.reception.dropped["replay"] == 3


async def test_a_replayed_command_gets_silence_also_after_a_restart(tmp_path: Path, world: World) -> None:
    store, guest = await guest_in(tmp_path, world)
    recorded = guest.office.sealed(start())
    assert await guest.office.deliver(recorded) == Accepted()
    await guest.work.close()
    floor = await guest.journal.floor()
    reborn = Reception(guest.reception._trust, guest.work, guest.machine, guest.keeper, QUERIES, Clock(), floor=floor)
    guest.office.reception = reborn
    assert await guest.office.deliver(recorded) is None
    await store.close()


@pytest.mark.parametrize("command", [Query(name="ping", deadline=9e9), Probe()])
async def test_what_is_not_journaled_and_older_than_the_agent_gets_silence(guest: Guest, command: Any) -> None:
    assert await guest.office.send(command, age=5.0) is None
    assert guest.reception.dropped["replay"] == 1


async def test_a_command_from_before_the_start_is_taken_when_it_is_new(guest: Guest) -> None:
    assert await guest.office.send(start(), age=5.0) == Accepted()


async def test_a_command_of_long_ago_or_the_future_gets_silence(guest: Guest) -> None:
    assert await guest.office.send(start(), age=600.0) is None
    assert await guest.office.send(start(), age=-600.0) is None


@pytest.mark.parametrize("where", ["subject", "reply", "data", "kind", "short"])
async def test_a_message_that_was_tampered_with_gets_silence(guest: Guest, where: str) -> None:
    message = guest.office.sealed(query())
    match where:
        case "subject":
            message.subject = SUBJECT.replace("7", "8")
        case "reply":
            message.reply = "_INBOX.evil.1"
        case "data":
            message.data = message.data[:-1] + bytes([message.data[-1] ^ 1])
        case "kind":
            message.data = message.data[:2] + bytes([Kind.EVENT]) + message.data[3:]
        case "short":
            message.data = message.data[:50]
    assert await guest.office.deliver(message) is None
    assert guest.reception.dropped


async def test_another_guests_message_gets_silence(guest: Guest) -> None:
    stranger = Peer("server", KeyPair.generate(), KeyPair.generate().public)
    data = stranger.seal(Kind.CMD, SUBJECT, messages.encode(query()), REPLY)
    assert await guest.office.deliver(Received(SUBJECT, REPLY, data)) is None


async def test_a_message_that_cannot_be_read_is_refused(guest: Guest) -> None:
    peer = guest.office.peers["provisioner"]
    message = Received(SUBJECT, REPLY, peer.seal(Kind.CMD, SUBJECT, b'{"t":"fly"}', REPLY))
    answer = await guest.office.deliver(message)
    assert isinstance(answer, Refused)
    assert answer.code == "invalid"


async def test_a_probe_wakes_the_sync(guest: Guest) -> None:
    assert await guest.office.send(Probe()) == Accepted()
    assert guest.keeper._sync_now.is_set()


@pytest.mark.parametrize(
    ("name", "args", "left", "code"),
    [
        ("fly", {}, 5.0, "unknown_kind"),
        ("user", {"host": 7}, 5.0, "invalid"),
        ("users", {}, 5.0, "not_ready"),
        ("volume", {}, 5.0, "not_ready"),
        ("ping", {}, -1.0, "deadline"),
    ],
)
async def test_queries_that_cannot_be_answered_say_why(
    guest: Guest, name: str, args: dict[str, Any], left: float, code: str
) -> None:
    answer = await guest.office.send(query(name, left=left, **args))
    assert isinstance(answer, Refused)
    assert answer.code == code


async def test_a_query_is_given_up_at_its_deadline(guest: Guest, world: World) -> None:
    await guest.office.send(Start(op="p", kind="prepare", args=prepare_args(), deadline=time.time() + 30))
    async with asyncio.timeout(5):
        while guest.work.running:
            await asyncio.sleep(0.01)
    world.slow["list_databases"] = 10
    began = time.monotonic()
    answer = await guest.office.send(query("databases", left=0.2))
    assert isinstance(answer, Refused)
    assert answer.code == "deadline"
    assert time.monotonic() - began < 5
