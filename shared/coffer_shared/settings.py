"""Settings of a process from its environment: COFFER_<FIELD>, or COFFER_<FIELD>_FILE for what is secret.

Each process declares one frozen msgspec struct, so that the guest needs no second validation library. There is no
global settings object.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec

PREFIX = "COFFER_"
Patience = Annotated[float, msgspec.Meta(ge=1, le=100)]
T = TypeVar("T", bound=msgspec.Struct)


class BadSettings(Exception):
    """A setting is missing or has the wrong form. The text names the variable and never its value."""


def load(kind: type[T], environ: Mapping[str, str] | None = None, *, prefix: str = PREFIX) -> T:
    """Build `kind` from the environment. List fields are given comma separated."""
    source = os.environ if environ is None else environ
    values: dict[str, object] = {}
    names = {field.name for field in msgspec.structs.fields(kind)}
    for name in names:
        if f"{name}_file" in names:  # what is meant for the one would be read as the other
            raise TypeError(f"{kind.__name__} has both {name} and {name}_file")
    for field in msgspec.structs.fields(kind):
        name = prefix + field.name.upper()
        text = _value(source, name)
        if text is None:
            if field.required:
                raise BadSettings(f"{name} (or {name}_FILE) is not set: {kind.__name__} needs it")
            continue
        values[field.name] = _split(text) if _is_list(field.type) else text
    try:
        return msgspec.convert(values, kind, strict=False)
    except msgspec.ValidationError as error:
        raise BadSettings(_without_value(error, kind, prefix)) from None


def _value(source: Mapping[str, str], name: str) -> str | None:
    if name in source:
        return source[name]
    path = source.get(f"{name}_FILE")
    if path is None:
        return None
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise BadSettings(f"{name}_FILE: {error.strerror}: {path}") from None
    except UnicodeDecodeError:
        raise BadSettings(f"{name}_FILE: not text: {path}") from None


def _is_list(kind: object) -> bool:
    return getattr(kind, "__origin__", None) in {list, tuple}


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _without_value(error: msgspec.ValidationError, kind: type[msgspec.Struct], prefix: str) -> str:
    """The library's text may quote the value, so only the place in it is used."""
    place = re.search(r"`\$\.(\w+)[^`]*`$", str(error))
    if place is None:
        return f"{prefix}*: not what {kind.__name__} needs"
    wanted = next(field.type for field in msgspec.structs.fields(kind) if field.name == place[1])
    return f"{prefix}{place[1].upper()}: not a value of type {_called(wanted)}"


def _called(kind: object) -> str:
    bounds = [meta for meta in getattr(kind, "__metadata__", ()) if isinstance(meta, msgspec.Meta)]
    plain = getattr(kind, "__origin__", kind) if bounds else kind
    name = getattr(plain, "__name__", str(plain))
    return name + "".join(f" from {meta.ge} to {meta.le}" for meta in bounds)
