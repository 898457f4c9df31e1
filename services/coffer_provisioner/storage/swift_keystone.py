"""The storage driver for a Swift whose users are Keystone's: containers lie in the tenants' own accounts.

The service's user has no rights there but what a container's ACL says, and the API has that set, with the keys, by the
tenant's own token (`coffer_api.tenant_containers`). So nothing is made here: `ensure_container` looks whether all is as
it should be, by what each of the three rights answers about an object that is not there.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from ssl import SSLContext
from typing import Literal, Protocol

from coffer_provisioner.storage.interface import Closed, Container
from coffer_provisioner.storage.keystone_user import Account
from coffer_provisioner.storage.signing import new_grant
from coffer_provisioner.storage.swift import Place, SwiftObjects
from coffer_provisioner.storage.swift_http import Answer, SwiftHttp, expect
from coffer_shared.errors import GiveUp, TryAgain

NOWHERE = "coffer-looks-for-nothing/"
"""No backup is below it."""
_LOOK_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudUser:
    """The service's user, as a clouds.yaml describes it."""

    clouds_file: str
    cloud: str
    region: str = ""
    interface: Literal["public", "internal", "admin"] = "public"
    """Which of the catalogue's addresses the control plane uses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeystoneSwiftSettings:
    keystone: CloudUser
    guest_url: str = ""
    """As guests reach it, without /v1 and what follows; empty: by the catalogue's public address."""
    upload_seconds: float = 40.0
    """As in `SwiftSettings`, and so the two below."""
    call_seconds: float = 30.0
    page: int = 10_000


class User(Protocol):
    """The service's user (`keystone_user.KeystoneUser`)."""

    @property
    def tls(self) -> SSLContext | bool:
        """How the cloud is known, for aiohttp."""
        ...

    async def token(self, stale: str | None) -> str: ...

    async def account(self) -> Account: ...

    def close(self) -> None: ...


class KeystoneSwift(SwiftObjects):
    def __init__(self, settings: KeystoneSwiftSettings, user: User) -> None:
        http = SwiftHttp(settings.call_seconds, tls=user.tls)
        super().__init__(user, http, page=settings.page, lingering=settings.upload_seconds)
        self._user = user
        self._guest_url = settings.guest_url
        self._where: Place | None = None

    async def ready(self) -> None:
        """TryAgain, and GiveUp where the catalogue says nothing that could be a Swift."""
        if self._where is None:
            self._where = place(await self._user.account(), self._guest_url)

    async def ensure_container(self, container: Container) -> None:
        what = "looking at a container"
        there = await self._ask(self._daily, "HEAD", container, what)
        await self._is_gone(container, there)
        expect(what, there, 200, 204)
        # to change what an object says of itself takes the right to write, and changes nothing where there is none
        changed = await self._ask(self._daily, "POST", container, what, name=NOWHERE + "write")
        await self._is_gone(container, changed)
        expect(what, changed, 404)
        signed = new_grant(
            kind=self.kind, url=self._place().url, path=f"{self._path(container)}/{NOWHERE}", method="GET",
            until=time.time() + _LOOK_SECONDS, key=container.keys[0],
        )
        read = await self._http.send("HEAD", f"{signed.url}read?{signed.query}", what, {})
        if read.status == 401:
            raise _closed(container, "does not carry the keys that Coffer signs with")
        expect(what, read, 404)

    async def close(self) -> None:
        await super().close()
        self._user.close()

    def _place(self) -> Place:
        if self._where is None:
            raise TryAgain("where the object store is, is not known yet")
        return self._where

    async def _is_gone(self, container: Container, answer: Answer) -> bool:
        """An object. Of a container only its owner can tell, so that counts as closed."""
        if answer.status == 403:
            raise _closed(container, "is not there, or not open to the service")
        return answer.status == 404


def place(account: Account, guest_url: str) -> Place:
    """From the account of the service's own project, where all accounts are."""
    url, prefix = _apart(account.url, account.project)
    public, _ = _apart(account.public_url, account.project)
    return Place(url, (guest_url or public).rstrip("/"), prefix)


def _apart(url: str, project: str) -> tuple[str, str]:
    before, version, name = url.rstrip("/").rpartition("/v1/")
    if not version or not name.endswith(project) or "/" in name:
        raise GiveUp(
            "storage", "the catalogue's address of the object store does not end in /v1/, a prefix, the project's id",
        )
    return before, name.removesuffix(project)


def _closed(container: Container, how: str) -> Closed:
    return Closed("storage", (
        f"the container {container.name} {how}. It is opened when you ask again with a token of the project that owns "
        "it, as a user who has a role for object storage there."
    ))
