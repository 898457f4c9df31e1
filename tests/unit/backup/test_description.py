"""A reader written from docs/BACKUPS.md, which shares no code with the program. It reads what the program writes."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

from nacl import bindings

from unit.backup.fakes import BACKUP, KEY, SEGMENT, backed_up, content

SECRETSTREAM = "crypto_secretstream_xchacha20poly1305"
ROOT = Path(__file__).parents[3]


def sodium(name: str) -> Any:
    return getattr(bindings, f"{SECRETSTREAM}_{name}")


def read(objects: dict[str, bytes], data_key: bytes, recorded: str) -> bytes:
    stored = objects["manifest.json"]
    assert hashlib.sha256(stored).hexdigest() == recorded
    line, mac = stored.split(b"\n")
    manifest_key = hashlib.blake2b(b"coffer backup 1: manifest", key=data_key, digest_size=32).digest()
    assert mac.decode() == hashlib.blake2b(line, key=manifest_key, digest_size=32).hexdigest()
    manifest = json.loads(line)
    assert (manifest["format"], manifest["requires"]) == (1, [])
    assert manifest["stored_bytes"] == sum(segment["bytes"] for segment in manifest["segments"])
    key = hashlib.blake2b(b"coffer backup 1: segments", key=data_key, digest_size=32).digest()
    compressed = b"".join(
        segment(objects, number, described, manifest, key) for number, described in enumerate(manifest["segments"])
    )
    raw = subprocess.run(("zstd", "-dcq"), input=compressed, capture_output=True, check=True).stdout
    assert len(raw) == manifest["raw_bytes"]
    return raw


def segment(objects: dict[str, bytes], number: int, described: Any, manifest: Any, key: bytes) -> bytes:
    assert described["name"] == f"segments/{number:08d}"
    stored = objects[described["name"]]
    assert len(stored) == described["bytes"]
    assert hashlib.sha256(stored).hexdigest() == described["sha256"]
    assert hashlib.md5(stored).hexdigest() == described["md5"]
    additional = b"coffer backup 1\0" + number.to_bytes(8, "big") + manifest["backup"].encode()
    state = sodium("state")()
    sodium("init_pull")(state, stored[:24], key)
    rest, plain, tags = stored[24:], b"", []
    while rest:
        frame, rest = rest[: manifest["frame_bytes"] + 17], rest[manifest["frame_bytes"] + 17 :]
        opened, tag = sodium("pull")(state, frame, additional)
        plain += opened
        tags.append(tag)
    assert tags == [sodium("TAG_MESSAGE")] * (len(tags) - 1) + [sodium("TAG_FINAL")]
    if number < len(manifest["segments"]) - 1:
        assert len(plain) == manifest["segment_bytes"]
    frames = -(-len(plain) // manifest["frame_bytes"])
    assert len(stored) == 24 + len(plain) + 17 * frames
    return plain


async def test_a_reader_made_from_the_description_reads_what_the_program_writes(tmp_path: Path) -> None:
    for size in (1, SEGMENT, 300_000):
        data = content(size, seed=size)
        store, done = await backed_up(data, tmp_path)
        assert read(store.objects, KEY, done.manifest_sha256) == data


async def test_every_field_of_the_manifest_is_described(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "BACKUPS.md").read_text()
    store, _ = await backed_up(content(100_000), tmp_path)
    manifest = json.loads(store.objects["manifest.json"].partition(b"\n")[0])
    for field in (*manifest, *manifest["segments"][0]):
        assert f"`{field}`" in text
    assert manifest["backup"] == BACKUP
