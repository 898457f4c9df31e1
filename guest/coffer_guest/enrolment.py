"""From user data to an identity of the agent's own.

The agent makes its keys and stores them before it sends anything, so that after a crash at any point it asks again
with the same keys, which is answered; other keys would be taken for a thief's. Only when identity and home are stored
together is the user data file destroyed.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from pathlib import Path

import msgspec

from coffer_guest import __version__
from coffer_guest.clock import Clock
from coffer_guest.scrubbing import destroy
from coffer_guest.state import Home, Identity, State
from coffer_guest.trust import enrolment_key
from coffer_shared import log, subjects
from coffer_shared.bus import Backoff, Link, tls_context
from coffer_shared.errors import GuestSilent, TryAgain
from coffer_shared.identity import UserData, decode_user_data
from coffer_shared.keyset import verify
from coffer_shared.messages import Credential, Denied, Enrol, RequestAnswer, decode_request_answer, encode
from coffer_shared.nkeys import Kind as KeyKind
from coffer_shared.nkeys import NKey
from coffer_shared.seal import BadEnvelope, KeyPair, Kind, Peer

_log = log.get(__name__)

_FILE_SECONDS = 1.0
_ANSWER_SECONDS = 5.0
_CONNECT_SECONDS = 20.0


class CannotEnrol(Exception):
    """For good: the user data belong to another instance, or are not what they should be."""


async def ensure_enrolled(state: State, path: Path, clock: Clock, *, backoff: Backoff) -> tuple[Identity, Home]:
    """The identity on disk, or a new one by means of the user data. Tries until it has one.

    User data that was not used yet, for the same instance, enrols again: it is how an agent that lost its identity
    is given another.
    """
    identity, home = await state.identity(), await state.home()
    fresh = await asyncio.to_thread(_read, path)
    while fresh is None and (identity is None or home is None or not identity.jwt):
        await asyncio.sleep(_FILE_SECONDS)
        fresh = await asyncio.to_thread(_read, path)
    if fresh is not None and home is not None:
        if fresh.instance != home.instance:
            raise CannotEnrol(f"the user data are of instance {fresh.instance}; this machine is {home.instance}")
        if _mark(fresh) == home.enrolled_with:
            await asyncio.to_thread(destroy, path)
            fresh = None
    if fresh is None:
        assert identity is not None
        assert home is not None
        return identity, home
    identity, home = await _enrol(state, fresh, clock, backoff)
    await state.enrolled(identity, home)
    await asyncio.to_thread(destroy, path)  # the cloud may still serve the text, which by now is of no use to anybody
    _log.info("enrolled", instance=home.instance)
    return identity, home


async def _enrol(state: State, data: UserData, clock: Clock, backoff: Backoff) -> tuple[Identity, Home]:
    identity = await state.next_identity()
    if identity is None:
        identity = new_identity(clock)
        await state.set_next_identity(identity)
    link = Link(
        data.nats_urls,
        lambda: data.boot,
        name=f"enrol {data.instance}",
        tls=tls_context(data.ca) if data.ca else None,
        inbox=subjects.enrol_inbox(data.instance),
        max_payload=4096,
        backoff=backoff,
    )
    await link.start()
    failures = 0
    try:
        while True:
            try:
                await link.ready(_CONNECT_SECONDS)
                credential = await _ask(link, data, identity, clock)
                break
            except (TryAgain, BadEnvelope) as error:
                failures += 1
                _log.warning("not enrolled yet", reason=str(error), attempt=failures)
                await asyncio.sleep(backoff.delay(failures))
    finally:
        await link.close(grace=0)
    clock.correct(credential.now)
    keyset = credential.keyset or data.keyset
    verify(keyset, data.root)
    home = Home(data.instance, data.nats_urls, data.ca, data.root, keyset, data.renewal_url, _mark(data))
    return msgspec.structs.replace(identity, jwt=credential.jwt), home


async def _ask(link: Link, data: UserData, identity: Identity, clock: Clock) -> Credential:
    keys, subject = identity.keys, subjects.enrol(data.instance)
    peer = Peer("client", keys, enrolment_key(verify(data.keyset, data.root), clock.now()).raw)
    message_id = os.urandom(16)
    body = encode(
        Enrol(
            secret=data.secret,
            xpub=keys.public.hex(),
            nkey=NKey.from_seed(identity.seed).public,
            version=__version__,
        )
    )

    def build(reply: str) -> bytes:
        # Nobody knows the agent's key yet, so it goes in front.
        return keys.public + peer.seal(Kind.ENROL, subject, body, reply, message_id)

    received = await link.ask(subject, build, _ANSWER_SECONDS)
    opened = peer.open(received.subject, received.data, kinds=(Kind.RESPONSE,))
    if opened.message_id != message_id:
        raise BadEnvelope("answer")
    answer: RequestAnswer = decode_request_answer(opened.body)
    if isinstance(answer, Denied):
        raise GuestSilent(f"enrolment denied: {answer.code} {answer.text}")
    if not isinstance(answer, Credential):
        raise BadEnvelope("answer")
    return answer


def new_identity(clock: Clock) -> Identity:
    return Identity(KeyPair.generate().private.hex(), NKey.generate(KeyKind.USER).seed, clock.now())


def _mark(data: UserData) -> str:
    return hashlib.sha256(data.secret.encode()).hexdigest()


def _read(path: Path) -> UserData | None:
    """None while there is no file, or it is being written."""
    try:
        return decode_user_data(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        _log.warning("user data cannot be read", reason=str(error), at=time.time())
        return None
