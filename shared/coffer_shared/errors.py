"""The errors that cross module borders, split by what the caller does about them.

    CofferError
    ├── TryAgain          passing: the same call may go through later
    │   ├── GuestSilent   the guest did not answer in time, or is not connected
    │   └── Unavailable   a part of the control plane cannot be reached
    ├── GiveUp            final: the same call will fail again; carries a code
    └── Refused           the caller's fault: what was asked for cannot be had; carries a code
"""

from __future__ import annotations


class CofferError(Exception):
    """Root of the tree. Its text may be shown to a tenant; it never holds a secret."""


class TryAgain(CofferError):
    pass


class GuestSilent(TryAgain):
    pass


class Unavailable(TryAgain):
    pass


class GiveUp(CofferError):
    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class Refused(CofferError):
    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text
