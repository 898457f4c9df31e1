"""The datastores: one folder is one datastore, with `DATASTORE` in `spec.py`, `DRIVER` in `driver.py`, and `TOOL` in
`tool.py` where it can be backed up; `parameters/<version>.json` lists what its tenants may choose.

This is the one place with dynamic imports. The control plane calls `specs` only; the guest also calls `driver`; the
backup container calls `tool` only.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from functools import cache
from importlib import resources
from typing import cast

from coffer_shared.backups import BackupTool
from coffer_shared.datastore import Datastore, Driver
from coffer_shared.parameters import Parameter, decode


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


@cache
def tool(name: str) -> BackupTool:
    """KeyError if there is no such datastore, or it has no backups. Imports neither spec nor driver."""
    if name not in _folders() or importlib.util.find_spec(f"{__name__}.{name}.tool") is None:
        raise KeyError(name)
    return cast("BackupTool", importlib.import_module(f"{__name__}.{name}.tool").TOOL)


def parameters(name: str, version: str) -> list[Parameter]:
    """Those that are shipped for a version; none if there is no list, or no such datastore or version."""
    if version not in (specs()[name].versions if name in specs() else ()):
        return []
    listed = resources.files(f"{__name__}.{name}") / "parameters" / f"{version}.json"
    return decode(listed.read_bytes()) if listed.is_file() else []


def _folders() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.ispkg)


def _spec(name: str) -> Datastore:
    return cast("Datastore", importlib.import_module(f"{__name__}.{name}.spec").DATASTORE)
