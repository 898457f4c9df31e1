"""Object stores as this program uses them: one module is one kind of store."""

from __future__ import annotations

from collections.abc import Callable

from coffer_backup.errors import GiveUp
from coffer_backup.store.interface import Grants, Store
from coffer_backup.store.patience import Patience
from coffer_backup.store.swift import Swift
from coffer_shared.messages import Failure

_KINDS = {"swift": Swift}


def open_store(grants: Grants, patience: Patience, say: Callable[[str], None]) -> Store:
    """`say` gets a sentence while the store is in the way, and an empty one when it is not any more."""
    kind = grants.current().kind
    if kind not in _KINDS:
        raise GiveUp(Failure.INVALID, f"there is no kind of store called {kind}")
    return _KINDS[kind](grants, patience, say)
