"""The supervised connection against a real server: loss, expiry, revocation, renewal, cancellation."""

import asyncio
import time
import uuid
from functools import partial
from itertools import cycle
from pathlib import Path

import msgspec
import pytest
import uvloop

from coffer_shared import subjects
from coffer_shared.bus import Delivery, Link, tls_context
from coffer_shared.errors import GiveUp, GuestSilent, Unavailable
from coffer_shared.identity import Credentials
from coffer_shared.seal import BadEnvelope, KeyPair, Kind, Peer
from support.nats_server import NatsServer

from .conftest import QUICK, Open, Pair, until


async def test_sealed_round_trip(pair: Pair) -> None:
    assert await pair.ask() == b"hello"


async def test_many_at_once(pair: Pair) -> None:
    bodies = [b"%d" % number for number in range(100)]
    assert await asyncio.gather(*(pair.ask(body) for body in bodies)) == bodies


async def test_nobody_listens_is_told_at_once(pair: Pair) -> None:
    began = time.monotonic()
    with pytest.raises(GuestSilent):
        await pair.service.ask(subjects.command(str(uuid.uuid4())), lambda _: b"x", timeout=5)
    assert time.monotonic() - began < 1


async def test_the_kind_of_silence_is_chosen(pair: Pair, server: NatsServer, open_link: Open) -> None:
    link = await open_link(server.guest_creds(pair.instance), subjects.guest_inbox(pair.instance), silence=Unavailable)
    with pytest.raises(Unavailable):
        await link.ask(subjects.request(pair.instance), lambda _: b"x", timeout=5)


async def test_no_answer_in_time(pair: Pair) -> None:
    pair.hold = asyncio.Event()
    with pytest.raises(GuestSilent):
        await pair.ask(b"slow", timeout=0.1)
    assert pair.service.counters["silent"] == 1
    assert pair.service._waiting == {}


async def test_a_slow_handler_does_not_hold_up_others(pair: Pair) -> None:
    pair.hold = asyncio.Event()
    slow = asyncio.create_task(pair.ask(b"slow"))
    assert await pair.ask(b"quick", timeout=1) == b"quick"
    pair.hold.set()
    assert await slow == b"slow"


async def test_concurrency_is_bounded(pair: Pair) -> None:
    running: list[int] = []
    most = 0
    gate = asyncio.Event()

    async def handler(_: Delivery) -> None:
        nonlocal most
        running.append(1)
        most = max(most, len(running))
        await gate.wait()
        running.pop()

    await pair.service.subscribe("g.*.req", "provisioner", handler, concurrency=3)
    for _ in range(10):
        await pair.guest.publish(subjects.request(pair.instance), b"x")
    await until(lambda: most == 3)
    gate.set()
    await until(lambda: not running)
    assert most == 3


async def test_a_failing_handler_does_not_end_the_subscription(pair: Pair) -> None:
    seen: list[bytes] = []

    async def handler(received: Delivery) -> None:
        seen.append(received.data)
        raise RuntimeError("bad message")

    def fast(received: Delivery) -> None:
        seen.append(received.data)
        raise RuntimeError("bad message")

    await pair.service.subscribe("g.*.req", "provisioner", handler)
    await pair.service.subscribe_fast("e.*.enrol", "provisioner", fast)
    for body in (b"1", b"2"):
        await pair.guest.publish(subjects.request(pair.instance), body)
    await until(lambda: seen == [b"1", b"2"])
    assert pair.service.counters["handler_errors"] == 2


async def test_fast_path_in_order(pair: Pair, server: NatsServer, open_link: Open) -> None:
    collector = await open_link(server.service_creds("status-collector"))
    seen: list[bytes] = []
    await collector.subscribe_fast("g.*.hb", "hb", lambda received: seen.append(received.data))
    bodies = [b"%d" % number for number in range(2000)]
    for body in bodies:
        await pair.guest.publish(subjects.heartbeat(pair.instance), body)
    await until(lambda: len(seen) == len(bodies))
    assert seen == bodies


async def test_what_may_not_wait_is_dropped_and_counted(pair: Pair, server: NatsServer, open_link: Open) -> None:
    collector = await open_link(server.service_creds("status-collector"))
    gate = asyncio.Event()

    async def stuck(_: Delivery) -> None:
        await gate.wait()

    await collector.subscribe("g.*.ev", "ev", stuck, concurrency=1, pending_msgs=10)
    for _ in range(100):
        await pair.guest.publish(subjects.event(pair.instance), b"x")
    await until(lambda: collector.counters["dropped"] >= 80)
    gate.set()


