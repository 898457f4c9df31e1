"""MySQL's pure parts. What it shares with MariaDB is in the tests of that."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coffer_datastores.mysql.accounts import MySQLDialect, sha_crypt
from coffer_datastores.mysql.configuration import files, own_settings
from coffer_datastores.mysql.driver import DRIVER
from coffer_datastores.mysql.spec import DATASTORE
from coffer_datastores.mysql.template import defaults
from coffer_datastores.mysql_session import AGENT, literal
from coffer_shared.datastore import EngineError, Order, Sizes

MIB = 1 << 20
GIB = 1 << 30


def order(memory: int = 2 * GIB, volume: int = 0) -> Order:
    return Order("i", "image", "/data/engine", "/run/x", "/etc/x", ("10.9.0.5", "fd00::5"), 3307, memory, 2, volume)


def content(wanted: Order, name: str) -> list[str]:
    (text,) = (file.content for file in files(wanted) if file.path == f"/etc/x/{name}")
    return text.splitlines()


def settings(wanted: Order) -> dict[str, str]:
    head, *lines = content(wanted, "coffer.cnf")
    assert head == "[mysqld]"
    return dict(line.split(" = ", 1) if " = " in line else (line, "") for line in lines)


# --- passwords ---


@pytest.mark.parametrize(
    ("password", "salt", "kept"),
    [
        ("mysql", "abcdefghij./0123", "6Qk3msKCaIktjQUMRBlybHjo5dvgUPDzzIi7ADraAAA"),
        ("a longer password", "abcdefghij./0123", "kT2MIiXpISbr6a1c9LnMXA4c4DC4W.DyZd2aHf04SV4"),
        ("x" * 64, "abcdefghij./0123", "KxX71q06tUZvQROcr6b5qHOo.ULdgC2VRCZ2HBBFbu1"),
        ("ä中\U0001f600", "ABCDEFGHIJKLMNOP", "S8wwOx1ZoA.RCGXkmPkftRSVxU53eweIQQVXGtP0TnD"),
    ],
)
def test_known_hashes(password: str, salt: str, kept: str) -> None:
    """As `openssl passwd -5` makes them, which takes salts of 16 characters at most."""
    assert sha_crypt(password.encode(), salt.encode()) == kept


@pytest.mark.parametrize("password", ["x", "o'brien \\ %s", "\U0001f600" * 30])
def test_a_password_is_told_by_its_hash_and_never_twice_by_the_same(password: str) -> None:
    told = {MySQLDialect().proof(password) for _ in range(3)}
    assert len(told) == 3
    for proof in told:
        found = re.fullmatch(
            r"IDENTIFIED WITH caching_sha2_password AS '\$A\$005\$([./0-9A-Za-z]{20})([./0-9A-Za-z]{43})'", proof
        )
        assert found, proof
        assert found[2] == sha_crypt(password.encode(), found[1].encode())


# --- names ---


@pytest.mark.parametrize(
    "name", [AGENT, "coffer_making", "coffer_new_1", "mysql.x", "mysql.sys", "'x'", "''", "a/b", "\U0001f600", " x"]
)
def test_users_that_tenants_cannot_have(name: str) -> None:
    assert not DATASTORE.user_pattern.fullmatch(name)


@pytest.mark.parametrize("name", ["x", "o'brien", "'x", "x'", "'", "ж", "a@b", "coffer", "mysqlx"])
def test_users_that_tenants_can_have(name: str) -> None:
    assert DATASTORE.user_pattern.fullmatch(name)
    assert name not in DATASTORE.reserved_users


@pytest.mark.parametrize(
    "name", ["mysql", "Sys", "INFORMATION_SCHEMA", "performance_schema", "#mysql50#x", "a/b", " x"]
)
def test_databases_that_tenants_cannot_have(name: str) -> None:
    assert not DATASTORE.database_pattern.fullmatch(name)


@pytest.mark.parametrize("name", ["mysql2", "system", "a`b", "#x", "ж", "a.b"])
def test_databases_that_tenants_can_have(name: str) -> None:
    assert DATASTORE.database_pattern.fullmatch(name)


def test_the_servers_own_users_are_reserved() -> None:
    assert {"root", "mysql.sys", "mysql.session", "mysql.infoschema", "event_scheduler"} <= DATASTORE.reserved_users


# --- files ---


def test_it_listens_where_it_is_told_and_on_the_machine_itself() -> None:
    found = settings(order())
    assert found["bind_address"] == "127.0.0.1,10.9.0.5,fd00::5"
    assert found["port"] == "3307"


def test_the_agents_account_is_of_the_socket_only() -> None:
    lines = content(order(), "accounts.sql")
    assert all(line.endswith(";") for line in lines)
    assert len([line for line in lines if f"'{AGENT}'@'localhost' IDENTIFIED WITH auth_socket AS 'root'" in line]) == 2
    assert settings(order())["plugin_load"] == "auth_socket.so"


def test_no_secret_is_in_what_it_is_started_with() -> None:
    spec = DRIVER.container(order())
    assert not [line for file in files(order()) for line in file.content.splitlines() if " BY " in line]
    assert not [name for name in settings(order()) if "password" in name]
    assert {name for name in spec.environment if "PASSWORD" in name} == {"MYSQL_ROOT_PASSWORD_FILE"}
    assert spec.command == ()


def test_what_a_tenant_chooses_goes_before_the_defaults() -> None:
    chosen = {"max_connections": 33, "time_zone": "+02:00", "ft_boolean_syntax": 'a "b\\ #', "local_infile": True}
    found = settings(replace(order(), settings=chosen))
    assert (found["max_connections"], found["local_infile"]) == ("33", "ON")
    assert found["default_time_zone"] == "+02:00"
    assert found["ft_boolean_syntax"] == '"a \\"b\\\\ #"'
    with pytest.raises(EngineError):
        files(replace(order(), settings={"sql_mode": "a\nb"}))


@pytest.mark.parametrize("name", sorted(own_settings(order())))
def test_what_the_agent_needs_no_tenant_changes(name: str) -> None:
    changed = replace(order(), settings={name: "theirs"})
    assert sorted(content(changed, "coffer.cnf")) == sorted(content(order(), "coffer.cnf"))


def test_what_root_tells_the_server_to_remember_is_not_read_and_no_file_of_the_servers_is_anybodys() -> None:
    found = settings(order())
    assert found["persisted_globals_load"] == "OFF"
    assert found["secure_file_priv"] == "NULL"
    assert found["skip_log_bin"] == ""
    assert "log_bin" not in found


@given(st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=20))
def test_an_accounts_name_in_a_statement_ends_where_it_should(name: str) -> None:
    body = literal(name)[1:-1]
    assert not body.replace("\\\\", "").replace("''", "").count("'")


# --- the template ---


@pytest.mark.parametrize("vcpus", [1, 8, 64])
@pytest.mark.parametrize("mib", [512, 1024, 2048, 8192, 65536, 1048576])
def test_what_it_keeps_in_memory_fits_and_grows(mib: int, vcpus: int) -> None:
    told = defaults(Sizes(mib * MIB, vcpus, 0))
    names = ("innodb_buffer_pool_size", "innodb_buffer_pool_chunk_size", "innodb_buffer_pool_instances")
    pool, chunk, instances = (int(told[name]) for name in names)
    assert chunk % MIB == 0
    assert pool % (chunk * instances) == 0, "the server would round it up"
    assert pool // chunk <= 1000
    assert mib * MIB // 5 < pool + int(told["key_buffer_size"]) < mib * MIB * 2 // 3


@pytest.mark.parametrize(("mib", "watched"), [(512, False), (1023, False), (1024, True), (65536, True)])
def test_what_statements_do_is_counted_where_there_is_room_for_it(mib: int, *, watched: bool) -> None:
    assert defaults(Sizes(mib * MIB, 1, 0))["performance_schema"] is watched


@pytest.mark.parametrize(("volume", "most"), [(GIB, 128), (0, 1024), (1 << 40, 1024), (1 << 28, 96)])
def test_the_log_takes_no_more_than_its_part_of_the_volume(volume: int, most: int) -> None:
    assert defaults(Sizes(64 * GIB, 1, volume))["innodb_redo_log_capacity"] == most * MIB
