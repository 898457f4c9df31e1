"""The services' side of one guest, small and in memory, on a real nats-server."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from coffer_shared import keyset, messages, subjects
from coffer_shared.backups import Grant
from coffer_shared.bus import Backoff, Delivery, Link, ask_sealed, tls_context
from coffer_shared.identity import UserData, encode_user_data
from coffer_shared.keyset import KeySet, ServiceKey
from coffer_shared.messages import (
    Command,
    CommandAnswer,
    Credential,
    Desired,
    Finished,
    Frozen,
    Heartbeat,
    Noted,
    Progress,
    Renew,
    RenewGrant,
    Rotate,
    Start,
    Sync,
)
from coffer_shared.seal import BadEnvelope, KeyPair, Kind, Peer, Ring, split_enrolment
from support.nats_server import NatsServer

T = TypeVar("T")
QUICK = Backoff(first=0.05, ceiling=0.3)
KINDS = {"provisioner": ("start", "cancel", "query", "probe"), "api": ("query",), "status-collector": ()}


async def eventually(check: Callable[[], T | None], within: float = 15.0) -> T:
    try:
        async with asyncio.timeout(within):
            while not (found := check()):
                await asyncio.sleep(0.01)
            return found
    except TimeoutError:
        raise AssertionError(f"not within {within} s: {check}") from None


@dataclass
class ControlPlane:
    server: NatsServer
    instance: str
    life: int = 86400
    """Seconds that a guest's JWT lives."""
    allowed: list[str] = field(default_factory=list)
    slow: dict[str, float] = field(default_factory=dict)
    """Seconds between the making of an answer and its sending, by the kind of request."""
    root_seed: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    keys: dict[str, KeyPair] = field(default_factory=lambda: {name: KeyPair.generate() for name in KINDS})
    links: dict[str, Link] = field(default_factory=dict)
    secret: str = field(default_factory=lambda: secrets.token_hex(32))
    guest_keys: list[bytes] = field(default_factory=list)
    """X25519 public keys of the guest, the newest last."""
    nkeys: list[str] = field(default_factory=list)
    enrolments: list[str] = field(default_factory=list)
    """What was answered to each: new, again, refused."""
    deaf: set[str] = field(default_factory=set)
    """Kinds of messages that get no answer now."""
    heartbeats: list[Heartbeat] = field(default_factory=list)
    events: dict[tuple[str, int], Progress | Finished] = field(default_factory=dict)
    order: list[tuple[str, int]] = field(default_factory=list)
    """Events as they came, repeats too."""
    requests: list[str] = field(default_factory=list)
    denied: dict[str, messages.Denied] = field(default_factory=dict)
    """Operations that get no grant, and no copy of their volume, any more."""
    copied: set[str] = field(default_factory=set)
    """Operations whose volume is copied."""
    grant_life: float = 30.0
    clock_offset: float = 0.0

    async def start(self) -> None:
        self._credentials = {service: self.server.service_creds(service) for service in KINDS}
        for service in KINDS:
            inbox = f"_INBOX.{service}" if service != "status-collector" else ""
            link = Link(
                (self.server.url,),
                partial(self._credentials.__getitem__, service),
                name=service,
                tls=tls_context(self.server.ca_pem),
                inbox=inbox,
                max_payload=1 << 20,
                backoff=QUICK,
            )
            self.links[service] = link
        provisioner, collector = self.links["provisioner"], self.links["status-collector"]
        await provisioner.subscribe(subjects.ENROLMENTS, "enrol", self._on_enrol)
        await provisioner.subscribe(subjects.REQUESTS, "req", self._on_request)
        await collector.subscribe(subjects.EVENTS, "ev", self._on_event)
        await collector.subscribe(subjects.HEARTBEATS, "hb", self._on_heartbeat)
        for link in self.links.values():
            await link.start()
        for link in self.links.values():
            await link.ready(10)

    async def close(self) -> None:
        for link in self.links.values():
            await link.close(grace=0)

    @property
    def keyset_text(self) -> str:
        listed = tuple(ServiceKey(name, self.keys[name].public.hex(), KINDS[name], 0.0, 9e9) for name in KINDS)
        return keyset.sign(KeySet(listed, self._keyset_at), self.root_seed)

    _keyset_at = 1.0

    def write_user_data(self, path: Path, *, renewal_url: str = "") -> None:
        boot, expires_at = self.server.issuer.bootstrap(self.instance)
        data = UserData(
            instance=self.instance,
            nats_urls=(self.server.url,),
            ca=self.server.ca_pem,
            root=keyset.root_public(self.root_seed),
            keyset=self.keyset_text,
            boot_jwt=boot.jwt,
            boot_seed=boot.seed,
            secret=self.secret,
            expires_at=expires_at,
            renewal_url=renewal_url,
        )
        path.write_bytes(encode_user_data(data))

    # --- towards the guest ---

    async def send(self, command: Command, by: str = "provisioner", *, timeout: float = 5.0) -> CommandAnswer:
        raw = await ask_sealed(
            self.links[by],
            self.peer(by),
            Kind.CMD,
            subjects.command(self.instance),
            messages.encode(command),
            answer=Kind.CMD_ANSWER,
            timeout=timeout,
        )
        answer: CommandAnswer = messages.decode_command_answer(raw)
        return answer

    async def start_command(self, op: str, kind: str, args: dict[str, Any] | None = None, *, left: float = 60.0) -> Any:
        return await self.send(Start(op=op, kind=kind, args=args or {}, deadline=time.time() + left))

    def peer(self, service: str) -> Peer:
        return Peer("server", self.keys[service], self.guest_keys[-1])

    def grant(self, life: float) -> Grant:
        until = time.time() + self.clock_offset + life
        return Grant("swift", "http://swift.coffer:8080/v1/x/", secrets.token_hex(8), "PUT", until)

    # --- what the guest told ---

    def ending(self, op: str) -> Finished | None:
        return next((event for event in self.events.values() if isinstance(event, Finished) and event.op == op), None)

    def numbers(self, op: str) -> list[int]:
        return sorted(n for found, n in self.events if found == op)

    # --- handlers ---

    async def _on_enrol(self, delivery: Delivery) -> None:
        assert subjects.reply_allowed(delivery.subject, delivery.reply)
        public, sealed = split_enrolment(delivery.data)
        peer = Peer("server", self.keys["provisioner"], public)
        opened = peer.open(delivery.subject, sealed, delivery.reply, (Kind.ENROL,))
        asked = messages.decode_enrol(opened.body)
        same = bool(self.guest_keys) and self.guest_keys[-1] == public and self.nkeys[-1] == asked.nkey
        if asked.secret != self.secret or (self.guest_keys and not same):
            self.enrolments.append("refused")
            return
        self.enrolments.append("again" if same else "new")
        if not same:
            self.guest_keys.append(public)
            self.nkeys.append(asked.nkey)
        if "enrol" in self.deaf:
            return
        await self._answer(delivery, peer, opened.message_id, self._credential(asked.nkey))

    async def _on_request(self, delivery: Delivery) -> None:
        peer, opened = self._open("provisioner", delivery, Kind.REQUEST)
        asked = messages.decode_request(opened.body)
        self.requests.append(type(asked).__name__)
        if type(asked).__name__ in self.deaf:
            return
        match asked:
            case Sync():
                answer: messages.Message = Desired(
                    now=time.time() + self.clock_offset, allowed_cidrs=self.allowed, keyset=self.keyset_text
                )
            case Renew():
                answer = self._credential(self.nkeys[-1])
            case RenewGrant():
                answer = self.denied.get(asked.op) or messages.Granted(grant=self.grant(self.grant_life))
            case Frozen():
                answer = self.denied.get(asked.op) or messages.Copied(done=asked.op in self.copied)
            case Rotate():
                public = bytes.fromhex(asked.xpub)
                if public not in self.guest_keys:
                    self.guest_keys.append(public)
                    self.nkeys.append(asked.nkey)
                answer = self._credential(asked.nkey)
        await asyncio.sleep(self.slow.get(type(asked).__name__, 0.0))
        await self._answer(delivery, peer, opened.message_id, answer)

    async def _on_event(self, delivery: Delivery) -> None:
        peer, opened = self._open("status-collector", delivery, Kind.EVENT)
        event = messages.decode_event(opened.body)
        self.order.append((event.op, event.n))
        self.events.setdefault((event.op, event.n), event)
        if "event" not in self.deaf:
            await self._answer(delivery, peer, opened.message_id, Noted())

    async def _on_heartbeat(self, delivery: Delivery) -> None:
        _, opened = self._open("status-collector", delivery, Kind.HEARTBEAT)
        self.heartbeats.append(messages.decode_heartbeat(opened.body))

    def _open(self, service: str, delivery: Delivery, kind: Kind) -> tuple[Peer, Any]:
        ring = Ring(*(Peer("server", self.keys[service], public) for public in self.guest_keys))
        if kind is not Kind.HEARTBEAT and not subjects.reply_allowed(delivery.subject, delivery.reply):
            raise BadEnvelope("reply")
        return ring.open(delivery.subject, delivery.data, delivery.reply, (kind,))

    async def _answer(self, delivery: Delivery, peer: Peer, message_id: bytes, answer: messages.Message) -> None:
        await delivery.answer(peer.seal(Kind.RESPONSE, delivery.reply, messages.encode(answer), message_id=message_id))

    def _credential(self, nkey: str) -> Credential:
        token = self.server.issuer.guest(self.instance, nkey, self.life)
        return Credential(jwt=token, now=time.time() + self.clock_offset, keyset=self.keyset_text)
