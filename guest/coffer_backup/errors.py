"""The errors of this program. Each becomes an outcome: a code of `coffer_shared.messages.Failure` and one sentence.

    GiveUp (coffer_shared.errors)   final; nothing here is tried again beyond the place that raises it
    └── Damaged                     what the store gave is not what was stored; a restore asks for it again, twice
"""

from __future__ import annotations

from coffer_shared.errors import GiveUp
from coffer_shared.messages import Failure

__all__ = ["Damaged", "GiveUp"]


class Damaged(GiveUp):
    def __init__(self, text: str) -> None:
        super().__init__(Failure.DAMAGED, text)