async def test_a_link_without_an_inbox_does_not_ask(server: NatsServer, open_link: Open) -> None:
    link = await open_link(server.service_creds("status-collector"))
    with pytest.raises(ValueError, match="inbox"):
        await link.ask("g.x.in.y", lambda _: b"", timeout=1)


async def test_too_large_is_refused_before_it_costs_the_connection(pair: Pair) -> None:
    with pytest.raises(GiveUp) as caught:
        await pair.guest.publish(subjects.heartbeat(pair.instance), b"x" * (128 * 1024 + 1))
    assert caught.value.code == "too_large"
    await pair.guest.publish(subjects.heartbeat(pair.instance), b"x" * 128 * 1024)
    assert await pair.ask() == b"hello"
    assert pair.guest.counters["connects"] == 1


async def test_a_denied_publish_is_counted(pair: Pair) -> None:
    await pair.guest.publish(subjects.command(pair.instance), b"x")
    await until(lambda: pair.guest.counters["denied"] == 1)
    assert pair.guest.connected


@pytest.mark.parametrize("change", ["id", "kind", "key"])
async def test_an_answer_to_something_else_is_refused(pair: Pair, change: str) -> None:
    async def answer(received: Delivery) -> None:
        opened = pair.guest_side.open(received.subject, received.data, received.reply)
        kind = Kind.RESPONSE if change == "kind" else Kind.CMD_ANSWER
        message_id = b"?" * 16 if change == "id" else opened.message_id
        peer = Peer("client", KeyPair.generate(), KeyPair.generate().public) if change == "key" else pair.guest_side
        await received.answer(peer.seal(kind, received.reply, b"", message_id=message_id))

    pair.on_command = answer  # type: ignore[method-assign]
    with pytest.raises(BadEnvelope):
        await pair.ask()


async def test_the_jwt_expires_and_a_renewed_one_is_used(server: NatsServer, open_link: Open) -> None:
    instance = str(uuid.uuid4())
    first = server.guest_creds(instance, ttl=1)
    second = Credentials(server.issuer.guest(instance, first.nkey), first.seed)
    held = [first]
    link = await open_link(lambda: held[-1], subjects.guest_inbox(instance))
    held.append(second)
    await until(lambda: link.counters["reconnects"] == 1)
    await link.ready(5)

    assert link.counters["refused"] == 0


async def test_the_jwt_expires_and_there_is_no_other(server: NatsServer, open_link: Open) -> None:
    instance = str(uuid.uuid4())
    held = [server.guest_creds(instance, ttl=1)]
    link = await open_link(lambda: held[-1], subjects.guest_inbox(instance))
    await until(lambda: link.refused)
    assert not link.connected
    held.append(server.guest_creds(instance))
    await link.ready(5)

    assert not link.refused
    assert link.counters["refused"] >= 1


async def test_change_over_to_a_new_connection_loses_nothing(pair: Pair) -> None:
    stop = asyncio.Event()
    answers: list[bytes] = []

    async def keep_asking() -> None:
        while not stop.is_set():
            answers.append(await pair.ask(b"%d" % len(answers), timeout=2))

    asking = asyncio.create_task(keep_asking())
    for _ in range(5):
        await pair.guest.reconnect(5)
        await pair.service.reconnect(5)
    stop.set()
    await asking

    assert answers == [b"%d" % number for number in range(len(answers))]
    assert pair.guest.counters["connects"] == pair.service.counters["connects"] == 6


async def test_the_answer_of_a_handler_goes_out_on_its_own_connection(pair: Pair) -> None:
    """A guest may answer a command only on the connection that received it."""
    pair.hold = asyncio.Event()
    asked = asyncio.create_task(pair.ask(b"slow", timeout=5))
    await until(lambda: pair.handled == [b"slow"])
    await pair.guest.reconnect(5)
    pair.hold.set()

    assert await asked == b"slow"
    assert pair.guest.counters["denied"] == 0


async def test_every_server_is_tried(server: NatsServer) -> None:
    link = Link(
        ("nats://127.0.0.1:1", server.url), lambda: server.service_creds("provisioner"), name="test",
        tls=tls_context(server.ca_pem), backoff=QUICK,
    )  # fmt: skip
    await link.start()
    await link.ready(5)
    await link.close()


