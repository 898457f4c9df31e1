"""The way back for an agent whose JWT has expired: an HTTPS door, asked with the nkey that it still knows."""

from __future__ import annotations

import base64
from typing import Any

import aiohttp
import msgspec

from coffer_guest.clock import Clock
from coffer_guest.state import Home, Identity
from coffer_shared import jwt
from coffer_shared.bus import tls_context
from coffer_shared.errors import GiveUp, Unavailable
from coffer_shared.messages import Failure
from coffer_shared.nkeys import NKey

_SECONDS = 15.0


class _Answer(msgspec.Struct):
    jwt: str


async def re_issue(home: Home, identity: Identity, clock: Clock) -> str:
    """A new JWT for the same key. Unavailable when the door is shut or silent, GiveUp(forbidden) when it refuses.

    Without a sealed answer the JWT is trusted for TLS and for naming this agent's key; it opens nothing for another.
    """
    if not home.renewal_url:
        raise GiveUp(Failure.FORBIDDEN, "no renewal address is known")
    body = renewal_request(home.instance, identity, clock)
    timeout = aiohttp.ClientTimeout(total=_SECONDS)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.post(home.renewal_url, json=body, ssl=tls_context(home.ca) if home.ca else True) as response,
        ):
            if response.status in {401, 403, 404}:
                raise GiveUp(Failure.FORBIDDEN, f"the door answered {response.status}")
            if response.status != 200:
                raise Unavailable(f"the door answered {response.status}")
            raw = await response.content.read(64 * 1024)
    except (aiohttp.ClientError, OSError) as error:
        raise Unavailable(f"the door does not answer: {error or type(error).__name__}") from error
    return _checked(raw, identity, clock)


def renewal_request(instance: str, identity: Identity, clock: Clock) -> dict[str, Any]:
    key = NKey.from_seed(identity.seed)
    at = int(clock.now())
    signature = key.sign(f"coffer-renew:{instance}:{at}".encode())
    return {"instance": instance, "nkey": key.public, "at": at, "signature": base64.b64encode(signature).decode()}


def _checked(raw: bytes, identity: Identity, clock: Clock) -> str:
    try:
        text = msgspec.json.decode(raw, type=_Answer).jwt
        claims = jwt.decode(text, now=clock.now())
    except (msgspec.DecodeError, ValueError) as error:
        raise Unavailable(f"the door's answer is no JWT: {error}") from error
    if claims.subject != NKey.from_seed(identity.seed).public:
        raise Unavailable("the door's answer is for another key")
    return text
