"""Storage grants: having them renewed while what needs them runs.

A grant to write lives for seconds, so that a backup that is given up cannot be written to for long.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from coffer_guest.asking import ask_for
from coffer_guest.trust import Trust
from coffer_shared.backups import Grant
from coffer_shared.bus import Link
from coffer_shared.errors import GiveUp
from coffer_shared.messages import Failure, Granted, RenewGrant

_ANSWER_SECONDS = 5.0
_AGAIN_SECONDS = 3.0
_PORTS = {"http": 80, "https": 443}


class Grants:
    """Who gives them."""

    def __init__(self, instance: str, trust: Trust, link: Link) -> None:
        self._instance = instance
        self._trust = trust
        self._link = link

    async def renew(self, operation: str) -> Grant:
        """TryAgain while the control plane is silent, GiveUp with its code when it denies."""
        request = RenewGrant(op=operation)
        answer = await ask_for(self._link, self._trust, self._instance, request, Granted, within=_ANSWER_SECONDS)
        return answer.grant


class Lease:
    """One grant after the other. `now` is always the control plane's time."""

    def __init__(self, grant: Grant, now: float, *, renewed: bool = False) -> None:
        self.grant = grant
        left = (grant.expires_at - now) / 2
        self._renew_at = now + max(left, _AGAIN_SECONDS if renewed else 0.0)

    def is_due(self, now: float) -> bool:
        """Half of the life that it had when it came is over."""
        return now >= self._renew_at

    def put_off(self, now: float) -> None:
        """It could not be renewed now. Until it is, the old one may still do."""
        self._renew_at = now + _AGAIN_SECONDS


def storage_port(grant: Grant) -> int:
    """Of the object store that it is for. GiveUp(invalid) if that cannot be told."""
    try:
        parts = urlsplit(grant.url)
        port = parts.port or _PORTS.get(parts.scheme, 0)
    except ValueError:
        port = 0
    if not port:
        raise GiveUp(Failure.INVALID, "the grant names no object store")
    return port
