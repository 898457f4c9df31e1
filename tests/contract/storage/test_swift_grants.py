"""What the holder of a grant may not do in a real Swift, as raw HTTP, and where it may do more than one would think."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import pytest

from coffer_provisioner.storage.interface import Container
from coffer_provisioner.storage.swift import SwiftStorage
from coffer_shared.backups import Grant
from contract.storage.conftest import SwiftShop, new_container
from support.swift import Swift

pytestmark = pytest.mark.docker

MINE, OTHER = "one/mine/", "one/other/"
THEIRS = b"of another backup"


@dataclass
class Scene:
    """A guest with both kinds of grant for its own prefix, and what it has to keep its hands off."""

    shop: SwiftShop
    store: SwiftStorage
    container: Container
    others: tuple[Container, ...]
    """A container of the same project, and one of another project."""

    def grant(self, method: str, prefix: str = MINE, seconds: float = 60) -> Grant:
        return self.store.grant(self.container, prefix, method, until=time.time() + seconds)

    def path(self, template: str) -> str:
        """With {mine}, {root} and {account} filled in; {beside} and {stranger} are the other containers."""
        root, beside, stranger = (
            urlsplit(self.store.location(each, "")).path.rstrip("/") for each in (self.container, *self.others)
        )
        return template.format(
            mine=f"{root}/{MINE}", root=root, account=root.rpartition("/")[0], beside=beside, stranger=stranger,
        )

    async def ask(
        self, grant: Grant | str, method: str, path: str, headers: dict[str, str] | None = None,
        data: bytes | None = None,
    ) -> tuple[int, bytes]:
        query = grant if isinstance(grant, str) else grant.query
        url = self.shop.swift.settings().url + self.path(path) + (f"?{query}" if query else "")
        return await self.shop.ask(method, url, headers=headers, data=data)

    async def stored(self, name: str) -> bytes | None:
        return await self.store.read(self.container, name, limit=10_000)

    async def check_unharmed(self) -> None:
        for container in (self.container, *self.others):
            assert [each.name for each in await self.store.listing(container, OTHER)] == ["0000", "0001"]
            assert await self.store.read(container, OTHER + "0000", limit=99) == THEIRS
        assert await self.stored(MINE + "0000") == b"mine"
        assert {each.name.partition("/")[0] for each in await self.store.listing(self.container, "one/")} == {
            "mine", "other",
        }


@pytest.fixture
async def scene(swift_shop: SwiftShop) -> AsyncIterator[Scene]:
    container = new_container()
    scene = Scene(
        swift_shop, swift_shop.door(), container,
        (new_container(container.project, "another"), new_container(name=container.name)),
    )
    for each in (container, *scene.others):
        await scene.store.ensure_container(each)
        for name in ("0000", "0001"):
            await swift_shop.put(scene.store.grant(each, OTHER, "PUT", until=time.time() + 60), name, THEIRS)
    await swift_shop.put(scene.grant("PUT"), "0000", b"mine")
    yield scene
    await scene.check_unharmed()


OTHER_PLACES = [
    "{root}/one/other/0000",
    "{root}/one/other/new",
    "{root}/one/mine",
    "{root}/one/minetoo/0000",
    "{root}/one/Mine/0000",
    "{root}/one//mine/0000",
    "{root}//one/mine/0000",
    "{root}/./one/mine/0000",
    "{root}/one/other/../mine/0000",
    "{root}/%2e%2e/another/one/other/0000",
    "{root}/../another/one/other/0000",
    "{beside}/one/mine/0000",
    "{beside}/one/other/0000",
    "{stranger}/one/mine/0000",
    "{stranger}/one/other/0000",
    "{root}",
    "{root}/",
    "{account}",
    "{account}/",
    "{account}//one/mine/0000",
    "{account}/nowhere/one/mine/0000",
]


@pytest.mark.parametrize("method", ["GET", "PUT"])
async def test_other_places(scene: Scene, method: str) -> None:
    let_in = []
    for path in OTHER_PLACES:
        for asked in (method, "HEAD"):
            try:
                await scene.ask(scene.grant(method), asked, path, data=b"evil" if asked == "PUT" else None)
            except PermissionError:
                continue
            let_in.append(f"{asked} {path}")
    assert let_in == []


@pytest.mark.parametrize(("granted", "method"), [
    ("PUT", "GET"), ("PUT", "DELETE"), ("PUT", "POST"), ("PUT", "COPY"), ("PUT", "REPLICATE"), ("PUT", "UPDATE"),
    ("GET", "PUT"), ("GET", "DELETE"), ("GET", "POST"), ("GET", "COPY"),
])
async def test_other_methods(scene: Scene, granted: str, method: str) -> None:
    for path in ("{mine}0000", "{mine}new", "{root}/one/other/0000"):
        destination = {"Destination": f"{scene.container.name}/{MINE}taken", "X-Delete-After": "1"}
        try:
            status, _ = await scene.ask(scene.grant(granted), method, path, destination)
        except PermissionError:
            continue
        assert status in {405, 412}, "Swift does not know it at all"


async def test_a_put_grant_lets_its_holder_ask_for_the_size_and_sum_of_its_own_objects(scene: Scene) -> None:
    """Swift takes any valid grant for HEAD. It tells nothing that the holder did not send."""
    assert await scene.ask(scene.grant("PUT"), "HEAD", "{mine}0000") == (200, b"")
    assert await scene.ask(scene.grant("GET"), "HEAD", "{mine}0000") == (200, b"")


async def test_no_grant_at_all(scene: Scene) -> None:
    for method, path in (("GET", "{mine}0000"), ("PUT", "{mine}0000"), ("GET", "{root}"), ("GET", "{account}")):
        with pytest.raises(PermissionError):
            await scene.ask("", method, path)
        with pytest.raises(PermissionError):
            await scene.ask("", method, path, {"X-Auth-Token": "AUTH_tk" + "0" * 32})


async def test_an_expired_grant(scene: Scene) -> None:
    for method in ("GET", "PUT", "HEAD"):
        with pytest.raises(PermissionError):
            await scene.ask(scene.grant("GET" if method == "HEAD" else method, seconds=-2), method, "{mine}0000")


def changed(grant: Grant) -> Iterator[str]:
    """Its query with one thing changed."""
    parts = dict(part.split("=") for part in grant.query.split("&"))

    def query(**new: str) -> str:
        return "&".join(f"{name}={value}" for name, value in (parts | new).items() if value)

    signed = parts["temp_url_sig"]
    yield query(temp_url_sig=("0" if signed[0] != "0" else "1") + signed[1:])
    yield query(temp_url_sig="")
    yield query(temp_url_sig=signed[:-2])
    yield query(temp_url_expires=str(int(parts["temp_url_expires"]) + 1000))
    yield query(temp_url_expires="")
    yield query(temp_url_expires="never")
    yield query(temp_url_prefix="")
    yield query(temp_url_prefix="one%2F")
    yield query(temp_url_prefix="one%2Fother%2F")
    yield query(temp_url_ip_range="127.0.0.0%2F8")
    yield "temp_url_prefix=&" + query()
    yield "temp_url_prefix=one%2F&" + query()


@pytest.mark.parametrize("method", ["GET", "PUT"])
async def test_a_changed_grant(scene: Scene, method: str) -> None:
    for query in changed(scene.grant(method)):
        for path in ("{mine}0000", "{root}/one/other/0000"):
            with pytest.raises(PermissionError):
                await scene.ask(query, method, path, data=b"evil" if method == "PUT" else None)


async def test_weaker_sums_and_more_methods_are_not_taken_even_with_the_key(scene: Scene) -> None:
    expires, path = int(time.time()) + 60, scene.path("{mine}")
    for method, sum_name in (
        ("PUT", "sha1"), ("PUT", "md5"), ("PUT", "sha512"), ("DELETE", "sha256"), ("POST", "sha256"), ("PUT", "sha256"),
    ):
        text = f"{method}\n{expires}\nprefix:{path}".encode()
        signed = hmac.new(scene.container.keys[0].encode(), text, getattr(hashlib, sum_name)).hexdigest()
        query = f"temp_url_sig={signed}&temp_url_expires={expires}&temp_url_prefix=one%2Fmine%2F"
        if (method, sum_name) == ("PUT", "sha256"):
            assert (await scene.ask(query, "PUT", "{mine}new", data=b"")) == (201, b"")
        else:
            with pytest.raises(PermissionError):
                await scene.ask(query, method, "{mine}0000", data=b"")


@pytest.mark.parametrize("more", [
    "format=json&prefix=one", "prefix=one&", "marker=one&format=json", "delimiter=/&versions",
])
async def test_a_listing_of_the_container(scene: Scene, more: str) -> None:
    for path in ("{root}", "{root}/", "{mine}"):
        for method in ("GET", "PUT"):
            try:
                status, body = await scene.ask(f"{scene.grant(method).query}&{more}", "GET", path)
            except PermissionError:
                continue
            assert (status, b"other" in body) == (404, False), "the name of an object that is not there"


@pytest.mark.parametrize("dots", ["../other/0000", "%2e%2e/other/0000", "..%2Fother%2F0000", "../../one/other/0000"])
async def test_dots_are_a_name_like_any_other(scene: Scene, dots: str) -> None:
    assert (await scene.ask(scene.grant("GET"), "GET", "{mine}" + dots))[0] == 404
    assert (await scene.ask(scene.grant("PUT"), "PUT", "{mine}" + dots, data=b"literal"))[0] == 201
    assert "../" in {each.name[:3] for each in await scene.store.listing(scene.container, MINE)}


POINTERS = [
    ("X-Copy-From", "{container}/one/other/0000"),
    ("X-Copy-From", "/{container}/one/other/0000"),
    ("x-copy-from", "another/one/other/0000"),
    ("X-Object-Manifest", "{container}/one/other/"),
    ("X-Symlink-Target", "{container}/one/other/0000"),
    ("X_Copy_From", "{container}/one/other/0000"),
    ("X_Object_Manifest", "{container}/one/other/"),
    ("X-Symlink-Target-Account", "AUTH_other"),
    ("X-Object-Sysmeta-Symlink-Target", "{container}/one/other/0000"),
    ("X-Object-Sysmeta-Slo-Etag", "d41d8cd98f00b204e9800998ecf8427e"),
    ("X-Backend-Symlink-Target", "{container}/one/other/0000"),
    ("X-Static-Large-Object", "True"),
    ("X-Versions-Location", "another"),
    ("X-Container-Sync-Key", "k"),
]


@pytest.mark.parametrize(("header", "value"), POINTERS)
async def test_an_upload_does_not_point_at_what_is_not_its_senders(scene: Scene, header: str, value: str) -> None:
    body = json.dumps([{"path": f"/{scene.container.name}/{OTHER}0000"}]).encode()
    headers = {header: value.format(container=scene.container.name)}
    for query in (scene.grant("PUT").query, scene.grant("PUT").query + "&multipart-manifest=put"):
        status, _ = await scene.ask(query, "PUT", "{mine}pointer", headers, body)
        assert status in {201, 400}
        if status == 201:
            for more in ("", "&multipart-manifest=get", "&symlink=get"):
                answer = await scene.ask(scene.grant("GET").query + more, "GET", "{mine}pointer")
                assert answer == (200, body), "what was sent is what is there"


@pytest.mark.parametrize(("header", "value"), [
    ("X-Delete-After", "1"), ("X-Delete-At", "4000000000"), ("X-Delete-At", "1"), ("X_Delete_After", "1"),
    ("X-Timestamp", "9999999999.00000"), ("X-Backend-Timestamp", "9999999999.00000"),
    ("X-Backend-Inbound-X-Timestamp", "9999999999.00000"),
    ("Content-Encoding", "gzip"), ("Content-Disposition", "inline"), ("Content-Type", "text/html"),
    ("X-Object-Meta-Mine", "m"), ("X-Object-Transient-Sysmeta-Mine", "m"),
    ("X-Open-Expired", "true"), ("X-Container-Meta-Temp-URL-Key", "m" * 40),
])
async def test_an_upload_is_bytes_and_nothing_else(scene: Scene, header: str, value: str) -> None:
    """Above all it does not say when it is to vanish, or that it is newer than whatever comes."""
    status, _ = await scene.ask(scene.grant("PUT"), "PUT", "{mine}marked", {header: value}, b"bytes")
    assert status == 201
    settings = scene.shop.swift.settings()
    token = {"X-Auth-Token": await scene.shop.token(settings.setup_user, settings.setup_key)}
    async with scene.shop.client.head(scene.store.location(scene.container, MINE + "marked"), headers=token) as answer:
        assert answer.status == 200
        assert set(answer.headers) <= {
            "Content-Type", "Etag", "Last-Modified", "X-Timestamp", "Accept-Ranges", "Content-Length", "X-Trans-Id",
            "X-Openstack-Request-Id", "Date", "Connection",
        }
        assert answer.headers["Content-Type"] == "application/octet-stream"
        assert float(answer.headers["X-Timestamp"]) < time.time() + 60
    await scene.shop.put(scene.grant("PUT"), "marked", b"newer")
    assert await scene.stored(MINE + "marked") == b"newer"


async def test_an_upload_whose_sum_is_wrong_is_not_stored(scene: Scene) -> None:
    status, _ = await scene.ask(scene.grant("PUT"), "PUT", "{mine}summed", {"ETag": "0" * 32}, b"bytes")
    assert status == 422
    assert await scene.stored(MINE + "summed") is None


# --- uploads that outlive their grant ---

LONGEST = 3
CHUNK = b"10000\r\n" + b"e" * 65536 + b"\r\n"


@pytest.fixture(scope="module")
def hasty_swift() -> Iterator[Swift]:
    running = Swift.run(max_upload_time=LONGEST)
    try:
        yield running
    finally:
        running.remove()


async def slow_upload(grant: Grant, name: str, pauses: list[float]) -> bytes:
    """Begin at once, send a piece after each pause, then the end; the status line of the answer, or nothing."""
    address = urlsplit(grant.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    head = f"PUT {address.path}{name}?{grant.query} HTTP/1.1\r\nHost: swift\r\nTransfer-Encoding: chunked\r\n\r\n"
    try:
        writer.write(head.encode() + CHUNK)
        for number, pause in enumerate(pauses, 1):
            await asyncio.sleep(pause)
            writer.write(CHUNK if number < len(pauses) else b"0\r\n\r\n")
            await writer.drain()
        return await reader.readline()
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def test_an_upload_may_outlive_its_grant_but_not_for_long(hasty_swift: Swift) -> None:
    """It is the beginning that is looked at. So nothing is final before a grant's expiry and `lingering` after it."""
    store, container = SwiftStorage(hasty_swift.settings()), new_container()
    try:
        await store.ensure_container(container)
        grant = store.grant(container, MINE, "PUT", until=time.time() + 1)
        in_time, too_long, silent = await asyncio.gather(
            slow_upload(grant, "in-time", [1.0, 1.0]),
            slow_upload(grant, "too-long", [0.5] * 9),
            slow_upload(grant, "silent", [1.5, 1.0, LONGEST * 1.5]),
        )
        assert b" 201 " in in_time, "ended a second after the grant"
        assert b" 201 " not in too_long
        assert b" 201 " not in silent
        assert [each.name for each in await store.listing(container, MINE)] == ["in-time"]
    finally:
        await store.close()
