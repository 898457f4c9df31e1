"""Values against the parameters of their datastore version."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from coffer_api.problems import unprocessable
from coffer_shared.datastore import Unit
from coffer_shared.parameters import NUMERIC, Parameter, ParameterType, numbers

MAX_TEXT = 1024
_AMOUNT = re.compile(r"(-?[0-9]{1,18}(?:\.[0-9]{1,18})?) ?([A-Za-z]{1,8})", re.ASCII)
_MOST = 2**63 - 1
_TYPES: Mapping[ParameterType, tuple[type, ...]] = {
    ParameterType.INTEGER: (int,),
    ParameterType.FLOAT: (int, float),
    ParameterType.STRING: (str,),
    ParameterType.BOOLEAN: (bool,),
}


def rules(rows: Sequence[Mapping[str, Any]]) -> list[Parameter]:
    """From rows of `configuration_parameters` with their `rule` decoded."""
    return [
        msgspec.convert(
            {
                **numbers(row["rule"]), "name": row["name"], "type": row["data_type"],
                "restart_required": row["restart_required"],
            },
            Parameter,
        )
        for row in rows
    ]


def check(
    known: Sequence[Parameter], given: Mapping[str, Any], datastore: str, version: str, units: Mapping[str, Unit],
) -> dict[str, Any]:
    """The values under the names as they are registered. 422 for the first that may not be."""
    if not given:
        return {}
    if not known:
        raise unprocessable(f"Configuration groups are not supported for this datastore: {datastore} {version}")
    by_name = {parameter.name.lower(): parameter for parameter in known}
    found: dict[str, Any] = {}
    for name, value in given.items():
        parameter = by_name.get(name.lower())
        if parameter is None:
            raise unprocessable(
                f"The configuration parameter {name[:255]} is not supported for this datastore: {datastore} {version}.",
            )
        if parameter.name in found:
            raise unprocessable(f"The configuration parameter {parameter.name} is given twice.")
        _check(parameter, value, units)
        found[parameter.name] = value
    return found


def _check(parameter: Parameter, value: Any, units: Mapping[str, Unit]) -> None:
    numeric = parameter.type in NUMERIC
    amount: Any = _amount(value, parameter, units) if numeric and isinstance(value, str) else value
    of_type = isinstance(amount, _TYPES[parameter.type])
    if not of_type or (isinstance(value, bool) and parameter.type is not ParameterType.BOOLEAN):
        raise unprocessable(
            f"The value provided for the configuration parameter {parameter.name} is not of type {parameter.type}.",
        )
    if numeric:
        _in_range(parameter, amount)
    elif isinstance(amount, str):
        _is_text(parameter, amount)


def _amount(text: str, parameter: Parameter, units: Mapping[str, Unit]) -> float | str:
    """Text such as "64MB" in the unit in which the parameter counts; else, and without a unit, the text itself."""
    own, found = units.get(parameter.unit or ""), _AMOUNT.fullmatch(text)
    given = units.get(found[2]) if found else None
    if own is None or found is None or given is None or given.measures != own.measures:
        return text
    amount = float(found[1]) * given.factor / own.factor
    return round(amount) if parameter.type is ParameterType.INTEGER else amount


def _in_range(parameter: Parameter, amount: float) -> None:
    least, most = parameter.min, parameter.max
    if parameter.type is ParameterType.INTEGER:
        least, most = (-_MOST if least is None else least), (_MOST if most is None else most)
    what = f"The value for the configuration parameter {parameter.name}"
    if least is not None and amount < least:
        raise unprocessable(f"{what} is less than the minimum allowed: {least}")
    if most is not None and amount > most:
        raise unprocessable(f"{what} is greater than the maximum allowed: {most}")


def _is_text(parameter: Parameter, text: str) -> None:
    if len(text) > MAX_TEXT or not text.isprintable():
        raise unprocessable(
            f"The value for the configuration parameter {parameter.name} must be printable and of at most {MAX_TEXT} "
            "characters.",
        )
    if parameter.choices and text.lower() not in {choice.lower() for choice in parameter.choices}:
        raise unprocessable(
            f"The value for the configuration parameter {parameter.name} must be one of "
            f"{', '.join(parameter.choices)}.",
        )
