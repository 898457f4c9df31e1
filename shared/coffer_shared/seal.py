"""The sealed envelope, version 1, around every payload between services and guests, and between services.

    offset size field                                       integers big-endian
      0     1   version = 1
      1     1   suite = 1: X25519 crypto_kx, XChaCha20-Poly1305-IETF
      2     1   kind
      3     1   flags = 0
      4     4   key id of the server's X25519 public key (BLAKE2b-32)
      8     4   key id of the client's
     12     4   sender: random per server process, 0 for a client
     16     8   sequence: max(last + 1, now in microseconds)
     24    16   message id; an answer repeats the id of what it answers
     40    24   nonce
     64     n   ciphertext, then a tag of 16

Authenticated beside the body: bytes 0 to 63, the NATS subject and the reply subject, each after its length (16 bits).
The sides are those of crypto_kx. A service is the server towards guests; the receiver of a wake is the server of it.
Keys are directional, so a message sent back to its sender does not open. Replay is not seen here: see `replay`.
"""

from __future__ import annotations

import hashlib
import os
import struct
import time
from collections.abc import Collection
from enum import IntEnum
from typing import Literal, TypeAlias

import msgspec
from nacl import bindings
from nacl.exceptions import CryptoError

from coffer_shared.errors import CofferError

Side: TypeAlias = Literal["server", "client"]


class Kind(IntEnum):
    CMD = 1
    CMD_ANSWER = 2
    EVENT = 3
    HEARTBEAT = 4
    REQUEST = 5
    RESPONSE = 6
    ENROL = 7
    WAKE = 8


HEADER = struct.Struct(">BBBBIIIQ16s24s")
OVERHEAD = HEADER.size + 16
PUBLIC_SIZE = 32
_VERSION = 1
_SUITE = 1
_KEY_IDS = struct.Struct(">II")


