"""Copies of the data volume: asking whether the one is made for which the volume stands still."""

from __future__ import annotations

from coffer_guest.asking import ask_for
from coffer_guest.trust import Trust
from coffer_shared.bus import Link
from coffer_shared.messages import Copied, Frozen

_ANSWER_SECONDS = 2.0
"""Whoever writes waits meanwhile, so a lost question is soon asked again."""


class Copies:
    """Who has them made."""

    def __init__(self, instance: str, trust: Trust, link: Link) -> None:
        self._instance = instance
        self._trust = trust
        self._link = link

    async def is_made(self, operation: str) -> bool:
        """TryAgain while the control plane is silent, GiveUp with its code when it denies."""
        request = Frozen(op=operation)
        answer = await ask_for(self._link, self._trust, self._instance, request, Copied, within=_ANSWER_SECONDS)
        return answer.done
