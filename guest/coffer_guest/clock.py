"""Time as the control plane counts it: a machine's own clock may be wrong, and deadlines are the control plane's."""

from __future__ import annotations

import time

from coffer_shared import log

_log = log.get(__name__)

_TOLERANCE = 2.0
"""Below this a difference is the way of the message, not the clock's."""


class Clock:
    def __init__(self, offset: float = 0.0) -> None:
        self.offset = offset

    def now(self) -> float:
        return time.time() + self.offset

    def correct(self, theirs: float) -> bool:
        """`theirs` is the time in an authenticated answer that just came. Whether the offset changed."""
        difference = theirs - self.now()
        if abs(difference) <= _TOLERANCE:
            return False
        self.offset += difference
        _log.warning("clock corrected", by_seconds=round(difference, 1), offset_seconds=round(self.offset, 1))
        return True
