"""How gophercloud, and so Terraform, reads and asks: Go's rules for JSON, its types, and the statuses it accepts.

A wrong type is an error, unknown keys are passed over, missing ones and null give the zero value. Times are stricter
here than in Go, which lets a fraction pass.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol, TypeVar

T = TypeVar("T")
Decode = Callable[[Any, str], Any]
"""A value and where it stands; gives it as Go would hold it, or raises Wrong."""
_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", re.ASCII)


class Wrong(Exception):
    """The client would fail here."""


class Answer(Protocol):
    @property
    def status(self) -> int: ...
    @property
    def body(self) -> Any: ...


def string(value: Any, at: str) -> str:
    return _typed(value, at, str, "")


def integer(value: Any, at: str) -> int:
    if isinstance(value, bool):
        raise Wrong(f"{at}: {value!r} is no integer")
    return _typed(value, at, int, 0)


def number(value: Any, at: str) -> float:
    return float(value) if type(value) is int else _typed(value, at, float, 0.0)


def boolean(value: Any, at: str) -> bool:
    return _typed(value, at, bool, False)


def moment(value: Any, at: str) -> str:
    text = string(value, at)
    if text and not _MOMENT.fullmatch(text):
        raise Wrong(f"{at}: {text!r} is not a time without a zone")
    return text


def mapping(value: Any, at: str) -> dict[str, Any]:
    return _typed(value, at, dict, {})


def items(of: Decode) -> Decode:
    def decode(value: Any, at: str) -> list[Any]:
        return [of(item, f"{at}[{n}]") for n, item in enumerate(_typed(value, at, list, []))]

    return decode


def struct(**fields: Decode) -> Decode:
    def decode(value: Any, at: str) -> dict[str, Any]:
        given: dict[str, Any] = _typed(value, at, dict, {})
        return {name: field(given.get(name), f"{at}.{name}") for name, field in fields.items()}

    return decode


def pointer(of: Decode) -> Decode:
    """Null, or nothing, stays None."""
    return lambda value, at: None if value is None else of(value, at)


LINKS = items(struct(rel=string, href=string))
_FAULT = struct(created=moment, message=string, details=string)
INSTANCE = struct(
    id=string, name=string, status=string, created=moment, updated=moment, hostname=string, ip=items(string),
    links=LINKS, flavor=struct(id=string, links=LINKS), volume=struct(size=integer, used=number),
    datastore=struct(type=string, version=string), addresses=items(struct(type=string, address=string)),
    fault=pointer(_FAULT),
)
DATABASE = struct(name=string, character_set=string, collate=string)
USER = struct(name=string, password=string, host=string, databases=items(DATABASE))
FLAVOR = struct(id=integer, str_id=string, name=string, ram=integer, links=LINKS)
VERSION = struct(id=string, name=string, links=LINKS)
DATASTORE = struct(id=string, name=string, default_version=string, links=LINKS, versions=items(VERSION))
CONFIGURATION = struct(
    id=string, name=string, description=string, created=moment, updated=moment, datastore_name=string,
    datastore_version_id=string, datastore_version_name=string, values=mapping,
)
PARAMETER = struct(name=string, type=string, restart_required=boolean, max=number, min=number)
QUOTA = struct(resource=string, in_use=integer, reserved=integer, limit=integer)

ACCEPTED: Mapping[str, tuple[int, ...]] = {
    "GET": (200,), "POST": (201, 202), "PUT": (201, 202), "PATCH": (200, 202, 204), "DELETE": (202, 204),
}
"""What counts as success where a call of gophercloud names nothing else."""


class Gophercloud:
    """Calls, checks the status and decodes as the Go client does."""

    def __init__(self, call: Callable[..., Awaitable[Answer]]) -> None:
        self._call = call

    async def __call__(
        self, method: str, path: str, body: Any = None, *, ok: tuple[int, ...] = (), **of: Decode,
    ) -> Any:
        """`of` names one key of the reply and how it is decoded."""
        answer = await self._call(method, path, body)
        if answer.status not in (ok or ACCEPTED[method]):
            raise Wrong(f"{method} {path}: {answer.status}: {answer.body}")
        for key, decode in of.items():
            if key not in answer.body:
                raise Wrong(f"{method} {path}: no key {key} in {answer.body}")
            return decode(answer.body[key], key)
        return answer.body

    async def all(self, path: str, key: str, of: Decode, next_path: Callable[[str], str]) -> list[Any]:
        """Every page, which it finds through `<collection>_links` only."""
        found: list[Any] = []
        while True:
            answer = await self._call("GET", path)
            if answer.status != 200:
                raise Wrong(f"GET {path}: {answer.status}")
            found += items(of)(answer.body[key], key)
            links = LINKS(answer.body.get(f"{key}_links"), "links")
            further = [link["href"] for link in links if link["rel"] == "next"]
            if not further:
                return found
            path = next_path(further[0])


def _typed(value: Any, at: str, kind: type[T], zero: T) -> T:
    if value is None:
        return zero
    if not isinstance(value, kind):
        raise Wrong(f"{at}: {value!r} is no {kind.__name__}")
    return value