async def test_another_authority_is_not_trusted(server: NatsServer, tmp_path: Path) -> None:
    other = NatsServer(tmp_path / "other", server.keys, 1, "other")
    from support.nats_server import make_certificates

    other.directory.mkdir()
    link = Link(
        (server.url,), lambda: server.service_creds("provisioner"), name="test", backoff=QUICK,
        tls=tls_context(make_certificates(other.directory, ("127.0.0.1",))),
    )  # fmt: skip
    await link.start()
    await until(lambda: link.counters["failed"] >= 2)
    assert "certificate" in link.last_error.lower()
    assert not link.refused
    await link.close()


async def test_credentials_that_cannot_be_had_are_asked_for_again(server: NatsServer, open_link: Open) -> None:
    held: list[Credentials] = []
    link = await open_link(lambda: held[0], wait=False)
    await until(lambda: link.counters["failed"] >= 2)
    held.append(server.service_creds("provisioner"))
    await link.ready(5)


async def test_close_waits_for_handlers_and_leaves_no_task(pair: Pair) -> None:
    pair.hold = asyncio.Event()
    before = asyncio.all_tasks()
    asked = asyncio.create_task(pair.ask(b"slow", timeout=5))
    await until(lambda: pair.handled == [b"slow"])
    asyncio.get_running_loop().call_later(0.1, pair.hold.set)
    await pair.guest.close(grace=5)

    assert await asked == b"slow"
    await pair.service.close()
    await asyncio.sleep(0.05)
    assert {task for task in asyncio.all_tasks() if not task.done()} <= {asyncio.current_task()}
    assert before


@pytest.mark.parametrize("point", range(6))
async def test_a_cancelled_ask_ends_as_cancelled(pair: Pair, server: NatsServer, point: int) -> None:
    """At any step, also when the connection is torn down at the same time, it must not live on as another error."""
    pair.hold = asyncio.Event()
    asked = asyncio.create_task(pair.ask(b"slow", timeout=30))
    for _ in range(point):
        await asyncio.sleep(0)
    if point % 2:
        asyncio.get_running_loop().call_soon(asyncio.ensure_future, pair.service.reconnect(5))
    asked.cancel()
    await asyncio.wait({asked}, timeout=2)

    assert asked.cancelled()
    assert pair.service._waiting == {}


async def test_a_cancelled_publisher_that_waits_for_room_ends_as_cancelled(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library swallows the cancellation there."""
    connection = pair.service._live()

    async def swallows(*_: object) -> None:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            return

    monkeypatch.setattr(connection._client, "publish", swallows)
    publishing = asyncio.create_task(pair.service.publish(subjects.command(pair.instance), b"x"))
    await asyncio.sleep(0.01)
    publishing.cancel()
    await asyncio.wait({publishing}, timeout=2)
    assert publishing.cancelled()


async def test_ask_all_collects(pair: Pair, server: NatsServer, open_link: Open) -> None:
    revoker = await open_link(server.service_creds("revoker", "SYS"), "_INBOX.revoker")
    answers = await revoker.ask_all("$SYS.REQ.SERVER.PING", b"", seconds=5, enough=1)
    assert msgspec.json.decode(answers[0].data)["server"]["name"] == "nats"
    assert len(await revoker.ask_all("$SYS.REQ.SERVER.PING", b"", seconds=0.2)) == 1


def test_on_uvloop(server: NatsServer) -> None:
    async def run() -> bytes:
        instance = str(uuid.uuid4())
        tls = tls_context(server.ca_pem)
        held = server.guest_creds(instance), server.service_creds("provisioner")
        inboxes = subjects.guest_inbox(instance), "_INBOX.provisioner"
        links = [
            Link((server.url,), partial(next, cycle([each])), name="test", tls=tls, inbox=inbox, backoff=QUICK)
            for each, inbox in zip(held, inboxes, strict=True)
        ]
        pair = Pair(links[0], links[1], instance)
        await pair.guest.subscribe(subjects.command(instance), "", pair.on_command)
        for link in links:
            await link.start()
            await link.ready(5)
        await pair.guest.reconnect(5)
        answer = await pair.ask()
        for link in links:
            await link.close()
        return answer

    assert uvloop.run(run()) == b"hello"
