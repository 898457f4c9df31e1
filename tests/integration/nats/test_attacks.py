"""What a guest with valid credentials, in an attacker's hands, can do to others on a real server: nothing."""

import asyncio

import pytest

from coffer_shared import subjects
from coffer_shared.seal import BadEnvelope, KeyPair, Kind, Peer
from support.nats_server import NatsServer

from .conftest import QUIET, Enter, Scene


def at(scene: Scene, subject: str) -> str:
    return subject.replace("<own>", scene.own).replace("<other>", scene.other)


async def test_honest_traffic_passes(scene: Scene) -> None:
    """Without this the tests below would pass on a server that lets nothing through."""
    await scene.thief.send(subjects.heartbeat(scene.own), b"alive")
    await scene.thief.send(subjects.event(scene.own), b"event")
    await scene.thief.send(subjects.request(scene.own), b"request")
    await scene.provisioner.send(subjects.command(scene.other), b"command")
    await asyncio.sleep(QUIET)

    assert scene.collector.bodies == [b"alive", b"event"]
    assert scene.provisioner.bodies == [b"request"]
    assert scene.honest.bodies == [b"command"]
    assert scene.thief.errors == []


@pytest.mark.parametrize(
    "subject",
    [
        "g.<other>.cmd", "g.*.cmd", "g.>", ">", "g.<other>.in.>", "_INBOX.>", "_INBOX.provisioner.>", "_INBOX.api.>",
        "ctl.>", "ctl.*.wake", "$SYS.>", "$SYS.ACCOUNT.*.CONNECT", "$JS.API.>", "$KV.>", "g.*.hb", "g.*.req",
        "e.*.enrol", "e.<own>.in.>", "_R_.>", "g.<own>.*", "g.<own>.>",
    ],
)  # fmt: skip
async def test_subscribe(scene: Scene, subject: str) -> None:
    assert await scene.thief.subscribe_denied(at(scene, subject))

    await scene.provisioner.send(subjects.command(scene.other), b"secret")
    assert scene.thief.received == []


@pytest.mark.parametrize(
    ("subject", "queue"),
    [("g.*.req", "provisioner"), ("g.*.hb", "hb"), ("ctl.*.wake", "provisioner"), ("g.<other>.cmd", "x")],
)
async def test_join_a_queue_group(scene: Scene, subject: str, queue: str) -> None:
    assert await scene.thief.subscribe_denied(at(scene, subject), queue)

    await scene.provisioner.send(subjects.command(scene.other), b"secret")
    assert scene.thief.received == []
    assert scene.honest.bodies == [b"secret"]


@pytest.mark.parametrize(
    "subject",
    [
        "g.<other>.cmd", "g.<other>.hb", "g.<other>.ev", "g.<other>.req", "g.<other>.in.abc", "g.<own>.cmd",
        "g.<own>.in.abc", "e.<own>.enrol", "e.<other>.enrol", "ctl.<own>.wake", "ctl.rpc", "_INBOX.provisioner.abc",
        "_INBOX.api.abc.def", "$SYS.REQ.CLAIMS.UPDATE", "$SYS.REQ.SERVER.PING", "$SYS.REQ.ACCOUNT.PING.CONNZ",
        "$SYS.REQ.USER.INFO.x", "$JS.API.STREAM.DELETE.X", "$JS.API.STREAM.NAMES", "$JS.API.INFO",
        "$JS.ACK.a.b.1.1.1.1.0", "$KV.b.k",
    ],
)  # fmt: skip
async def test_publish(scene: Scene, subject: str) -> None:
    assert await scene.thief.publish_denied(at(scene, subject))
    assert scene.honest.received + scene.provisioner.received + scene.collector.received == []


async def test_more_subscriptions_than_allowed(scene: Scene) -> None:
    for number in range(20):
        await scene.thief.client.subscribe(f"{subjects.guest_inbox(scene.own)}.x{number}")
    for _ in range(40):
        if not scene.thief.client.is_connected:
            break
        await asyncio.sleep(QUIET)

    assert scene.thief.complained("maximum subscriptions") or not scene.thief.client.is_connected


async def test_larger_message_than_allowed(scene: Scene) -> None:
    await scene.thief.client.publish(subjects.heartbeat(scene.own), b"x" * 200_000)
    for _ in range(40):
        if scene.thief.client.is_closed:
            break
        await asyncio.sleep(QUIET)

    assert scene.thief.client.is_closed
    assert scene.collector.received == []


