"""Parameters that tenants may choose in configuration groups: what is known of one, and the files that list them.

    {"configuration-parameters": [{"name": "work_mem", "type": "integer", "restart_required": false, "min": 64}]}

is the format of Trove's files; `choices`, `unit`, `default` and `description` are more than those have.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any

import msgspec

from coffer_shared.errors import Refused

MAX_NAME = 128
_NAME = re.compile(r"[A-Za-z0-9_.:/-]+")
_BAD = "bad_parameters"
_INT = 2**63


class ParameterType(StrEnum):
    INTEGER = "integer"
    FLOAT = "float"
    STRING = "string"
    BOOLEAN = "boolean"


NUMERIC = frozenset({ParameterType.INTEGER, ParameterType.FLOAT})


class Parameter(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_NAME)]
    type: ParameterType
    restart_required: bool
    """Whether a change acts only after a restart."""
    min: int | float | None = None
    max: int | float | None = None
    choices: tuple[str, ...] = ()
    """Of a string; empty: any."""
    unit: str | None = None
    """In which numbers count, such as kB or ms."""
    default: int | float | bool | str | None = None
    """The engine's own."""
    description: str | None = None

    def rule(self) -> dict[str, Any]:
        """What is recorded beside name, type and restart."""
        return {key: value for key, value in msgspec.to_builtins(self).items() if key not in _COLUMNS}


_COLUMNS = frozenset({"name", "type", "restart_required"})


class _File(msgspec.Struct, forbid_unknown_fields=True):
    parameters: list[Parameter] = msgspec.field(name="configuration-parameters")


def decode(data: bytes) -> list[Parameter]:
    """What such a file lists. Refused says what is wrong with it."""
    try:
        found = msgspec.json.decode(data, type=_File).parameters
    except (msgspec.DecodeError, RecursionError) as error:
        raise Refused(_BAD, f"not a list of parameters: {error}") from None
    names: set[str] = set()
    for parameter in found:
        if (why := _wrong(parameter)) is not None:
            raise Refused(_BAD, f"{parameter.name}: {why}")
        if parameter.name.lower() in names:
            raise Refused(_BAD, f"{parameter.name} is listed twice")
        names.add(parameter.name.lower())
    return found


def numbers(stored: Mapping[str, Any]) -> dict[str, Any]:
    """JSON as PostgreSQL keeps it writes large floats as integers, which no encoder takes."""
    return {
        name: float(value) if isinstance(value, int) and abs(value) >= _INT else value for name, value in stored.items()
    }


def is_name(text: str) -> bool:
    return len(text) <= MAX_NAME and _NAME.fullmatch(text) is not None


def _wrong(given: Parameter) -> str | None:
    if not is_name(given.name):
        return "not a possible name"
    if given.type is ParameterType.INTEGER and any(isinstance(end, float) for end in (given.min, given.max)):
        return "min and max of an integer are integers"
    if any(isinstance(end, int) and not -_INT <= end < _INT for end in (given.min, given.max, given.default)):
        return "integers have 64 bits"
    if given.type in NUMERIC and given.min is not None and given.max is not None and given.min > given.max:
        return "min is greater than max"
    if given.choices and given.type is not ParameterType.STRING:
        return "only a string has choices"
    return None
