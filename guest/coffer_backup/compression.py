"""zstd as a program: its command lines, and what it says of the bytes that went through it.

The raw bytes pass from program to program without ever coming here, so zstd's own count is the only exact one.
"""

from __future__ import annotations

import re

from coffer_backup.programs import Program

# In one thread: no slower with the source beside it, and its memory depends on no number of processors. `-vv` and `-v`
# give the counts to the byte.
_COMPRESS = ("zstd", "-1", "--single-thread", "-c", "-vv", "--no-progress")
_DECOMPRESS = ("zstd", "-d", "-c", "-v", "--no-progress")
_COMPRESSED = re.compile(r":.*\(\s*(\d+) B =>\s*(\d+) B,")
_DECOMPRESSED = re.compile(r": (\d+) bytes\s*$")


class Zstd:
    """One run of it."""

    def __init__(self, command: tuple[str, ...]) -> None:
        self.program = Program(command, self._hear)
        self.raw_bytes: int | None = None
        """None until it has ended well."""
        self.compressed_bytes: int | None = None

    @classmethod
    def compress(cls) -> Zstd:
        return cls(_COMPRESS)

    @classmethod
    def decompress(cls) -> Zstd:
        return cls(_DECOMPRESS)

    def _hear(self, line: str) -> bool:
        if found := _COMPRESSED.search(line):
            self.raw_bytes, self.compressed_bytes = int(found[1]), int(found[2])
        elif found := _DECOMPRESSED.search(line):
            self.raw_bytes = int(found[1])
        return "error" not in line.lower()
