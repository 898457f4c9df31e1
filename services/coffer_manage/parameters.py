"""`coffer-manage parameters`: what tenants may choose in configuration groups of a datastore version."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

import coffer_datastores
from coffer_db import datastore_versions, parameters
from coffer_db.datastore_versions import OfferError, Why
from coffer_manage.declaring import Subparsers, group, table, verb
from coffer_shared.parameters import Parameter, decode

_HEADS = ("NAME", "TYPE", "MIN", "MAX", "UNIT", "RESTART", "CHOICES")


def declare(commands: Subparsers) -> None:
    lists = group(commands, "parameters", "what tenants may choose in configuration groups")
    loading = verb(lists, "load", _load, "bring those of a list to what it says; others stay")
    for parser in (
        loading,
        verb(lists, "list", _list, "list those of a version"),
        verb(lists, "remove", _remove, "take all of a version away: it takes no values any more"),
    ):
        parser.add_argument("datastore")
        parser.add_argument("version", help="its name, or name/number, or id")
    loading.add_argument("--file", type=Path, help="in Trove's format; without: the list that is shipped for it")


async def _load(session: AsyncSession, given: argparse.Namespace) -> str:
    version = await _version(session, given)
    if given.file is None:
        listed = _shipped(await datastore_versions.load(session, version))
    else:
        listed = decode(given.file.read_bytes())
    if not listed:
        raise OfferError(Why.INVALID, "there is nothing to load: --file lists none, or no list is shipped for it.")
    await parameters.record(session, version, listed)
    return f"{len(listed)} parameters of {given.datastore} {given.version} are loaded.\n"


async def _list(session: AsyncSession, given: argparse.Namespace) -> str:
    known = await parameters.known(session, await _version(session, given))
    return table(_HEADS, [_columns(parameter) for parameter in known])


async def _remove(session: AsyncSession, given: argparse.Namespace) -> str:
    count = await parameters.drop(session, await _version(session, given))
    return f"{count} parameters of {given.datastore} {given.version} are removed.\n"


async def _version(session: AsyncSession, given: argparse.Namespace) -> str:
    """Its id."""
    try:
        return await datastore_versions.find(session, f"{given.datastore}/{given.version}")
    except OfferError as error:
        if error.code != Why.UNKNOWN:
            raise
    version = await datastore_versions.find(session, given.version)
    row = await datastore_versions.load(session, version)
    if given.datastore not in {row["datastore"], row["datastore_id"]}:
        raise OfferError(Why.UNKNOWN, f"Version '{given.version}' is not of datastore {given.datastore}.")
    return version


def _shipped(row: Any) -> Sequence[Parameter]:
    """By the name of the version, or by what its number begins with."""
    for name in (row["name"], row["version"], row["version"].partition(".")[0]):
        if found := coffer_datastores.parameters(row["manager"], name):
            return found
    return ()


def _columns(parameter: Parameter) -> tuple[Any, ...]:
    return (
        parameter.name, str(parameter.type), parameter.min, parameter.max, parameter.unit,
        parameter.restart_required, ", ".join(parameter.choices),
    )
