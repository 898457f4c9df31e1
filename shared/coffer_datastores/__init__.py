"""The datastores: one folder is one datastore, with `DATASTORE` in `spec.py` and `DRIVER` in `driver.py`.

This is the one place with dynamic imports. The control plane calls `specs` only; the guest also calls `driver`.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from typing import cast

from coffer_shared.datastore import Datastore, Driver


@cache
def specs() -> dict[str, Datastore]:
    """Every datastore by name. Imports no driver, so no engine's client library."""
    return {name: _spec(name) for name in _folders()}


@cache
def driver(name: str) -> Driver:
    """KeyError if there is no such datastore."""
    if name not in _folders():
        raise KeyError(name)
    return cast("Driver", importlib.import_module(f"{__name__}.{name}.driver").DRIVER)


def _folders() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.ispkg)


def _spec(name: str) -> Datastore:
    return cast("Datastore", importlib.import_module(f"{__name__}.{name}.spec").DATASTORE)
