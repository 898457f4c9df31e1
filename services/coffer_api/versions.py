"""Which datastore version a request means, by names or ids."""

from __future__ import annotations

from collections.abc import Sequence

import asyncpg

from coffer_api.problems import bad_request, not_found


def choose(
    rows: Sequence[asyncpg.Record], kind: str, name: str | None, number: str | None = None, *, inactive: bool = False,
) -> asyncpg.Record:
    """The one of `rows` that `kind` (a datastore), `name` and `number` leave; without both, the datastore's default.

    404 for the datastore, 400 for the version. `inactive`: those that are out of use count too.
    """
    if not kind:
        raise bad_request("Please specify a datastore: there is no default.")
    mine = [row for row in rows if kind in {row["datastore"], row["datastore_id"]}]
    if not mine:
        raise not_found(f"Datastore '{kind[:255]}' cannot be found.")
    if not inactive:
        mine = [row for row in mine if row["active"]]
    if name is None and number is None:
        mine = [row for row in mine if row["id"] == row["default_version_id"]]
        if not mine:
            raise bad_request(f"Default version for datastore '{kind}' not found.")
    if name is not None:
        mine = [row for row in mine if row["name"] == name or row["id"] == name.lower()]
    if number is not None:
        mine = [row for row in mine if row["version"] == number]
    if not mine:
        raise bad_request(f"Datastore version '{(name or number or '')[:255]}' cannot be found.")
    if len(mine) > 1:
        other = "version_number" if name else "version"
        raise bad_request(f"Several versions of datastore '{kind}' are meant by that: give {other} too, or its id.")
    return mine[0]
