"""The calls to OpenStack's services: one connection of openstacksdk, in a few threads, with deadlines and our errors.

Only the SDK's session and its adapters are used, not its objects: one call here is one request, so it is plain what a
provisioner that dies leaves behind. Nothing is repeated: after a request to create something nobody can tell whether it
came through, and only the caller, who looks first, may ask again. (A token that has expired is renewed by the session.)
Requests and answers are never logged: they hold tokens and user data.
"""

from __future__ import annotations

import asyncio
import re
import threading
import time
import warnings
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qs, urlsplit

from coffer_clouds.session import described
from coffer_provisioner.cloud.interface import CloudBusy, CloudRefused
from coffer_provisioner.cloud.openstack_labels import OpenStackSettings, Thing
from coffer_shared.errors import CofferError
from coffer_shared.settings import BadSettings

if TYPE_CHECKING:
    from openstack.connection import Connection

T = TypeVar("T")
PAUSE = 5.0
"""Seconds without another attempt after Keystone did not take our own password: accounts are locked after some."""
_TEXT_LENGTH = 300
_QUOTA = re.compile("quota|maximum (number|allowed)", re.IGNORECASE)
"""As services put it: Cinder names no quota when that of snapshots is used up."""
_MAKING = threading.Lock()
"""Held while connections and adapters are made: not by every thread at once, and without the SDK's warnings."""


class Service(StrEnum):
    """As the SDK's connection calls them."""

    COMPUTE = "compute"
    VOLUMES = "block_storage"
    NETWORK = "network"
    IMAGES = "image"


VERSIONS = {
    Service.COMPUTE: "2.71",  # tags at creation, user data for a rebuild, a server's groups
    Service.VOLUMES: "3.42",  # growing a volume in use
}
REBUILD_BOOT_VOLUME = "2.93"
"""Compute API from which the volume that a machine boots from is made anew by a rebuild."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: Mapping[str, Any] = field(default_factory=dict)

    def one(self, key: str) -> Thing:
        """What is under `key`. CloudBusy if it is not what such an answer holds, as when a proxy has answered."""
        found = self.body.get(key)
        if not isinstance(found, Mapping):
            raise CloudBusy(f"OpenStack: an answer without its {key}")
        return found

    def many(self, key: str) -> list[Thing]:
        found = self.body.get(key)
        if not isinstance(found, list) or not all(isinstance(one, Mapping) for one in found):
            raise CloudBusy(f"OpenStack: an answer without its {key}")
        return found

    @property
    def text(self) -> str:
        """What the service says is wrong."""
        return said(self.body)

    @property
    def type(self) -> str:
        """Neutron's name for what is wrong."""
        found = self.body.get("NeutronError")
        return str(found.get("type", "")) if isinstance(found, Mapping) else ""


