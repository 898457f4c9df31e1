"""Wakes without a broker: who can open one, and what a broken one does."""

from __future__ import annotations

from collections import Counter

import pytest

from coffer_shared import subjects
from coffer_shared.errors import Unavailable
from coffer_shared.keyset import KeySet, ServiceKey
from coffer_shared.messages import Wake, decode_wake
from coffer_shared.seal import BadEnvelope, KeyPair, Kind, Peer
from coffer_shared.wake import Waker, receive_wakes

INSTANCE = "33333333-3333-4333-8333-333333333333"
API, PROVISIONER = KeyPair.generate(), KeyPair.generate()
TRUSTED = KeySet(
    keys=tuple(ServiceKey(name, pair.public.hex(), (), 0, 9e9) for name, pair in
               (("api", API), ("provisioner", PROVISIONER))),
    issued_at=1.0,
)


class FakeLink:
    """Hands what is published to the one subscriber."""

    def __init__(self, *, away: bool = False) -> None:
        self.counters: Counter[str] = Counter()
        self.away = away
        self.sent: list[tuple[str, bytes]] = []
        self.subscribed: tuple[str, str] | None = None

    async def publish(self, subject: str, data: bytes, reply: str = "") -> None:
        if self.away:
            raise Unavailable("not connected to NATS")
        self.sent.append((subject, data))

    async def subscribe_fast(self, subject, queue, callback) -> None:
        self.subscribed, self.deliver = (subject, queue), callback


class Message:
    def __init__(self, subject: str, data: bytes) -> None:
        self.subject, self.data, self.reply = subject, data, ""


async def test_a_wake_is_sealed_for_the_provisioner_alone():
    link = FakeLink()
    await Waker(link, API, PROVISIONER.public).wake(INSTANCE, "op")
    ((subject, data),) = link.sent
    assert subject == f"ctl.{INSTANCE}.wake"
    opened = Peer("server", PROVISIONER, API.public).open(subject, data, kinds=(Kind.WAKE,))
    assert decode_wake(opened.body) == Wake(op="op")
    with pytest.raises(BadEnvelope):
        Peer("server", KeyPair.generate(), API.public).open(subject, data)


async def test_replicas_share_the_wakes_between_them():
    link = FakeLink()
    await receive_wakes(link, PROVISIONER, TRUSTED, [].append)
    assert link.subscribed == (subjects.WAKES, "provisioner")


async def test_one_is_taken_on_its_own_subject_only():
    link, heard = FakeLink(), []
    await receive_wakes(link, PROVISIONER, TRUSTED, heard.append)
    await Waker(link, API, PROVISIONER.public).wake(INSTANCE)
    data = link.sent[0][1]
    link.deliver(Message("ctl.44444444-4444-4444-8444-444444444444.wake", data))
    assert heard == []
    link.deliver(Message(f"ctl.{INSTANCE}.wake", data))
    assert heard == [INSTANCE]
    assert link.counters == {"wakes": 1, "wakes_refused": 1}


async def test_a_fault_of_the_receivers_is_not_blamed_on_the_sender():
    link = FakeLink()

    def broken(_instance: str) -> None:
        raise ValueError("a bug")

    await receive_wakes(link, PROVISIONER, TRUSTED, broken)
    await Waker(link, API, PROVISIONER.public).wake(INSTANCE)
    with pytest.raises(ValueError, match="a bug"):
        link.deliver(Message(*link.sent[0]))
    assert link.counters["wakes_refused"] == 0


async def test_without_a_broker_the_caller_goes_on():
    link = FakeLink(away=True)
    await Waker(link, API, PROVISIONER.public).wake(INSTANCE)
    assert link.sent == []


@pytest.mark.parametrize("instance", ["*", "", "x", INSTANCE.replace("3", "A")])
async def test_only_an_instance_can_be_woken(instance):
    with pytest.raises(ValueError, match="not an instance id"):
        await Waker(FakeLink(), API, PROVISIONER.public).wake(instance)
