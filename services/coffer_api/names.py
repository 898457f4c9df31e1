"""Names of users and databases against the rules of their datastore, and what a guest is to be told."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar
from urllib.parse import unquote

from coffer_api.bodies import DatabaseSpec, UserSpec
from coffer_api.problems import bad_request
from coffer_shared.commands import NewDatabase, UserArgs
from coffer_shared.datastore import Datastore

T = TypeVar("T")
ANY_HOST = "%"


def database(spec: Datastore, name: str) -> str:
    """The name itself, or 400."""
    if name.lower() in spec.reserved_databases or name in spec.reserved_databases:
        raise bad_request(f"The database name {name} is reserved.")
    if len(name.encode()) > spec.max_database_length:
        raise bad_request(f"Database name '{name}' is too long. Max length = {spec.max_database_length}.")
    if not spec.database_pattern.fullmatch(name):
        raise bad_request(f"The database name '{name}' is not allowed for datastore {spec.name}.")
    return name


def user(spec: Datastore, name: str) -> str:
    if name.lower() in spec.reserved_users or name in spec.reserved_users:
        raise bad_request(f"The user name {name} is reserved.")
    if len(name.encode()) > spec.max_user_length:
        raise bad_request(f"User name '{name}' is too long. Max length = {spec.max_user_length}.")
    if not spec.user_pattern.fullmatch(name):
        raise bad_request(f"The user name '{name}' is not allowed for datastore {spec.name}.")
    return name


def host(spec: Datastore, given: str | None) -> str:
    """Datastores whose users have no hosts do not look at one."""
    return given if given and spec.has_hosts else ANY_HOST


def split(spec: Datastore, text: str) -> tuple[str, str]:
    """`name` or `name@host`, as it stands in a path. Without hosts, an @ is part of the name, but for `@%`."""
    if spec.has_hosts:
        name, at, given = text.rpartition("@")
        if at and name:
            return name, given or ANY_HOST
        return text, ANY_HOST
    return text.removesuffix("@" + ANY_HOST), ANY_HOST


def marker(given: str, known: Iterable[str]) -> str:
    """As it stands; decoded once more where only that is known: some clients encode it twice, as Trove's links do."""
    decoded = unquote(given)
    return decoded if decoded != given and decoded in (names := set(known)) and given not in names else given


def databases(spec: Datastore, given: Sequence[DatabaseSpec]) -> list[NewDatabase]:
    found = [NewDatabase(database(spec, item.name), _character_set(spec, item), item.collate) for item in given]
    twice = _first_twice([item.name for item in found])
    if twice is not None:
        raise bad_request(f"Databases must be named differently: {twice} is there twice.")
    return found


def users(spec: Datastore, given: Sequence[UserSpec], known: frozenset[str] | None = None) -> list[UserArgs]:
    """`known`: databases that users may be given; None: any."""
    found = []
    for item in given:
        wanted = [database(spec, ref.name) for ref in item.databases]
        for name in wanted:
            if known is not None and name not in known:
                raise bad_request(f"User {item.name} is to use the database {name}, which is not to be created.")
        found.append(UserArgs(user(spec, item.name), item.password, host(spec, item.host), wanted))
    twice = _first_twice([(item.name, item.host) for item in found])
    if twice is not None:
        raise bad_request(f"Users must be named differently: {twice[0]} is there twice.")
    return found


def _character_set(spec: Datastore, item: DatabaseSpec) -> str | None:
    given = item.character_set
    if given is not None and spec.character_sets and given.lower() not in spec.character_sets:
        raise bad_request(f"The character set {given} is not known to datastore {spec.name}.")
    return given


def _first_twice(items: Sequence[T]) -> T | None:
    seen: set[T] = set()
    for item in items:
        if item in seen:
            return item
        seen.add(item)
    return None
