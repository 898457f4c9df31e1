"""The guest image's way into the image service, against a Glance in memory that answers as the real one."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from coffer_manage import images
from coffer_manage.images import Glance, ImageError, read

PROJECT = "f" * 32


@dataclass
class Answer:
    status_code: int
    content: bytes = b""


@dataclass
class Service:
    """`limit` images a page. It stands in for keystoneauth's adapter."""

    images: list[dict[str, Any]] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    broken: dict[str, int] = field(default_factory=dict)
    garble: bool = False

    def request(self, path: str, method: str, *, raise_exc: bool, **given: Any) -> Answer:
        assert not raise_exc
        split = urlsplit(path)
        self.calls.append(f"{method} {split.path}")
        if method in self.broken:
            return Answer(self.broken[method])
        words = split.path.strip("/").split("/")
        if method == "POST":
            made = {"id": f"i-{len(self.images)}", "owner": PROJECT, "status": "queued", **given["json"]}
            self.images.append(made)
            return Answer(201, json.dumps(made).encode())
        if len(words) == 1:
            return self._page(parse_qs(split.query))
        found = next(image for image in self.images if image["id"] == words[1])
        if method == "PUT":
            data = given["data"].read()
            found |= {"status": "active", "os_hash_algo": "sha512", "os_hash_value": hashlib.sha512(data).hexdigest()}
            found["os_hash_value"] += "0" if self.garble else ""
            return Answer(204)
        if method == "DELETE":
            self.images.remove(found)
            return Answer(204)
        return Answer(200, json.dumps(found).encode())

    def _page(self, query: dict[str, list[str]]) -> Answer:
        start = int(query.get("marker", ["0"])[0])
        (tag,), (owner,) = query["tag"], query["owner"]
        ours = [image for image in self.images if tag in image["tags"] and image["owner"] == owner]
        page: dict[str, Any] = {"images": ours[start : start + 1]}
        if len(ours) > start + 1:
            page["next"] = f"/v2/images?tag={tag}&owner={owner}&marker={start + 1}"
        return Answer(200, json.dumps(page).encode())


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def glance(service: Service) -> Glance:
    return Glance(service, PROJECT)  # type: ignore[arg-type]


def qcow2(directory: Path, name: str = "coffer-guest-0.1.0-abc.qcow2", *, rest: str = "") -> Path:
    """Of a disk that is a little larger than 1 GiB."""
    path, size = directory / name, (1 << 30) + 1
    path.write_bytes(b"QFI\xfb" + bytes(20) + size.to_bytes(8, "big") + rest.encode())
    return path


def test_it_is_described_as_nova_and_the_driver_need_it(service: Service, glance: Glance, tmp_path: Path) -> None:
    path = qcow2(tmp_path)
    image, sent = glance.put(read(path))
    assert (sent, image.status) == (True, "active")
    made = service.images[0]
    assert made["tags"] == ["coffer-guest"]
    assert made["visibility"] == "private"
    assert made["coffer_guest"] == "0.1.0-abc"
    assert made["coffer_guest_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (made["disk_format"], made["container_format"], made["min_disk"]) == ("qcow2", "bare", 2)
    assert {made[name] for name in ("hw_disk_bus", "hw_vif_model", "hw_rng_model")} == {"virtio"}


def test_the_same_content_is_sent_once_whatever_its_name_and_older_ones_stay(
    service: Service, glance: Glance, tmp_path: Path
) -> None:
    glance.put(read(qcow2(tmp_path, rest="old")))
    first, _ = glance.put(read(qcow2(tmp_path)))
    service.calls.clear()
    again, sent = glance.put(read(qcow2(tmp_path, "coffer-guest-0.2.qcow2")))
    assert (again.id, sent) == (first.id, False)
    assert set(service.calls) == {"GET /images"}
    assert len(service.images) == 2


def test_images_of_others_and_without_the_tag_do_not_count(service: Service, glance: Glance, tmp_path: Path) -> None:
    file = read(qcow2(tmp_path))
    glance.put(file)
    service.images[0]["owner"] = "somebody else"
    assert glance.put(file)[1]
    service.images[1]["tags"] = []
    assert glance.put(file)[1]


def test_an_upload_that_was_cut_off_is_completed(service: Service, glance: Glance, tmp_path: Path) -> None:
    file = read(qcow2(tmp_path))
    service.broken["PUT"] = 503
    with pytest.raises(ImageError, match="refused PUT /images/i-0/file: 503"):
        glance.put(file)
    service.broken.clear()
    assert glance.put(file)[0].id == "i-0"
    assert len(service.images) == 1


def test_one_that_goes_on_is_not_disturbed(service: Service, glance: Glance, tmp_path: Path) -> None:
    file = read(qcow2(tmp_path))
    glance.put(file)
    service.images[0]["status"] = "saving"
    with pytest.raises(ImageError, match="i-0 is being uploaded"):
        glance.put(file)


def test_what_arrived_otherwise_is_deleted(service: Service, glance: Glance, tmp_path: Path) -> None:
    service.garble = True
    with pytest.raises(ImageError, match="not what was sent"):
        glance.put(read(qcow2(tmp_path)))
    assert service.images == []


@pytest.mark.parametrize("status", [401, 403, 500])
def test_a_refusal_is_told(service: Service, glance: Glance, tmp_path: Path, status: int) -> None:
    service.broken["GET"] = status
    with pytest.raises(ImageError, match=rf"refused GET /images: {status}"):
        glance.put(read(qcow2(tmp_path)))


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("disk.qcow2", b"QFI\xfb" + bytes(40), "not called"),
        ("coffer-guest-1.qcow2.new", b"QFI\xfb" + bytes(40), "not called"),
        ("coffer-guest-1.qcow2", b"", "not a qcow2"),
        ("coffer-guest-1.qcow2", b"QFI\xfb" + bytes(10), "not a qcow2"),
        ("coffer-guest-1.qcow2", b"MZ" + bytes(100), "not a qcow2"),
    ],
)
def test_what_is_no_guest_image_is_not_uploaded(tmp_path: Path, name: str, content: bytes, why: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ImageError, match=why):
        read(path)


def test_the_tag_is_the_one_that_the_driver_looks_for() -> None:
    assert (images.TAG, images.VERSION) == ("coffer-guest", "coffer_guest")
