"""The HTTPS door on the management network, for agents whose NATS credential has expired.

It knows one request: a new JWT for the nkey that this database already knows for the instance, signed by that nkey. The
nkey before a rotation counts until the guest was heard under the new one: the rotation's answer may have been lost.
A JWT is of no use without the key's seed, which never left the guest, so the answer needs no sealing beyond TLS.
Service `coffer-door`: it holds the guests' signing key and a database role that reads guests, nothing more.
"""

from __future__ import annotations

import base64
import ssl
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import msgspec
import uvloop
from aiohttp import web
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from coffer_db.database import Database, DatabaseSettings
from coffer_provisioner.issuer import GUEST_LIFETIME, Issuer
from coffer_shared import log, settings
from coffer_shared.errors import Unavailable
from coffer_shared.lifetime import until_signalled
from coffer_shared.nkeys import NKey, verify
from coffer_shared.subjects import instance_id

CONTEXT = "coffer-renew"
SKEW_SECONDS = 600.0
"""How far the guest's clock may be off."""
PER_MINUTE = 6
"""Requests of one instance, and of one address, before the rest are turned away."""
BODY_BYTES = 2048
_MOST_CALLERS = 20_000

_log = log.get(__name__)


class DoorSettings(DatabaseSettings, frozen=True, kw_only=True):
    state_dir: str
    port: int = 8443
    guest_life: int = GUEST_LIFETIME
    log_level: str = "info"
    metrics_port: int = 9101


class Renewal(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    instance: str
    nkey: str
    at: Annotated[int, msgspec.Meta(ge=0, lt=1 << 33)]
    """Unix seconds."""
    signature: str
    """Base64, by the nkey over `coffer-renew:<instance>:<at>`."""


class Door:
    def __init__(self, db: Database, issuer: Issuer, *, clock: Callable[[], float] = time.time) -> None:
        self._db = db
        self._issuer = issuer
        self._clock = clock
        self._calls: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def app(self) -> web.Application:
        app = web.Application(client_max_size=BODY_BYTES)
        app.router.add_post("/renew", self.renew)
        return app

    async def renew(self, request: web.Request) -> web.Response:
        """403 says nothing about which check failed."""
        if not self._admit(f"address {request.remote}"):
            return web.json_response({"error": "too many requests"}, status=429, headers={"Retry-After": "60"})
        try:
            asked = msgspec.json.decode(await request.read(), type=Renewal)
            instance_id(asked.instance)
            signature = base64.b64decode(asked.signature, validate=True)
        except ValueError:
            return web.json_response({"error": "not a renewal request"}, status=400)
        try:
            allowed = self._signed(asked, signature) and await self._known(asked)
        except Unavailable:
            return web.json_response({"error": "try again later"}, status=503, headers={"Retry-After": "5"})
        if not allowed:
            _log.warning("renewal refused", instance=asked.instance, address=request.remote)
            return web.json_response({"error": "refused"}, status=403)
        # Counted only when it is the guest itself: whoever names another's instance must not use up its share.
        if not self._admit(f"instance {asked.instance}"):
            return web.json_response({"error": "too many requests"}, status=429, headers={"Retry-After": "60"})
        _log.info("credential renewed", instance=asked.instance)
        return web.json_response({"jwt": self._issuer.guest(asked.instance, asked.nkey)})

    def _signed(self, asked: Renewal, signature: bytes) -> bool:
        if abs(self._clock() - asked.at) > SKEW_SECONDS:
            return False
        try:
            verify(asked.nkey, f"{CONTEXT}:{asked.instance}:{asked.at}".encode(), signature)
        except ValueError:
            return False
        return True

    async def _known(self, asked: Renewal) -> bool:
        async def look(connection: AsyncConnection) -> Any:
            return (await connection.execute(_KNOWN, {"instance": asked.instance, "nkey": asked.nkey})).first()

        return await self._db.read(look) is not None

    def _admit(self, caller: str) -> bool:
        """A fixed window of a minute; the callers remembered are bounded, the longest unseen are forgotten first."""
        now = self._clock()
        since, count = self._calls.pop(caller, (now, 0))
        if now - since > 60:
            since, count = now, 0
        self._calls[caller] = (since, count + 1)
        while len(self._calls) > _MOST_CALLERS:
            self._calls.popitem(last=False)
        return count < PER_MINUTE


_KNOWN = text("""
    SELECT 1 FROM guests g JOIN instances i ON i.id = g.instance_id
    WHERE g.instance_id = :instance AND :nkey IN (g.nkey, g.nkey_old) AND g.revoked_at IS NULL
      AND i.deleted_at IS NULL AND NOT EXISTS (SELECT FROM revocations r WHERE r.nkey = :nkey)
""")


async def serve(chosen: DoorSettings) -> None:
    state = Path(chosen.state_dir)
    accounts = msgspec.json.decode((state / "accounts.json").read_bytes())
    seed = NKey.from_seed((state / "guest-signing.seed").read_text())
    issuer = Issuer(seed, seed, accounts["GUESTS"]["public"], guest_lifetime=chosen.guest_life)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.minimum_version = ssl.TLSVersion.TLSv1_3
    tls.load_cert_chain(state / "server.pem", state / "server.key")
    db = Database(chosen, name="coffer-door")
    runner = web.AppRunner(Door(db, issuer).app(), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "0.0.0.0", chosen.port, ssl_context=tls).start()
    try:
        await until_signalled()
    finally:
        await runner.cleanup()
        await db.close()


def main() -> None:
    chosen = settings.load(DoorSettings)
    log.configure("door", chosen.log_level)
    uvloop.run(serve(chosen))
