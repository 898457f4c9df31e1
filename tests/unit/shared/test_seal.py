"""The sealed envelope: its bytes, and that nothing but the untouched message at its own place opens."""

import hashlib
import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl import bindings

from coffer_shared import seal
from coffer_shared.seal import BadEnvelope, KeyPair, Kind, Peer, Ring, Sender, key_id, split_enrolment

SERVER = KeyPair.from_private(bytes(range(32)))
CLIENT = KeyPair.from_private(bytes(range(32, 64)))
SUBJECT, REPLY = "g.x.cmd", "_INBOX.api.1.2"


def pair(**kw: Any) -> tuple[Peer, Peer]:
    return Peer("server", SERVER, CLIENT.public, **kw), Peer("client", CLIENT, SERVER.public, **kw)


class FixedSender(Sender):
    def renew(self) -> None:
        self.id, self._last = 0x01020305, 0

    def next(self) -> int:
        return 0x0005_F5E1_0000_0001


def test_layout_byte_for_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    """The golden message. A change here is a change of the protocol and needs a new version byte."""
    monkeypatch.setattr(os, "urandom", lambda n: bytes(range(n)))
    message = Peer("server", SERVER, CLIENT.public, sender=FixedSender()).seal(Kind.CMD, SUBJECT, b"hello", REPLY)

    assert message.hex() == (
        "01010100"  # version, suite, kind, flags
        "9d90ecf3"  # server's key id
        "1fb1c498"  # client's key id
        "01020305"  # sender
        "0005f5e100000001"  # sequence
        "000102030405060708090a0b0c0d0e0f"  # message id
        "000102030405060708090a0b0c0d0e0f1011121314151617"  # nonce
        "d4f95f6fa4"  # ciphertext
        "bf7062cfc22097fd5a4d55da0f6e0708"  # tag
    )


def test_construction_from_the_description() -> None:
    """Opened with nothing but the table in the module's docstring and libsodium."""
    server, _ = pair()
    message = server.seal(Kind.CMD, SUBJECT, b"hello", REPLY, message_id=b"m" * 16)
    rx, tx = bindings.crypto_kx_client_session_keys(CLIENT.public, CLIENT.private, SERVER.public)
    bound = message[:64] + b"\x00\x07g.x.cmd" + b"\x00\x0e_INBOX.api.1.2"

    opened = bindings.crypto_aead_xchacha20poly1305_ietf_decrypt(message[64:], bound, message[40:64], rx)

    assert opened == b"hello"
    assert rx != tx
    assert len(message) == 64 + 5 + 16
    assert message[4:8] == hashlib.blake2b(SERVER.public, digest_size=4).digest()
    assert message[8:12] == hashlib.blake2b(CLIENT.public, digest_size=4).digest()
    assert message[24:40] == b"m" * 16


@pytest.mark.parametrize("kind", list(Kind))
def test_both_directions(kind: Kind) -> None:
    server, client = pair()
    down = client.open(SUBJECT, server.seal(kind, SUBJECT, b"down", REPLY), REPLY, (kind,))
    up = server.open("g.x.req", client.seal(kind, "g.x.req", b"up"))

    assert (down.kind, down.body, down.control_key, down.guest_key) == (
        kind, b"down", key_id(SERVER.public), key_id(CLIENT.public),
    )  # fmt: skip
    assert (up.body, up.sender) == (b"up", 0)
    assert down.sender != 0


def test_an_answer_repeats_the_id() -> None:
    server, client = pair()
    asked = client.open(SUBJECT, server.seal(Kind.CMD, SUBJECT, b"?", REPLY), REPLY)
    answered = server.open(REPLY, client.seal(Kind.CMD_ANSWER, REPLY, b"!", message_id=asked.message_id))

    assert answered.message_id == asked.message_id


def refused(peer: Peer, *arguments: Any, **kw: Any) -> str:
    with pytest.raises(BadEnvelope) as caught:
        peer.open(*arguments, **kw)
    return caught.value.reason


@pytest.mark.parametrize(
    ("subject", "reply"),
    [("g.y.cmd", REPLY), ("g.x.hb", REPLY), (SUBJECT, ""), (SUBJECT, "g.y.cmd"), ("g.x.cmd_INBOX", ".api.1.2")],
    ids=["other guest", "other subject", "no reply", "other reply", "border moved"],
)
def test_bound_to_its_place(subject: str, reply: str) -> None:
    server, client = pair()
    assert refused(client, subject, server.seal(Kind.CMD, SUBJECT, b"x", REPLY), reply) == "tag"


@pytest.mark.parametrize(
    ("at", "reason"),
    [
        pytest.param(0, "header", id="version"),
        pytest.param(1, "header", id="suite"),
        pytest.param(2, "kind", id="kind to one not allowed"),
        pytest.param(3, "header", id="flags"),
        pytest.param(4, "key", id="server key id"),
        pytest.param(8, "key", id="client key id"),
        pytest.param(12, "tag", id="sender"),
        pytest.param(16, "tag", id="sequence"),
        pytest.param(23, "tag", id="sequence, low byte"),
        pytest.param(24, "tag", id="message id"),
        pytest.param(40, "tag", id="nonce"),
        pytest.param(64, "tag", id="ciphertext"),
        pytest.param(-1, "tag", id="tag"),
    ],
)
def test_flipped(at: int, reason: str) -> None:
    server, client = pair()
    message = bytearray(server.seal(Kind.CMD, SUBJECT, b"body", REPLY))
    message[at] ^= 0x80
    assert refused(client, SUBJECT, bytes(message), REPLY, (Kind.CMD,)) == reason


