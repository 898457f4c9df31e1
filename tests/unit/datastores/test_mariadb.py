"""MariaDB's pure parts."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coffer_datastores.mariadb.accounts import native_hash
from coffer_datastores.mariadb.configuration import files
from coffer_datastores.mariadb.spec import DATASTORE
from coffer_datastores.mariadb.template import defaults
from coffer_datastores.mysql_accounts import _pattern
from coffer_datastores.mysql_session import AGENT, BACKUP_USER, identifier, literal
from coffer_shared.datastore import EngineError, Order, Sizes

MIB = 1 << 20
first_plane = st.characters(min_codepoint=1, max_codepoint=0xFFFF, exclude_categories=["Cs"])


def order(memory: int = 2 << 30, volume: int = 0) -> Order:
    return Order("i", "image", "/data/engine", "/run/x", "/etc/x", ("10.9.0.5", "fd00::5"), 3307, memory, 2, volume)


def content(wanted: Order, name: str) -> list[str]:
    (text,) = (file.content for file in files(wanted) if file.path == f"/etc/x/{name}")
    return text.splitlines()


def settings(wanted: Order) -> dict[str, str]:
    head, *lines = content(wanted, "coffer.cnf")
    assert head == "[mariadbd]"
    return dict(line.split(" = ", 1) for line in lines)


def test_a_known_hash() -> None:
    assert native_hash("mariadb") == "*54958E764CE10E50764C2EECBB71D01F08549980"


@given(st.text(first_plane, min_size=1, max_size=15).filter(lambda name: not name.endswith(" ")))
def test_a_quoted_name_reads_back_as_itself(name: str) -> None:
    quoted = identifier(name)
    assert quoted[0] == quoted[-1] == "`"
    assert quoted[1:-1].replace("``", "").count("`") == 0
    assert quoted[1:-1].replace("``", "`") == name


@given(st.text(st.characters(exclude_characters="\x00")))
def test_a_quoted_value_reads_back_as_itself(value: str) -> None:
    body = literal(value)[1:-1]
    assert re.fullmatch(r"(?:[^\\']|\\\\|'')*", body, re.DOTALL)
    assert re.sub(r"\\\\|''", lambda pair: pair[0][0], body) == value


@given(st.text(st.sampled_from("a_%\\b"), min_size=1))
def test_a_pattern_of_a_database_matches_it_alone(name: str) -> None:
    assert re.sub(r"\\(.)", r"\1", _pattern(name)) == name
    assert not re.search(r"(?<!\\)(?:\\\\)*[_%]", _pattern(name))


@pytest.mark.parametrize("name", ["", "a\x00", "x" * 65, "a ", "\ud800", "\U0001f600"])
def test_names_that_the_server_would_change_or_refuse_are_refused(name: str) -> None:
    with pytest.raises(EngineError):
        identifier(name)


@pytest.mark.parametrize("name", [AGENT, BACKUP_USER, "coffer_new_1", "'x'", "''", "a/b", "\U0001f600", " x"])
def test_users_that_tenants_cannot_have(name: str) -> None:
    assert not DATASTORE.user_pattern.fullmatch(name)


@pytest.mark.parametrize("name", ["x", "o'brien", "'x", "x'", "'", "ж", "a@b", "coffer"])
def test_users_that_tenants_can_have(name: str) -> None:
    assert DATASTORE.user_pattern.fullmatch(name)


def test_it_listens_where_it_is_told_and_on_the_machine_itself() -> None:
    found = settings(order())
    assert found["bind_address"] == "127.0.0.1,10.9.0.5,fd00::5"
    assert found["port"] == "3307"


def test_each_of_coffers_accounts_is_of_the_socket_only() -> None:
    lines = content(order(), "accounts.sql")
    assert all(line.endswith(";") for line in lines)
    made = [line for line in lines if line.startswith(("CREATE", "ALTER"))]
    assert len(made) == 4
    assert all("@'localhost' IDENTIFIED VIA unix_socket AS " in line for line in made)
    rights = next(line for line in lines if line.startswith("GRANT") and BACKUP_USER in line)
    assert "ALL" not in rights.split()
    assert "SUPER" not in rights


@pytest.mark.parametrize("mib", [512, 1024, 2048, 8192, 65536])
def test_what_it_keeps_in_memory_fits_and_grows(mib: int) -> None:
    told = defaults(Sizes(mib * MIB, 1, 0))
    pool = told["innodb_buffer_pool_size"]
    others = sum(int(told[name]) for name in ("key_buffer_size", "aria_pagecache_buffer_size"))
    assert isinstance(pool, int)
    assert pool % (8 * MIB) == 0
    assert mib * MIB // 4 < pool + others < mib * MIB * 2 // 3


def test_what_a_tenant_chooses_goes_before_the_defaults_and_after_what_the_agent_needs() -> None:
    chosen = {"max_connections": 33, "port": 1, "time_zone": "+02:00", "ft_boolean_syntax": 'a "b\\ #'}
    found = settings(replace(order(), settings=chosen))
    assert (found["max_connections"], found["port"]) == ("33", "3307")
    assert found["default_time_zone"] == "+02:00"
    assert found["ft_boolean_syntax"] == '"a \\"b\\\\ #"'
    with pytest.raises(EngineError):
        files(replace(order(), settings={"sql_mode": "a\nb"}))


@pytest.mark.parametrize(("volume", "most"), [(1 << 30, 128), (0, 1024), (1 << 40, 1024)])
def test_the_log_takes_no_more_than_its_part_of_the_volume(volume: int, most: int) -> None:
    assert defaults(Sizes(64 << 30, 1, volume))["innodb_log_file_size"] == most * MIB
