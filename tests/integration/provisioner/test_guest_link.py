"""Sealed commands from the provisioner to a guest, over a real NATS server."""

from __future__ import annotations

import os
import time

import pytest

from coffer_provisioner.guest_link import GuestLink
from coffer_shared import subjects
from coffer_shared.errors import GuestSilent, Unavailable
from coffer_shared.messages import Accepted, Refused, Start, decode_command, encode
from coffer_shared.seal import Kind
from integration.provisioner.actors import OPERATION, SERVICES, new_keys

START = Start(op="22222222-2222-4222-8222-222222222222", kind="restart", args={"a": [1]}, deadline=4e9)


@pytest.fixture
def commands(provisioner, records):
    return GuestLink(provisioner.link, SERVICES["provisioner"], records)


@pytest.fixture
def listening(enrolled_guest, instance):
    """A guest that answers each command with what `build(opened, reply)` makes; None for silence."""

    async def listen(build):
        guest = await enrolled_guest(instance)
        received = []

        async def handle(message):
            opened = guest.peer().open(message.subject, message.data, message.reply, (Kind.CMD,))
            received.append(decode_command(opened.body))
            answer = build(guest, opened, message.reply)
            if answer is not None:
                await message.answer(answer)

        await guest.link.subscribe(subjects.command(instance), "", handle)
        await guest.link.reconnect()  # so that the subscription is known to the server
        return received

    return listen


def answering(message, *, kind=Kind.CMD_ANSWER, message_id=None, body=None, on=None):
    def build(guest, opened, reply):
        content = encode(message) if body is None else body
        return guest.peer().seal(kind, on or reply, content, message_id=message_id or opened.message_id)

    return build


@pytest.mark.parametrize("answer", [Accepted(), Refused(code="busy", text="restart runs")])
async def test_the_guest_gets_the_command_and_its_answer_comes_back(commands, listening, instance, answer):
    received = await listening(answering(answer))
    assert await commands.send(instance, START, within=5) == answer
    assert received == [START]


async def test_a_guest_that_does_not_answer_is_silent(commands, listening, instance):
    received = await listening(lambda *_: None)
    with pytest.raises(GuestSilent):
        await commands.send(instance, START, within=0.3)
    assert received == [START]


@pytest.mark.parametrize("how", [
    {"message_id": os.urandom(16)}, {"kind": Kind.EVENT}, {"on": "_INBOX.provisioner.elsewhere"}, {"body": b"\xff"},
    {"body": b'{"t":"refused","code":"\xff"}'}, {"body": b'{"t":"unheard-of"}'},
], ids=["another id", "another kind", "another subject", "no JSON", "no UTF-8", "unknown"])
async def test_an_answer_to_something_else_counts_as_silence(commands, listening, instance, how):
    await listening(answering(Accepted(), **how))
    with pytest.raises(GuestSilent):
        await commands.send(instance, START, within=5)


async def test_an_answer_under_other_keys_counts_as_silence(commands, listening, instance):
    def build(guest, opened, reply):
        return guest.peer(new_keys()[0]).seal(Kind.CMD_ANSWER, reply, encode(Accepted()), message_id=opened.message_id)

    await listening(build)
    with pytest.raises(GuestSilent):
        await commands.send(instance, START, within=5)


async def test_a_guest_that_is_away_is_known_to_be_at_once(commands, enrolled_guest, instance):
    guest = await enrolled_guest(instance)
    await guest.link.close(grace=0)
    began = time.monotonic()
    with pytest.raises(GuestSilent):
        await commands.send(instance, START, within=30)
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("how", ["no machine yet", "not enrolled"])
async def test_a_guest_without_keys_is_silent_before_anything_is_sent(
    commands, identities, instance, provisioner, how,
):
    if how == "not enrolled":
        await identities.user_data(instance, OPERATION)
    await provisioner.link.close(grace=0)  # whatever was sent would be Unavailable
    with pytest.raises(GuestSilent, match="not enrolled"):
        await commands.send(instance, START, within=30)


async def test_without_nats_it_is_the_control_plane_that_is_away(commands, enrolled_guest, instance, provisioner):
    await enrolled_guest(instance)
    await provisioner.link.close(grace=0)
    with pytest.raises(Unavailable):
        await commands.send(instance, START, within=30)