def test_kind_flipped_to_another_allowed_one() -> None:
    server, client = pair()
    message = bytearray(server.seal(Kind.CMD, SUBJECT, b"body", REPLY))
    message[2] = Kind.RESPONSE
    assert refused(client, SUBJECT, bytes(message), REPLY, (Kind.CMD, Kind.RESPONSE)) == "tag"


def test_kind_not_known() -> None:
    server, client = pair()
    message = bytearray(server.seal(Kind.CMD, SUBJECT, b"body", REPLY))
    message[2] = 99
    assert refused(client, SUBJECT, bytes(message), REPLY) == "kind"


@pytest.mark.parametrize("length", [0, 1, 63, 64, 79])
def test_short(length: int) -> None:
    server, client = pair()
    message = server.seal(Kind.CMD, SUBJECT, b"", REPLY)
    assert refused(client, SUBJECT, message[:length], REPLY) == "short"


@given(st.binary(min_size=1, max_size=200), st.data())
def test_truncated_or_extended(body: bytes, data: st.DataObject) -> None:
    server, client = pair()
    message = server.seal(Kind.EVENT, SUBJECT, body)
    cut = data.draw(st.integers(0, len(message) - 1))
    assert refused(client, SUBJECT, message[:cut]) in {"short", "tag"}
    assert refused(client, SUBJECT, message + b"\x00") == "tag"


@given(st.binary(max_size=300))
def test_noise_never_opens(noise: bytes) -> None:
    _, client = pair()
    assert refused(client, SUBJECT, noise) in {"short", "header", "key", "kind", "tag"}


def test_reflected_to_its_sender() -> None:
    server, client = pair()
    assert refused(server, SUBJECT, server.seal(Kind.CMD, SUBJECT, b"x", REPLY), REPLY) == "tag"
    assert refused(client, SUBJECT, client.seal(Kind.REQUEST, SUBJECT, b"x", REPLY), REPLY) == "tag"


def test_another_guests_key() -> None:
    server, _ = pair()
    other = Peer("client", KeyPair.generate(), SERVER.public)
    assert refused(other, SUBJECT, server.seal(Kind.CMD, SUBJECT, b"x")) == "key"
    assert refused(server, SUBJECT, other.seal(Kind.EVENT, SUBJECT, b"x")) == "key"


def test_key_ids_of_the_honest_guest_in_the_thiefs_envelope() -> None:
    server, client = pair()
    thief = Peer("client", KeyPair.generate(), SERVER.public)
    message = bytearray(thief.seal(Kind.EVENT, SUBJECT, b"x"))
    message[8:12] = client.client_key.to_bytes(4, "big")
    assert refused(server, SUBJECT, bytes(message)) == "tag"


def test_sequences_of_one_process_never_repeat() -> None:
    first, second = pair()[0], Peer("server", KeyPair.generate(), CLIENT.public)
    seqs = [int.from_bytes(peer.seal(Kind.CMD, "s", b"")[16:24], "big") for _ in range(500) for peer in (first, second)]

    assert len(set(seqs)) == len(seqs)
    assert seqs == sorted(seqs)


def test_sender_differs_after_a_restart_and_is_never_that_of_a_guest() -> None:
    assert len({Sender().id for _ in range(50)}) == 50
    assert all(Sender().id for _ in range(50))


def test_ring_picks_by_key_ids_and_forgets() -> None:
    old, new = KeyPair.generate(), KeyPair.generate()
    peers = [Peer("server", SERVER, key.public) for key in (old, new)]
    ring = Ring(*peers)
    message = Peer("client", old, SERVER.public).seal(Kind.REQUEST, SUBJECT, b"x")

    peer, opened = ring.open(SUBJECT, message)

    assert (peer, opened.body, len(ring)) == (peers[0], b"x", 2)
    ring.remove(peers[0])
    with pytest.raises(BadEnvelope) as caught:
        ring.open(SUBJECT, message)
    assert caught.value.reason == "key"
    ring.add(peers[0])
    assert ring.find(message) is peers[0]
    with pytest.raises(BadEnvelope):
        ring.find(b"short")


@pytest.mark.parametrize("public", [b"", b"x" * 31, b"x" * 33, bytes(32)], ids=["empty", "31", "33", "zero point"])
def test_unusable_public_keys(public: bytes) -> None:
    with pytest.raises(ValueError):
        Peer("server", SERVER, public)


def test_private_key_length() -> None:
    with pytest.raises(ValueError):
        KeyPair.from_private(b"x")


def test_overlong_subject() -> None:
    with pytest.raises(BadEnvelope):
        pair()[0].seal(Kind.CMD, "s" * 70_000, b"")


def test_enrolment_carries_the_public_key_in_front() -> None:
    server, client = pair()
    public, message = split_enrolment(CLIENT.public + client.seal(Kind.ENROL, "e.x.enrol", b"secret", "e.x.in.1"))

    assert public == CLIENT.public
    assert server.open("e.x.enrol", message, "e.x.in.1", (Kind.ENROL,)).body == b"secret"
    with pytest.raises(BadEnvelope):
        split_enrolment(CLIENT.public + message[: seal.OVERHEAD - 1])


def test_representations_hide_secrets() -> None:
    assert SERVER.private.hex() not in repr(SERVER)
    assert SERVER.public.hex() in repr(SERVER)
