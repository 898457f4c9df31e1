"""The revoker: publishes account JWTs with their revocations, kicks who was revoked, caps connections of guests.

It is the only writer of account JWTs: the servers take an older one as readily as a newer one, and two with the same
`iat` may undo one another. So one revoker is active, by a lock in the database, and every `iat` is reserved there.
It holds the operator's signing key, talks to the SYS account only and receives nothing that a guest wrote.
"""

from __future__ import annotations

import asyncio
import math
import ssl
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from datetime import datetime
from typing import Protocol

import msgspec

from coffer_provisioner.account import (
    CAPPED_ROLES,
    CLAIMS_PAYLOAD,
    GUEST_CONNECTIONS,
    AccountKeys,
    AccountName,
    account_claims,
)
from coffer_shared import log
from coffer_shared.bus import Backoff, Delivery, Link
from coffer_shared.errors import GiveUp, TryAgain, Unavailable
from coffer_shared.identity import CredentialSource
from coffer_shared.nkeys import NKey

_log = log.get(__name__)

_TURN_SECONDS = 1.0
"""Between looks at the database, and at least between two publications."""
_REPUBLISH_SECONDS = 300.0
_OVERLAP_SECONDS = 300.0
"""How far back news is asked for: a row appears when it is committed, a moment after its time."""
_VOID_SECONDS = 3600
"""JWTs issued up to so long after a revocation are void too: clocks differ, and a revoked key is never used again."""
_ANSWER_SECONDS = 5.0
_LIST_SECONDS = 1.0
_PAGE = 1000
_MOST_SINGLE_LOOKS = 16
_BACKOFF = Backoff(ceiling=5.0)
_PUBLISHED: tuple[AccountName, ...] = ("GUESTS", "CTL")


class Store(Protocol):
    """The revoker's part of the database. Each method may raise `TryAgain`."""

    async def acquire(self) -> bool:
        """Whether this process is the active revoker; asked at every turn."""

    async def revocations(self, since: float) -> list[tuple[str, float]]:
        """(user nkey, revoked at) of those revoked since then whose JWTs may still be valid."""

    async def reserve_iat(self, account: str, now: int) -> int:
        """At least `now`, and larger than every one before for that account."""


def revoker_link(
    urls: tuple[str, ...],
    credentials: CredentialSource,
    *,
    tls: ssl.SSLContext,
    tls_hostname: str | None = None,
    backoff: Backoff = _BACKOFF,
) -> Link:
    """The connection to the SYS account that `Revoker` wants."""
    return Link(
        urls,
        credentials,
        name="revoker",
        tls=tls,
        tls_hostname=tls_hostname,
        inbox="_INBOX.revoker",
        backoff=backoff,
        max_payload=CLAIMS_PAYLOAD,
        silence=Unavailable,
    )


