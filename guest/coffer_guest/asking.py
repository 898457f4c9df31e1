"""Asking the provisioner: one sealed request, one answer."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from coffer_guest.trust import PROVISIONER, Trust
from coffer_shared import subjects
from coffer_shared.bus import Link, ask_sealed
from coffer_shared.errors import GiveUp, TryAgain
from coffer_shared.messages import Denied, Message, Request, RequestAnswer, decode_request_answer, encode
from coffer_shared.seal import BadEnvelope, Kind

T = TypeVar("T", bound=Message)


async def ask_provisioner(
    link: Link, trust: Trust, instance: str, request: Request, *, within: float = 10.0
) -> RequestAnswer:
    """TryAgain when there is no answer, or none that can be read; BadEnvelope when it answers something else."""
    peer, subject = trust.peer(PROVISIONER), subjects.request(instance)
    raw = await ask_sealed(link, peer, Kind.REQUEST, subject, encode(request), answer=Kind.RESPONSE, timeout=within)
    try:
        answer: RequestAnswer = decode_request_answer(raw)
    except msgspec.DecodeError as error:
        raise TryAgain("the answer cannot be read") from error
    return answer


async def ask_for(
    link: Link, trust: Trust, instance: str, request: Request, answer: type[T], *, within: float
) -> T:
    """TryAgain while the control plane is silent, or says what was not asked; GiveUp with its code when it denies."""
    try:
        found = await ask_provisioner(link, trust, instance, request, within=within)
    except BadEnvelope as error:
        raise TryAgain(str(error)) from error
    if isinstance(found, Denied):
        raise GiveUp(found.code, found.text)
    if not isinstance(found, answer):
        raise TryAgain("another kind of answer")
    return found
