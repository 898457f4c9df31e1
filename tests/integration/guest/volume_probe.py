"""Run inside a machine with a loop device of its own: when the agent formats, mounts, grows and refuses. Prints JSON.

Argument: the loop device's minor, which exists and is free.
"""

import asyncio
import json
import subprocess
import sys
import uuid
from collections.abc import Awaitable
from pathlib import Path

from coffer_guest import volume
from coffer_guest.options import Options
from coffer_guest.volume import Volume
from coffer_shared.errors import GiveUp

FILE = "/volume/disk.img"
MINOR = sys.argv[1]
OPTIONS = Options(data_dir="/data", volume_file=FILE, loop_minor=int(MINOR))
GIB = 1 << 30


def sh(command: str) -> str:
    return subprocess.run(command, shell=True, check=True, capture_output=True, text=True).stdout.strip()


async def refusal(work: Awaitable[None]) -> str:
    try:
        await work
    except GiveUp as error:
        return f"{error.code}: {error.text}"
    return "no refusal"


def fresh() -> None:
    """A blank file on the device."""
    sh(f"umount /data 2>/dev/null || true; coffer-volume detach {FILE} {MINOR} || true")
    sh(f"rm -f {FILE}; truncate -s {GIB} {FILE}")


async def main() -> None:
    seen: dict[str, object] = {}
    fs = str(uuid.uuid4())
    fresh()
    seen["blank, formatted before"] = await refusal(Volume(OPTIONS).ensure_mounted(fs, may_format=False))
    await Volume(OPTIONS).ensure_mounted(fs, may_format=True)
    seen["mount"] = sh("findmnt -no FSTYPE,OPTIONS /data")
    seen["uuid"] = sh("findmnt -no UUID /data") == fs
    Path("/data/precious").write_text("kept")
    await Volume(OPTIONS).ensure_mounted(fs, may_format=True)
    seen["mounted again"] = Path("/data/precious").read_text()
    seen["mounted, another uuid"] = await refusal(Volume(OPTIONS).ensure_mounted(str(uuid.uuid4()), may_format=True))
    sh("umount /data")
    seen["another uuid"] = await refusal(Volume(OPTIONS).ensure_mounted(str(uuid.uuid4()), may_format=True))
    await Volume(OPTIONS).ensure_mounted(fs, may_format=True)
    seen["remounted"] = Path("/data/precious").read_text()
    mounted = Volume(OPTIONS)
    await mounted.ensure_mounted(fs, may_format=False)
    before = (await mounted.facts()).total_bytes
    seen["grow before the device"] = await refusal(mounted.grow(2 * GIB))
    sh(f"truncate -s {2 * GIB} {FILE}")
    await mounted.grow(2 * GIB)
    await mounted.grow(2 * GIB)
    after = await mounted.facts()
    seen["grown"] = before < GIB < after.total_bytes <= 2 * GIB and 0 < after.used_bytes < GIB
    seen["kept"] = Path("/data/precious").read_text()
    seen["thawed, never frozen"] = await mounted.thaw()
    await mounted.freeze(30)
    writing = subprocess.Popen(["touch", "/data/later"])
    await asyncio.sleep(0.5)
    seen["written while frozen"] = writing.poll() is not None
    seen["frozen until thawed"] = await mounted.thaw()
    seen["written afterwards"] = writing.wait(10) == 0
    fresh()
    sh(f"printf 'someone else' | dd of={FILE} bs=1 seek=70000 conv=notrunc 2>/dev/null; mkswap {FILE}")
    seen["another kind"] = await refusal(Volume(OPTIONS).ensure_mounted(fs, may_format=True))
    seen["left alone"] = sh(f"blkid -po value -s TYPE {FILE}")
    fresh()
    sh(f"rm {FILE}")
    seen["no file"] = await refusal(Volume(OPTIONS).ensure_mounted(fs, may_format=True))
    volume._APPEAR_SECONDS = 1.0
    missing = Options(data_dir="/data", data_volume=str(uuid.uuid4()))
    seen["no device"] = await refusal(Volume(missing).ensure_mounted(fs, may_format=True))
    print(json.dumps(seen))


asyncio.run(main())
