"""The decoder that stands in for gophercloud's refuses what Go refuses."""

from __future__ import annotations

from typing import Any

import pytest

from support import gophercloud
from support.gophercloud import Decode, Wrong


@pytest.mark.parametrize(
    ("decode", "value"),
    [
        (gophercloud.FLAVOR, {"id": "1"}), (gophercloud.FLAVOR, {"id": True}), (gophercloud.FLAVOR, {"ram": 0.5}),
        (gophercloud.INSTANCE, {"flavor": {"id": 1}}), (gophercloud.INSTANCE, {"volume": {"size": 1.0}}),
        (gophercloud.INSTANCE, {"ip": "10.0.0.1"}), (gophercloud.INSTANCE, {"fault": {"created": "now"}}),
        (gophercloud.INSTANCE, {"created": "2026-01-02T03:04:05Z"}),
        (gophercloud.INSTANCE, {"created": "2026-01-02T03:04:05.5"}),
        (gophercloud.INSTANCE, {"created": "2026-01-02T03:04:05+00:00"}), (gophercloud.USER, {"databases": ["a"]}),
        (gophercloud.PARAMETER, {"max": "1"}), (gophercloud.QUOTA, {"limit": "1"}), (gophercloud.INSTANCE, []),
    ],
)
def test_a_wrong_type_is_an_error(decode: Decode, value: Any):
    with pytest.raises(Wrong):
        decode(value, "it")


def test_null_and_nothing_are_the_zero_value():
    assert gophercloud.FLAVOR({"id": None, "more": [1]}, "it") == {
        "id": 0, "str_id": "", "name": "", "ram": 0, "links": [],
    }
    assert gophercloud.INSTANCE({}, "it")["fault"] is None
    assert gophercloud.PARAMETER({"max": 3}, "it")["max"] == 3.0
