"""Files that list parameters."""

from __future__ import annotations

import json
from typing import Any

import pytest

from coffer_shared.errors import Refused
from coffer_shared.parameters import MAX_NAME, ParameterType, decode

GOOD = {"name": "a.b-c", "type": "integer", "restart_required": False}


def listed(*items: Any) -> bytes:
    return json.dumps({"configuration-parameters": items}).encode()


def test_what_is_said_is_kept_and_what_is_not_is_not_a_rule():
    (found,) = decode(listed({**GOOD, "min": 0, "max": 5, "unit": "kB", "default": 0}))
    assert (found.name, found.type, found.restart_required) == ("a.b-c", ParameterType.INTEGER, False)
    assert found.rule() == {"min": 0, "max": 5, "unit": "kB", "default": 0}
    (plain,) = decode(listed(GOOD))
    assert plain.rule() == {}


WRONG = {
    "no JSON": b"{",
    "no list": b"{}",
    "deep": b"[" * 100_000,
    "more": b'{"configuration-parameters": [], "x": 1}',
    "no name": listed({"type": "integer", "restart_required": False}),
    "empty name": listed({**GOOD, "name": ""}),
    "long name": listed({**GOOD, "name": "n" * (MAX_NAME + 1)}),
    "space in a name": listed({**GOOD, "name": "a b"}),
    "no type": listed({"name": "a", "restart_required": False}),
    "unknown type": listed({**GOOD, "type": "list"}),
    "no restart": listed({"name": "a", "type": "integer"}),
    "restart number": listed({**GOOD, "restart_required": 1}),
    "text for an end": listed({**GOOD, "min": "0"}),
    "fraction for an integer": listed({**GOOD, "min": 0.5}),
    "large integer": listed({**GOOD, "max": 2**63}),
    "max below min": listed({**GOOD, "min": 2, "max": 1}),
    "choices of an integer": listed({**GOOD, "choices": ["1"]}),
    "twice": listed(GOOD, {**GOOD, "name": "A.B-C"}),
}


@pytest.mark.parametrize("data", WRONG.values(), ids=WRONG)
def test_what_is_no_such_list_is_refused(data: bytes):
    with pytest.raises(Refused):
        decode(data)
