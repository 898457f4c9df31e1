"""What is asked of Keystone: whether a token is good, what was revoked, who our own user is, and where other services
are. In threads, with deadlines, as the user that openstack.config finds. Nothing is remembered here.

    Away                 Keystone gives no answer
    └── Refused          it gives one, but not what was asked for: our user lacks the role, or it has a fault
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from coffer_clouds.session import sign_in, tls_of

if TYPE_CHECKING:
    from keystoneauth1.session import Session

THREADS = 4
PAUSE = 5.0
"""Seconds without another attempt after Keystone did not take our own password: accounts are locked after some."""
_PASSING = frozenset({502, 503, 504})
"""What a proxy answers when nobody is behind it."""
_T = TypeVar("_T")


class Away(Exception):
    pass


class Refused(Away):
    pass


@dataclass(frozen=True, slots=True)
class Token:
    """What Keystone says of one. It does not hold the token itself."""

    user: str
    project: str | None
    """None: it is for a domain, the system or nothing."""
    roles: frozenset[str]
    expires_at: float
    """Unix time."""


class Keystone:
    """Calls may be made from one loop, any number at a time; a few threads carry them."""

    def __init__(self, session: Session, url: str, deadline: float) -> None:
        self.tls = tls_of(session)
        """How the cloud is known, for aiohttp."""
        self._session = session
        self._url = url
        self._deadline = deadline
        self._paused_until = 0.0
        self._judges = ThreadPoolExecutor(THREADS, "keystone")
        self._watcher = ThreadPoolExecutor(1, "keystone-revocations")

    async def validate(self, token: str) -> Token | None:
        """None when Keystone does not know it (any more). Away."""
        return await self._within(self._judges, lambda: self._validate(token))

    async def revocations(self, since: float) -> frozenset[str]:
        """What was revoked since that Unix time, each event as an opaque text. Away."""
        return await self._within(self._watcher, lambda: self._revocations(since))

    async def endpoint(self, service: str, interface: str, region: str) -> str | None:
        """Where the catalogue of our own user says that it is, without a slash at the end; None: nowhere. Away."""
        return await self._within(self._judges, lambda: self._endpoint(service, interface, region))

    async def identity(self) -> tuple[str, str]:
        """The ids of our own user's project, and of the user. Away."""
        project = await self._within(self._judges, lambda: self._own(self._session.get_project_id))
        user = await self._within(self._judges, lambda: self._own(self._session.get_user_id))
        if project is None or user is None:
            raise Refused("the service's user has no project")
        return project, user

    def close(self) -> None:
        for pool in (self._judges, self._watcher):
            pool.shutdown(wait=False, cancel_futures=True)

    async def _within(self, pool: ThreadPoolExecutor, work: Callable[[], _T]) -> _T:
        try:
            async with asyncio.timeout(self._deadline):
                return await asyncio.get_running_loop().run_in_executor(pool, work)
        except TimeoutError:
            raise Away(f"no answer within {self._deadline:g} s") from None

    def _validate(self, token: str) -> Token | None:
        found = self._get("/auth/tokens?nocatalog", {"X-Subject-Token": token}, _Validation)
        return None if found is None else found.token.judged()

    def _revocations(self, since: float) -> frozenset[str]:
        text = datetime.fromtimestamp(since, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        found = self._get(f"/OS-REVOKE/events?since={text}", {}, _Events)
        if found is None:
            raise Refused("it has no list of revocations")
        return frozenset(msgspec.json.encode(event, order="deterministic").decode() for event in found.events)

    def _get(self, path: str, headers: dict[str, str], kind: type[_T]) -> _T | None:
        """None for 404."""
        # A header of ours is in no log: keystoneauth would write down a hash of it, and writes nothing so.
        answer = self._asking(lambda: self._session.get(
            self._url + path, headers={"Accept": "application/json", **headers}, raise_exc=False, redirect=False,
            log=False,
        ))
        if answer.status_code == 404:
            return None
        if answer.status_code != 200:
            raise (Away if answer.status_code in _PASSING else Refused)(f"it answered {answer.status_code}")
        try:
            return msgspec.json.decode(answer.content, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise Refused("its answer is not one of Keystone's") from None

    def _endpoint(self, service: str, interface: str, region: str) -> str | None:
        from keystoneauth1.exceptions import CatalogException  # noqa: PLC0415 - see `sign_in`

        def find() -> str | None:
            try:
                found: str | None = self._session.get_endpoint(
                    service_type=service, interface=interface, region_name=region, skip_discovery=True,
                )
            except CatalogException:
                return None
            return found

        return self._own(find)

    def _own(self, ask: Callable[[], str | None]) -> str | None:
        found = self._asking(ask)
        return found.rstrip("/") if found else None

    def _asking(self, ask: Callable[[], _T]) -> _T:
        """Something for which our own user has to be signed in."""
        from keystoneauth1 import exceptions  # noqa: PLC0415 - see `sign_in`

        if time.monotonic() < self._paused_until:
            raise Refused("it did not take the service user's credentials a moment ago")
        try:
            return ask()
        except exceptions.Unauthorized:
            self._paused_until = time.monotonic() + PAUSE
            raise Refused("it does not take the service user's credentials") from None
        except exceptions.ClientException as error:
            raise Away(type(error).__name__) from None


class _Named(msgspec.Struct):
    id: str = ""
    name: str = ""


class _Token(msgspec.Struct):
    user: _Named
    expires_at: datetime
    project: _Named | None = None
    roles: tuple[_Named, ...] = ()

    def judged(self) -> Token:
        return Token(
            user=self.user.id, project=self.project.id if self.project else None,
            roles=frozenset(role.name.lower() for role in self.roles), expires_at=self.expires_at.timestamp(),
        )


class _Validation(msgspec.Struct):
    token: _Token


class _Events(msgspec.Struct):
    events: list[dict[str, Any]]


def connect(file: str, cloud: str, deadline: float) -> tuple[Keystone, str]:
    """As `coffer_clouds.session.sign_in` finds the user. With it, Keystone's address. No talk yet. BadSettings."""
    session, address = sign_in(
        file, cloud, deadline, program="coffer-api", why="COFFER_KEYSTONE_CLOUD: no user to ask Keystone as",
    )
    return Keystone(session, address if address.endswith("/v3") else f"{address}/v3", deadline), address