class Calls:
    """Made at any number at a time from one loop; no call blocks it."""

    def __init__(self, settings: OpenStackSettings) -> None:
        self._settings = settings
        self._pool = ThreadPoolExecutor(settings.threads, "openstack")
        self._connection: Connection | None = None
        self._adapters: dict[Service, Any] = {}
        self._paused_until = 0.0
        self._project = ""

    async def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        connection, self._connection = self._connection, None
        if connection is not None:
            await asyncio.to_thread(connection.close)

    async def project(self) -> str:
        """Id of the service project."""
        if not self._project:
            found = await self._in_thread("asking for the service project", self._ask_project)
            if not found:
                raise CloudBusy("OpenStack: the service user's token is for no project")
            self._project = found
        return self._project

    async def ask(
        self,
        what: str,
        service: Service,
        method: str,
        path: str,
        *,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, Any] | None = None,
        version: str | None = None,
        headers: Mapping[str, str] | None = None,
        expected: Collection[int] = (),
    ) -> Answer:
        """One request. Answers that are neither a success nor `expected` are raised as CloudBusy or CloudRefused."""
        answer = await self._in_thread(
            what, lambda: self._send(service, method, path, body, query, version, headers),
        )
        if 200 <= answer.status < 300 or answer.status in expected:
            return answer
        raise error_of(what, answer)

    async def find(self, what: str, service: Service, path: str, key: str) -> Thing | None:
        """One thing, in the answer under `key` ("": all of it); None if it is not there."""
        answer = await self.ask(what, service, "GET", path, expected=(404,))
        if answer.status == 404:
            return None
        return answer.one(key) if key else answer.body

    async def listing(
        self, what: str, service: Service, path: str, key: str, query: Mapping[str, Any] | None = None,
    ) -> list[Thing]:
        """All pages of a listing."""
        return [thing async for page in self._pages(what, service, path, key, query or {}) for thing in page]

    async def _pages(
        self, what: str, service: Service, path: str, key: str, query: Mapping[str, Any],
    ) -> AsyncIterator[list[Thing]]:
        marker = None
        while True:
            answer = await self.ask(
                what, service, "GET", path, query={**query, **({"marker": marker} if marker else {})},
            )
            yield answer.many(key)
            # only the marker of the link: its host is what the service believes itself to be called
            following = _next_marker(answer.body, key)
            if following is None or following == marker:
                return
            marker = following

    def _send(
        self,
        service: Service,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        query: Mapping[str, Any] | None,
        version: str | None,
        headers: Mapping[str, str] | None,
    ) -> Answer:
        """In a thread. Anything but an answer is an exception of the SDK's or of requests'."""
        from keystoneauth1.adapter import Adapter  # noqa: PLC0415 - see `_connected`

        adapter = self._adapter(service)
        more: dict[str, Any] = {} if body is None else {"json": body}
        if version or VERSIONS.get(service):
            more["microversion"] = version or VERSIONS[service]
        # not the SDK's own method, which counts and caches around this one
        response = Adapter.request(
            adapter, path, method, params=query, headers={"Accept": "application/json", **(headers or {})},
            raise_exc=False, redirect=False, log=False, connect_retries=0, status_code_retries=0,
            timeout=self._settings.call_seconds, **more,
        )
        try:
            decoded = response.json() if response.content else {}
        except ValueError:
            if response.status_code < 400 and method == "GET":
                raise
            decoded = {}
        return Answer(response.status_code, decoded if isinstance(decoded, dict) else {})

    async def _in_thread(self, what: str, work: Callable[[], T]) -> T:
        import requests  # noqa: PLC0415 - see `_connected`
        from keystoneauth1 import exceptions as keystone  # noqa: PLC0415
        from openstack.exceptions import SDKException  # noqa: PLC0415

        if time.monotonic() < self._paused_until:
            raise CloudBusy(f"OpenStack, {what}: Keystone did not take the service user's credentials a moment ago")
        try:
            async with asyncio.timeout(self._settings.call_seconds):
                return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        except TimeoutError:
            raise CloudBusy(f"OpenStack, {what}: no answer within {self._settings.call_seconds:g} s") from None
        except keystone.Unauthorized:
            self._paused_until = time.monotonic() + PAUSE
            raise CloudBusy(f"OpenStack, {what}: Keystone does not take the service user's credentials") from None
        except (keystone.ClientException, SDKException, requests.RequestException, OSError) as error:
            raise CloudBusy(f"OpenStack, {what}: no answer ({type(error).__name__})") from None
        except ValueError:
            raise CloudBusy(f"OpenStack, {what}: the answer is not JSON") from None

    def _ask_project(self) -> str:
        return str(self._connected().session.get_project_id() or "")

    def _adapter(self, service: Service) -> Any:
        """The SDK asks for a service's versions when its adapter is made."""
        found = self._adapters.get(service)
        if found is None:
            connection = self._connected()
            with _quiet():
                found = self._adapters.get(service) or getattr(connection, service.value)
                self._adapters[service] = found
        return found

    def _connected(self) -> Connection:
        from openstack.connection import Connection  # noqa: PLC0415 - large, and other clouds do not need it

        with _quiet():
            if self._connection is None:
                chosen = self._settings
                try:
                    region = described(
                        chosen.clouds_file, chosen.cloud, why="no cloud to connect to",
                        api_timeout=chosen.call_seconds, app_name="coffer",
                    )
                except BadSettings as error:
                    raise CloudBusy(str(error)) from None
                self._connection = Connection(config=region)
            return self._connection


@contextmanager
def _quiet() -> Iterator[None]:
    with _MAKING, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the SDK's own, of what it gives to itself
        yield


def error_of(what: str, answer: Answer) -> CofferError:
    """What an answer means that the caller did not expect."""
    text, status = answer.text, answer.status
    shown = f"OpenStack, {what}: {text or f'it answered {status}'}"
    if answer.type == "OverQuota" or (status in {403, 413} and _QUOTA.search(text)):
        return CloudRefused("quota", f"a quota of the cloud does not allow it: {text}")
    if status in {401, 404, 408, 409, 412, 413, 425, 429} or status >= 500:
        # 404: it was there a moment ago; the next look will tell
        return CloudBusy(shown)
    if status == 403:
        return CloudRefused("forbidden", f"the service user may not do this. {shown}")
    return CloudRefused("cloud_refused", shown)


def said(body: Mapping[str, Any]) -> str:
    """The services put their sentence at different places. What they quote from the request is left out: it may be the
    user data."""
    for value in body.values():
        if isinstance(value, Mapping) and isinstance(value.get("message"), str):
            return short(value["message"])
    return short(body["message"]) if isinstance(body.get("message"), str) else ""


def short(text: str) -> str:
    return " ".join(re.split(r"[Vv]alue: ", text, maxsplit=1)[0].split())[:_TEXT_LENGTH]


def _next_marker(body: Mapping[str, Any], key: str) -> str | None:
    for link in body.get(f"{key}_links") or ():
        if link.get("rel") == "next":
            return next(iter(parse_qs(urlsplit(link.get("href", "")).query).get("marker", [])), None)
    return None
