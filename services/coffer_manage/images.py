"""`coffer-manage image`: the guest image in the cloud's image service, as the user whose machines start from it.

An image is known by its content: what was uploaded completely is not uploaded again, and what was not is completed.
Older images stay, since nothing here knows whether an operator wants to go back to one; the driver takes the newest.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from coffer_manage.declaring import Subparsers, group
from coffer_shared.errors import CofferError

if TYPE_CHECKING:
    from keystoneauth1.adapter import Adapter

TAG = "coffer-guest"
"""What the driver finds guest images by, among those of its own project."""
VERSION = "coffer_guest"
CONTENT = "coffer_guest_sha256"
MEMORY_MIB = 512
"""The least that a machine with a small database works with."""
_NAME = re.compile(r"coffer-guest-(?P<version>[0-9a-zA-Z.+-]{1,64})\.qcow2")
_MAGIC, _SIZE_AT = b"QFI\xfb", 24
_GIB = 2**30
_CHUNK = 1 << 20
_GOES_ON = frozenset({"saving", "uploading", "importing"})


class ImageError(CofferError):
    pass


class Image(msgspec.Struct, frozen=True):
    """One of Glance's, as far as it matters here."""

    id: str
    name: str | None = ""
    status: str = ""
    os_hash_algo: str | None = None
    os_hash_value: str | None = None
    content: str = msgspec.field(default="", name=CONTENT)


class _Page(msgspec.Struct, frozen=True):
    images: list[Image]
    next: str = ""


@dataclass(frozen=True, slots=True)
class File:
    """An image on this machine."""

    path: Path
    version: str
    disk_gib: int
    """Of the smallest disk that it fits on."""
    sha256: str
    sha512: str


def declare(commands: Subparsers) -> None:
    images = group(commands, "image", "the guest image in the cloud's image service")
    what = "upload one, unless the project has it; as the user that clients find (OS_CLOUD, OS_*, clouds.yaml)"
    adding = images.add_parser("upload", help=what, description=what)
    adding.add_argument("file", type=Path, help="coffer-guest-VERSION.qcow2, from deploy/guest-image/build.sh")
    adding.add_argument("--cloud", help="the name of that user in clouds.yaml")
    adding.set_defaults(run=_upload)


def read(path: Path) -> File:
    """Reads all of it. ImageError if it is no guest image."""
    named = _NAME.fullmatch(path.name)
    if named is None:
        raise ImageError(f"{path.name} is not called coffer-guest-VERSION.qcow2")
    sums = hashlib.sha256(), hashlib.sha512()
    with path.open("rb") as file:
        head = file.read(_SIZE_AT + 8)
        if not head.startswith(_MAGIC) or len(head) < _SIZE_AT + 8:
            raise ImageError(f"{path} is not a qcow2 image")
        file.seek(0)
        while part := file.read(_CHUNK):
            for each in sums:
                each.update(part)
    size = int.from_bytes(head[_SIZE_AT:], "big")
    return File(path, named["version"], -(-size // _GIB), *(each.hexdigest() for each in sums))


def description(file: File) -> dict[str, Any]:
    """What Glance, Nova and the driver are told of it."""
    return {
        "name": file.path.stem,
        "disk_format": "qcow2",
        "container_format": "bare",
        "visibility": "private",
        "min_disk": file.disk_gib,
        "min_ram": MEMORY_MIB,
        "tags": [TAG],
        "os_type": "linux",
        "os_distro": "debian",
        "hw_disk_bus": "virtio",
        "hw_vif_model": "virtio",
        "hw_rng_model": "virtio",
        VERSION: file.version,
        CONTENT: file.sha256,
    }


class Glance:
    """ImageError where it refuses."""

    def __init__(self, adapter: Adapter, project: str) -> None:
        self._adapter = adapter
        self._project = project

    def put(self, file: File) -> tuple[Image, bool]:
        """The image there with that content, and whether it had to be sent."""
        ours = [image for image in self._guest_images() if image.content == file.sha256]
        for image in ours:
            if image.status == "active":
                return image, False
            if image.status in _GOES_ON:
                raise ImageError(f"image {image.id} is being uploaded; if nobody does that any more, delete it")
        waiting = next((image for image in ours if image.status == "queued"), None)
        image = waiting or self._call("POST", "/images", Image, json=description(file))
        with file.path.open("rb") as data:
            self._call(
                "PUT", f"/images/{image.id}/file", None, data=data,
                headers={"Content-Type": "application/octet-stream"},
            )
        return self._checked(image.id, file), True

    def _checked(self, image_id: str, file: File) -> Image:
        image: Image = self._call("GET", f"/images/{image_id}", Image)
        if image.status != "active":
            raise ImageError(f"image {image.id} is {image.status or 'in no state'}, although all of it was sent")
        if image.os_hash_algo == "sha512" and image.os_hash_value != file.sha512:
            self._call("DELETE", f"/images/{image.id}", None)
            raise ImageError("what arrived is not what was sent; the image was deleted again")
        return image

    def _guest_images(self) -> list[Image]:
        path, found = f"/images?tag={TAG}&owner={self._project}&limit=100", list[Image]()
        while path:
            page = self._call("GET", path, _Page)
            found += page.images
            path = page.next.removeprefix("/v2")
        return found

    def _call(self, method: str, path: str, kind: Any, **arguments: Any) -> Any:
        answer = self._adapter.request(path, method, raise_exc=False, **arguments)
        if answer.status_code >= 400:
            raise ImageError(f"the image service refused {method} {path.partition('?')[0]}: {answer.status_code}")
        try:
            return None if kind is None else msgspec.json.decode(answer.content, type=kind)
        except msgspec.DecodeError:
            raise ImageError(f"the image service's answer to {method} {path} is not one of Glance's") from None


def _upload(arguments: argparse.Namespace) -> None:
    from keystoneauth1.exceptions import ClientException  # noqa: PLC0415 - large, and no other command needs it
    from openstack import connect  # noqa: PLC0415
    from openstack.exceptions import SDKException  # noqa: PLC0415

    file = read(arguments.file)
    try:
        cloud = connect(cloud=arguments.cloud)
        project = cloud.session.get_project_id()
        if not project:
            raise ImageError("the user is signed in to no project")
        image, sent = Glance(cloud.image, project).put(file)
    except (ClientException, SDKException) as error:
        raise ImageError(str(error)) from None
    what = "is uploaded as" if sent else "is there already:"
    sys.stdout.write(f"{file.path.name} {what} image {image.id}, {image.name}.\n")