class Revoker:
    def __init__(
        self,
        link: Link,
        store: Store,
        signer: NKey,
        accounts: Mapping[AccountName, AccountKeys],
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`signer` is the operator's signing key. The link is started and closed by `run`."""
        self.counters: Counter[str] = Counter(published=0, kicked=0, failures=0)
        self.active = False
        self._link = link
        self._store = store
        self._signer = signer
        self._accounts = accounts
        self._clock = clock
        self._guests = accounts["GUESTS"].public
        self._capped = frozenset(key for role in CAPPED_ROLES for key in accounts["GUESTS"].signing.get(role, ()))
        self._revoked: dict[str, float] = {}
        self._unpublished: set[str] = set()
        self._all_due = True
        self._published_at = -math.inf
        self._live: dict[str, set[tuple[str, int]]] = {}
        self._over: dict[str, bool] = {}
        """Users whose connections are being counted; True if there are new ones since the count began."""
        self._servers: set[str] = set()
        self._active_servers = 0
        self._woken = asyncio.Event()

    async def run(self) -> None:
        """Until cancelled."""
        self._link.on_up(self._on_up)
        await self._link.subscribe("$SYS.ACCOUNT.*.CONNECT", "", self._on_connect)
        await self._link.subscribe_fast("$SYS.ACCOUNT.*.DISCONNECT", "", self._on_disconnect)
        await self._link.subscribe_fast("$SYS.SERVER.*.STATSZ", "", self._on_server)
        await self._link.start()
        try:
            while True:
                try:
                    await self.turn()
                except TryAgain as error:
                    self.counters["failures"] += 1
                    _log.warning("revoker waits", reason=str(error))
                except Exception:  # noqa: BLE001  revoking must go on after whatever a turn met
                    self.counters["failures"] += 1
                    _log.exception("revoker turn failed")
                await self._pause()
        finally:
            await self._link.close()

    def wake(self) -> None:
        """Look at the database now."""
        self._woken.set()

    async def turn(self) -> None:
        """One look at the database, and what follows from it."""
        active = await self._store.acquire()
        if active != self.active:
            _log.info("revoker", active=active)
            self.active, self._all_due = active, True
        if not active or not self._link.connected:
            return
        if self._all_due or time.monotonic() - self._published_at >= _REPUBLISH_SECONDS:
            await self._publish_all()
        else:
            await self._publish_news()

    # --- publishing

    async def _publish_all(self) -> None:
        self._all_due = False
        try:
            self._revoked = dict(await self._store.revocations(0.0))
            await self._publish()
            for name in _PUBLISHED:
                await self._look(self._accounts[name].public, None)
        except BaseException:
            self._all_due = True
            raise

    async def _publish_news(self) -> None:
        since = max(self._revoked.values(), default=_OVERLAP_SECONDS) - _OVERLAP_SECONDS
        news = {nkey: at for nkey, at in await self._store.revocations(since) if nkey not in self._revoked}
        self._revoked |= news
        self._unpublished |= news.keys()
        if not self._unpublished:
            return
        fresh = set(self._unpublished)
        await self._publish()
        for name in _PUBLISHED:
            users: Collection[str | None] = fresh if len(fresh) <= _MOST_SINGLE_LOOKS else (None,)
            for user in users:
                await self._look(self._accounts[name].public, user)
        self._unpublished -= fresh

    async def _publish(self) -> None:
        revocations = {nkey: int(at) + _VOID_SECONDS for nkey, at in self._revoked.items()}
        for name in _PUBLISHED:
            keys = self._accounts[name]
            iat = await self._store.reserve_iat(keys.public, int(self._clock()))
            claims = account_claims(
                name, keys.public, keys.signing, self._signer, revocations=revocations, iat=iat
            ).encode()
            try:
                received = await self._link.ask("$SYS.REQ.CLAIMS.UPDATE", lambda _, c=claims: c, _ANSWER_SECONDS)  # type: ignore[misc]
            except GiveUp as error:
                raise Unavailable(f"{len(revocations)} revocations do not fit into account {name}") from error
            answer = msgspec.json.decode(received.data, type=_Answer)
            if answer.data is None or answer.data.code != 200:
                text = answer.error.description if answer.error else "no reason given"
                raise Unavailable(f"the server did not take account {name}: {text}")
        self.counters["published"] += 1
        self._published_at = time.monotonic()
        _log.info("accounts published", revocations=len(revocations))

    # --- connections

    async def _look(self, account: str, user: str | None) -> None:
        """Kick the revoked connections of an account, or of one user in it. Without a user: count all guests anew."""
        live: dict[str, set[tuple[str, int]]] = {}
        for server, connection in await self._connections(account, user):
            if connection.authorized_user in self._revoked:
                await self._kick(server, connection.cid, "revoked", connection.authorized_user)
            elif connection.issuer_key in self._capped:
                live.setdefault(connection.authorized_user, set()).add((server, connection.cid))
        if user is None and account == self._guests:
            self._live = live
            for each in [each for each, found in live.items() if len(found) > GUEST_CONNECTIONS]:
                await self._cap(each)

    async def _cap(self, user: str) -> None:
        """Keep the oldest connections of a guest and kick the others."""
        if user in self._over:
            self._over[user] = True
            return
        self._over[user] = True
        try:
            while self._over[user]:
                self._over[user] = False
                found = sorted(await self._connections(self._guests, user), key=lambda each: each[1].start)
                self._live[user] = {(server, each.cid) for server, each in found[:GUEST_CONNECTIONS]}
                for server, each in found[GUEST_CONNECTIONS:]:
                    await self._kick(server, each.cid, "too many connections", user)
        finally:
            del self._over[user]

    async def _connections(self, account: str, user: str | None) -> list[tuple[str, _Connection]]:
        """With the id of the server that holds each."""
        found: list[tuple[str, _Connection]] = []
        offset = 0
        more = True
        while more:
            query = {"auth": True, "limit": _PAGE, "offset": offset} | ({"user": user} if user else {})
            answers = await self._link.ask_all(
                f"$SYS.REQ.ACCOUNT.{account}.CONNZ", msgspec.json.encode(query), _LIST_SECONDS, self._active_servers
            )
            more = False
            for each in answers:
                listing = msgspec.json.decode(each.data, type=_Listing)
                if listing.data is not None:
                    found += [(listing.server.id, connection) for connection in listing.data.connections]
                    more = more or len(listing.data.connections) == _PAGE
            offset += _PAGE
        return found

    async def _kick(self, server: str, cid: int, why: str, user: str) -> None:
        # Without a reply subject the server ignores the request.
        data = msgspec.json.encode({"cid": cid})
        await self._link.publish(f"$SYS.REQ.SERVER.{server}.KICK", data, "_INBOX.revoker.kick")
        self.counters["kicked"] += 1
        _log.warning("connection kicked", reason=why, user=user)

    # --- what servers tell

    async def _on_up(self) -> None:
        self._all_due = True
        self.wake()

    def _on_server(self, received: Delivery) -> None:
        """A server not seen before may have started without the latest accounts."""
        event = msgspec.json.decode(received.data, type=_ServerEvent)
        self._active_servers = event.statsz.active_servers
        if event.server.id not in self._servers:
            self._servers.add(event.server.id)
            self._all_due = True
            self.wake()

    async def _on_connect(self, received: Delivery) -> None:
        event = msgspec.json.decode(received.data, type=_ClientEvent)
        client = event.client
        if client.acc != self._guests or client.issuer_key not in self._capped:
            return
        live = self._live.setdefault(client.user, set())
        live.add((event.server.id, client.id))
        if self.active and len(live) > GUEST_CONNECTIONS:
            with suppress(Unavailable):  # the next count of all finds it again
                await self._cap(client.user)

    def _on_disconnect(self, received: Delivery) -> None:
        event = msgspec.json.decode(received.data, type=_ClientEvent)
        live = self._live.get(event.client.user)
        if live is not None:
            live.discard((event.server.id, event.client.id))
            if not live:
                del self._live[event.client.user]

    async def _pause(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_TURN_SECONDS):
                await self._woken.wait()
        self._woken.clear()
        await asyncio.sleep(max(0.0, self._published_at + _TURN_SECONDS - time.monotonic()))


class _Server(msgspec.Struct):
    id: str


class _Client(msgspec.Struct):
    id: int
    acc: str = ""
    user: str = ""
    issuer_key: str = ""


class _ClientEvent(msgspec.Struct):
    server: _Server
    client: _Client


class _Stats(msgspec.Struct):
    active_servers: int = 0


class _ServerEvent(msgspec.Struct):
    server: _Server
    statsz: _Stats


class _Connection(msgspec.Struct):
    cid: int
    start: datetime
    authorized_user: str = ""
    issuer_key: str = ""


class _Page(msgspec.Struct):
    connections: list[_Connection] = []


class _Listing(msgspec.Struct):
    server: _Server
    data: _Page | None = None


class _Taken(msgspec.Struct):
    code: int = 0


class _Refused(msgspec.Struct):
    description: str = ""


class _Answer(msgspec.Struct):
    data: _Taken | None = None
    error: _Refused | None = None
