"""The service's user in Keystone, as the storage driver needs it: its tokens, and where the catalogue says Swift is.

keystoneauth signs in, in one thread; a token is used until shortly before its end, or until somebody does not take it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from coffer_clouds.session import tls_of
from coffer_shared.errors import GiveUp, TryAgain

if TYPE_CHECKING:
    from keystoneauth1.session import Session

PAUSE = 5.0
"""Seconds without another attempt after Keystone did not take the password: accounts are locked after some."""
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Account:
    """Where Swift is, by the account that our own user's project has there."""

    url: str
    public_url: str
    """As tenants reach it."""
    project: str


class KeystoneUser:
    def __init__(self, session: Session, *, region: str, interface: str, seconds: float) -> None:
        self.tls = tls_of(session)
        self._session = session
        self._region = region
        self._interface = interface
        self._seconds = seconds
        self._paused_until = 0.0
        self._turn = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, "keystone-storage")

    async def token(self, stale: str | None) -> str:
        async with self._turn:
            return await self._within("logging in", lambda: self._token(stale))

    async def account(self) -> Account:
        """GiveUp where the catalogue has no Swift."""
        url, public, project = await self._within("looking for the object store", self._account)
        if not url or not public or not project:
            where = f" in region {self._region}" if self._region else ""
            raise GiveUp("storage", f"the identity service's catalogue names no object store{where}")
        return Account(url, public, project)

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _token(self, stale: str | None) -> str:
        found = self._session.get_token()
        if stale is not None and found == stale:
            self._session.invalidate()
            found = self._session.get_token()
        if not found:
            raise TryAgain("the identity service, while logging in: it gave no token")
        return found

    def _account(self) -> tuple[str | None, str | None, str | None]:
        return self._endpoint(self._interface), self._endpoint("public"), self._session.get_project_id()

    def _endpoint(self, interface: str) -> str | None:
        from keystoneauth1.exceptions import CatalogException  # noqa: PLC0415 - large, and only where this is used

        try:
            found: str | None = self._session.get_endpoint(
                service_type="object-store", interface=interface, region_name=self._region or None,
                skip_discovery=True,
            )
        except CatalogException:
            return None
        return found

    async def _within(self, what: str, work: Callable[[], _T]) -> _T:
        if time.monotonic() < self._paused_until:
            raise TryAgain(f"the identity service, while {what}: it did not take the credentials a moment ago")
        try:
            async with asyncio.timeout(self._seconds):
                return await asyncio.get_running_loop().run_in_executor(self._thread, self._asking, what, work)
        except TimeoutError:
            raise TryAgain(f"the identity service, while {what}: no answer in time") from None

    def _asking(self, what: str, work: Callable[[], _T]) -> _T:
        from keystoneauth1 import exceptions  # noqa: PLC0415 - large, and only where this is used

        try:
            return work()
        except exceptions.Unauthorized:
            self._paused_until = time.monotonic() + PAUSE
            raise TryAgain(f"the identity service, while {what}: it does not take the credentials") from None
        except exceptions.ClientException as error:
            raise TryAgain(f"the identity service, while {what}: {type(error).__name__}") from None
