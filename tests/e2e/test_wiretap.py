"""What the broker's owner would have seen of all the tests before this one."""

from __future__ import annotations

import base64
import re
from collections import Counter

from support.stack import run

READABLE = re.compile(rb"[\x20-\x7e]{24,}")
"""In random bytes one run of this length is expected in some ten thousand megabytes."""


def test_nothing_that_nats_carried_can_be_read(wiretap, shop):
    heard = [line.split(" ") for line in run("docker", "logs", wiretap).splitlines() if line.startswith("heard ")]
    kinds = Counter(_kind(subject) for _, subject, _ in heard)
    assert {"cmd", "in", "hb", "ev", "req", "enrol", "wake", "_INBOX"} <= set(kinds), kinds
    for _, subject, encoded in heard:
        payload = base64.b64decode(encoded)
        found = READABLE.search(payload)
        assert not found, f"{subject}: {found[0]!r}"
        if payload:  # nobody listens: the server's own empty answer
            start = 32 if subject.endswith(".enrol") else 0
            assert payload[start : start + 2] == b"\x01\x01", f"{subject} is not a sealed envelope"


def _kind(subject: str) -> str:
    first, *rest = subject.split(".")
    return "_INBOX" if first == "_INBOX" else rest[1]