class BadEnvelope(CofferError):
    """Drop the message and count it; `reason` says why: short, header, key, kind, subject or tag."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"sealed message refused: {reason}")
        self.reason = reason


class Sealed(msgspec.Struct, frozen=True):
    """An opened envelope."""

    kind: Kind
    sender: int
    seq: int
    message_id: bytes
    control_key: int
    guest_key: int
    body: bytes


class KeyPair:
    """An X25519 key pair."""

    __slots__ = ("private", "public")

    def __init__(self, public: bytes, private: bytes) -> None:
        self.public = public
        self.private = private

    @classmethod
    def generate(cls) -> KeyPair:
        return cls.from_private(os.urandom(PUBLIC_SIZE))

    @classmethod
    def from_private(cls, private: bytes) -> KeyPair:
        if len(private) != PUBLIC_SIZE:
            raise ValueError("an X25519 private key has 32 bytes")
        return cls(bindings.crypto_scalarmult_base(private), private)

    def __repr__(self) -> str:
        return f"KeyPair({self.public.hex()})"


def key_id(public: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(public, digest_size=4).digest(), "big")


class Sender:
    """Sender id and sequence, one per process: a sequence number must not occur twice under one sender id."""

    __slots__ = ("_last", "id")

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        self.id = int.from_bytes(os.urandom(4), "big") | 1
        self._last = 0

    def next(self) -> int:
        self._last = max(self._last + 1, time.time_ns() // 1000)
        return self._last


_process = Sender()
os.register_at_fork(after_in_child=_process.renew)


class Peer:
    """The directional keys between one own key pair and one public key of the other side. Making one costs 40 µs."""

    __slots__ = ("_rx", "_sender", "_sender_id", "_tx", "client_key", "server_key")

    def __init__(self, side: Side, mine: KeyPair, theirs: bytes, *, sender: Sender = _process) -> None:
        """ValueError if `theirs` is not a public key that an agreement can be made with."""
        if len(theirs) != PUBLIC_SIZE:
            raise ValueError("an X25519 public key has 32 bytes")
        agree = bindings.crypto_kx_server_session_keys if side == "server" else bindings.crypto_kx_client_session_keys
        try:
            self._rx, self._tx = agree(mine.public, mine.private, theirs)
        except CryptoError as error:
            raise ValueError("this public key cannot be used") from error
        ids = (key_id(mine.public), key_id(theirs))
        self.server_key, self.client_key = ids if side == "server" else ids[::-1]
        self._sender = sender
        self._sender_id = side == "server"

    @property
    def key_ids(self) -> tuple[int, int]:
        return self.server_key, self.client_key

    def seal(self, kind: Kind, subject: str, body: bytes, reply: str = "", message_id: bytes | None = None) -> bytes:
        """`message_id` is given for an answer: the id of what it answers. Its subject is then that reply subject."""
        nonce = os.urandom(24)
        header = HEADER.pack(
            _VERSION,
            _SUITE,
            kind,
            0,
            self.server_key,
            self.client_key,
            self._sender.id if self._sender_id else 0,
            self._sender.next(),
            os.urandom(16) if message_id is None else message_id,
            nonce,
        )
        bound = _bound(header, subject, reply)
        return header + bindings.crypto_aead_xchacha20poly1305_ietf_encrypt(body, bound, nonce, self._tx)

    def open(self, subject: str, data: bytes, reply: str = "", kinds: Collection[Kind] = tuple(Kind)) -> Sealed:
        if len(data) < OVERHEAD:
            raise BadEnvelope("short")
        header = data[: HEADER.size]
        version, suite, kind, flags, server, client, sender, seq, message_id, nonce = HEADER.unpack(header)
        if version != _VERSION or suite != _SUITE or flags:
            raise BadEnvelope("header")
        if (server, client) != self.key_ids:
            raise BadEnvelope("key")
        if kind not in kinds:
            raise BadEnvelope("kind")
        bound = _bound(header, subject, reply)
        try:
            body = bindings.crypto_aead_xchacha20poly1305_ietf_decrypt(data[HEADER.size :], bound, nonce, self._rx)
        except CryptoError:
            raise BadEnvelope("tag") from None
        return Sealed(Kind(kind), sender, seq, message_id, server, client, body)

    def __repr__(self) -> str:
        return f"Peer({self.server_key:08x}, {self.client_key:08x})"


class Ring:
    """The key pairs valid at one time for one instance; old and new overlap while keys rotate."""

    __slots__ = ("_peers",)

    def __init__(self, *peers: Peer) -> None:
        self._peers = {peer.key_ids: peer for peer in peers}

    def add(self, peer: Peer) -> None:
        self._peers[peer.key_ids] = peer

    def remove(self, peer: Peer) -> None:
        self._peers.pop(peer.key_ids, None)

    def find(self, data: bytes) -> Peer:
        """The peer that the header names; BadEnvelope with reason `key` if there is none. Nothing is opened."""
        if len(data) < OVERHEAD:
            raise BadEnvelope("short")
        peer = self._peers.get(_KEY_IDS.unpack_from(data, 4))
        if peer is None:
            raise BadEnvelope("key")
        return peer

    def open(
        self, subject: str, data: bytes, reply: str = "", kinds: Collection[Kind] = tuple(Kind)
    ) -> tuple[Peer, Sealed]:
        """With the peer to answer with: an answer goes out under the key ids of its request."""
        peer = self.find(data)
        return peer, peer.open(subject, data, reply, kinds)

    def __len__(self) -> int:
        return len(self._peers)


def split_enrolment(data: bytes) -> tuple[bytes, bytes]:
    """The guest's public key and the envelope: nobody knows that key yet, so an enrolment carries it in front."""
    if len(data) < PUBLIC_SIZE + OVERHEAD:
        raise BadEnvelope("short")
    return data[:PUBLIC_SIZE], data[PUBLIC_SIZE:]


def _bound(header: bytes, subject: str, reply: str) -> bytes:
    to, back = subject.encode(), reply.encode()
    if max(len(to), len(back)) > 0xFFFF:
        raise BadEnvelope("subject")
    return b"".join((header, len(to).to_bytes(2, "big"), to, len(back).to_bytes(2, "big"), back))
