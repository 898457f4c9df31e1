"""Names against their datastore's rules."""

from __future__ import annotations

import re

import pytest

from coffer_api import names
from coffer_api.bodies import DatabaseSpec
from coffer_api.problems import Problem
from coffer_shared.datastore import Datastore, Feature

HOSTED = Datastore(
    name="hosted", port=1, default_version="1", versions=("1",), features=frozenset(Feature),
    reserved_users=frozenset({"root"}), reserved_databases=frozenset({"mysql"}), max_user_length=8,
    max_database_length=8, root_user="root", user_pattern=re.compile(r"[^\s/]+"),
    database_pattern=re.compile(r"[a-z]+"), has_hosts=True, character_sets=frozenset({"utf8mb4"}),
)
BARE = Datastore(
    name="bare", port=1, default_version="1", versions=("1",), features=frozenset(Feature),
    reserved_users=frozenset(), reserved_databases=frozenset(), max_user_length=63, max_database_length=63,
    root_user="postgres", user_pattern=re.compile(r".+"), database_pattern=re.compile(r".+"), has_hosts=False,
)


@pytest.mark.parametrize(
    ("spec", "text", "name", "host"),
    [
        (HOSTED, "ann", "ann", "%"), (HOSTED, "ann@%", "ann", "%"), (HOSTED, "ann@10.%", "ann", "10.%"),
        (HOSTED, "a@b@10.0.0.1", "a@b", "10.0.0.1"), (HOSTED, "ann@", "ann", "%"), (HOSTED, "@x", "@x", "%"),
        (BARE, "ann@%", "ann", "%"), (BARE, "ann@example.org", "ann@example.org", "%"),
    ],
)
def test_users_in_paths(spec: Datastore, text: str, name: str, host: str):
    assert names.split(spec, text) == (name, host)


def test_hosts():
    assert names.host(HOSTED, "10.%") == "10.%"
    assert names.host(HOSTED, None) == "%"
    assert names.host(BARE, "10.%") == "%"


@pytest.mark.parametrize("name", ["root", "ROOT", "a b", "a/b", "toolong-9", "äääää"])
def test_bad_users(name: str):
    with pytest.raises(Problem) as caught:
        names.user(HOSTED, name)
    assert caught.value.status == 400


@pytest.mark.parametrize("name", ["mysql", "MySQL", "A", "abcdefghi", ""])
def test_bad_databases(name: str):
    with pytest.raises(Problem) as caught:
        names.database(HOSTED, name)
    assert caught.value.status == 400


def test_character_sets():
    assert names.databases(HOSTED, [DatabaseSpec(name="a", character_set="UTF8MB4")])[0].character_set == "UTF8MB4"
    assert names.databases(BARE, [DatabaseSpec(name="a", character_set="anything")])[0].character_set == "anything"
    with pytest.raises(Problem, match="klingon"):
        names.databases(HOSTED, [DatabaseSpec(name="a", character_set="klingon")])