async def test_second_answer_and_guessed_inbox(scene: Scene) -> None:
    await scene.provisioner.listen("_INBOX.provisioner.>")
    await scene.thief.listen(subjects.command(scene.own))
    await scene.provisioner.send(subjects.command(scene.own), b"do", reply="_INBOX.provisioner.1")
    reply = scene.thief.received[0].reply

    await scene.thief.send(reply, b"first")
    assert await scene.thief.publish_denied(reply, data=b"second")
    assert await scene.thief.publish_denied("_INBOX.provisioner.2", data=b"third")

    assert scene.provisioner.bodies == [b"first"]


@pytest.mark.parametrize("reply", ["g.<other>.cmd", "g.<other>.in.x", "_INBOX.api.x", "g.<own>.in", "g.<own>.in.*"])
async def test_confused_deputy(scene: Scene, reply: str) -> None:
    """The server does not check reply subjects: `reply_allowed` must."""
    chosen = at(scene, reply)
    await scene.thief.send(subjects.request(scene.own), b"x", reply=chosen)

    if "*" not in chosen:
        assert scene.provisioner.received[0].reply == chosen
    assert not subjects.reply_allowed(subjects.request(scene.own), chosen)


async def test_confused_deputy_that_forgot_the_check_sends_what_nobody_can_open(scene: Scene) -> None:
    service, thief, honest = KeyPair.generate(), KeyPair.generate(), KeyPair.generate()
    answer = Peer("server", service, thief.public).seal(Kind.RESPONSE, subjects.command(scene.other), b"evil")
    await scene.provisioner.send(subjects.command(scene.other), answer)
    received = scene.honest.received[0]

    with pytest.raises(BadEnvelope):
        Peer("client", honest, service.public).open(received.subject, received.data)


@pytest.mark.parametrize("extra", [{}, {"Nats-Trace-Only": "true"}], ids=["trace", "trace only"])
@pytest.mark.parametrize("target", ["g.<other>.cmd", "g.<other>.in.x", "_INBOX.provisioner.x", "g.<own>.in.t"])
async def test_message_tracing_towards_a_denied_subject(scene: Scene, target: str, extra: dict[str, str]) -> None:
    await scene.provisioner.listen("_INBOX.provisioner.>")
    await scene.honest.listen(f"{subjects.guest_inbox(scene.other)}.>")
    await scene.thief.listen(f"{subjects.guest_inbox(scene.own)}.>")
    await scene.thief.send(subjects.heartbeat(scene.own), headers={"Nats-Trace-Dest": at(scene, target), **extra})

    assert scene.honest.received + scene.provisioner.received + scene.thief.received == []


@pytest.mark.parametrize(
    "headers",
    [{"Nats-Rollup": "all"}, {"Nats-Msg-Id": "1"}, {"Nats-Schedule-Target": "g.<other>.cmd"}, {"Status": "503"}],
    ids=lambda headers: next(iter(headers)),
)
async def test_headers_that_steer_streams_do_nothing_without_one(scene: Scene, headers: dict[str, str]) -> None:
    sent = {name: at(scene, value) for name, value in headers.items()}
    for _ in range(2):
        await scene.thief.send(subjects.heartbeat(scene.own), b"x", headers=sent)

    assert scene.collector.bodies == [b"x", b"x"]
    assert scene.honest.received == []


async def test_a_bomb_of_headers_counts_as_payload(scene: Scene) -> None:
    await scene.thief.client.publish(
        subjects.heartbeat(scene.own), b"x", headers={f"K{n}": "v" * 1500 for n in range(100)}
    )
    for _ in range(40):
        if scene.thief.client.is_closed:
            break
        await asyncio.sleep(QUIET)

    assert scene.thief.client.is_closed
    assert scene.collector.received == []


async def test_recorded_command_played_back_by_somebody_who_owns_the_broker(scene: Scene) -> None:
    """Shown here on the wire; the window itself has its own tests."""
    from coffer_shared.replay import Window

    service, guest = KeyPair.generate(), KeyPair.generate()
    command = Peer("server", service, guest.public).seal(Kind.CMD, subjects.command(scene.other), b"do")
    for _ in range(4):
        await scene.provisioner.send(subjects.command(scene.other), command)
    window, peer = Window(), Peer("client", guest, service.public)
    opened = [peer.open(message.subject, message.data) for message in scene.honest.received]

    assert [window.accept(each.sender, each.seq) for each in opened] == [True, False, False, False]
    assert not Window(window.floor).accept(opened[0].sender, opened[0].seq)


async def test_the_server_tells_guests_no_addresses(server: NatsServer, enter: Enter, scene: Scene) -> None:
    assert not scene.thief.client._server_info.get("connect_urls")
