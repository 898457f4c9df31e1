"""PostgreSQL's pure parts."""

from __future__ import annotations

import base64
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coffer_datastores.postgresql.accounts import _owner_name
from coffer_datastores.postgresql.configuration import files
from coffer_datastores.postgresql.scram import _prepared, verifier
from coffer_datastores.postgresql.session import BACKUP_USER, identifier, literal
from coffer_datastores.postgresql.spec import DATASTORE
from coffer_shared.datastore import EngineError, Order


def order(memory: int = 2 << 30, vcpus: float = 2) -> Order:
    return Order("i", "image", "/data/engine", "/run/x", "/etc/x", ("10.9.0.5", "fd00::5"), 5433, memory, vcpus)


def settings(wanted: Order) -> dict[str, str]:
    (text,) = (file.content for file in files(wanted, "/etc/postgresql") if file.path.endswith("postgresql.conf"))
    return dict(line.split(" = ", 1) for line in text.splitlines())


def test_the_verifier_is_that_of_the_standards_example() -> None:
    """RFC 7677, section 3: user `user`, password `pencil`; the stored and server keys follow from it."""
    made = verifier("pencil", base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ=="))
    assert made == (
        "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$"
        "WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
    )


def test_two_verifiers_of_one_password_differ() -> None:
    assert verifier("x") != verifier("x")


@pytest.mark.parametrize(
    ("password", "prepared"),
    [
        ("I\u00adX", b"IX"),
        ("user", b"user"),
        ("USER", b"USER"),
        ("\u00aa", b"a"),
        ("\u2168", b"IX"),
        ("a\u00a0b", b"a b"),
        ("\u0007", b"\x07"),
        ("\u0627\u0031", "\u0627\u0031".encode()),
        ("\u00ad", "\u00ad".encode()),
        ("", b""),
    ],
)
def test_passwords_are_prepared_as_the_standard_says_or_left_alone(password: str, prepared: bytes) -> None:
    assert _prepared(password) == prepared


@given(st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), min_size=1, max_size=15))
def test_a_quoted_name_reads_back_as_itself(name: str) -> None:
    quoted = identifier(name)
    assert quoted[0] == quoted[-1] == '"'
    assert quoted[1:-1].replace('""', "").count('"') == 0
    assert quoted[1:-1].replace('""', '"') == name


@given(st.text(st.characters(exclude_characters="\x00")))
def test_a_quoted_value_reads_back_as_itself(value: str) -> None:
    quoted = literal(value)
    body = quoted[2:-1]
    assert re.fullmatch(r"(?:[^\\']|\\\\|'')*", body, re.DOTALL)
    assert re.sub(r"\\\\|''", lambda pair: pair[0][0], body) == value


@pytest.mark.parametrize("name", ["", "a\x00", "x" * 64, "\u0436" * 32, "\ud800"])
def test_names_that_the_server_would_cut_or_refuse_are_refused(name: str) -> None:
    with pytest.raises(EngineError):
        identifier(name)


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=63))
def test_an_owners_name_fits_and_is_not_a_tenants(database: str) -> None:
    owner = _owner_name(database)
    assert len(owner.encode()) <= 63
    assert not DATASTORE.user_pattern.fullmatch(owner)


@pytest.mark.parametrize("name", ["ann", "Ann B", "ünï", "a@b", "a.b", "1", "select", 'a"b', "a'b", "pg", "coffer"])
def test_possible_names(name: str) -> None:
    assert DATASTORE.user_pattern.fullmatch(name)
    assert DATASTORE.database_pattern.fullmatch(name)


@pytest.mark.parametrize("name", ["", " a", "a ", "a\n", "a\x7f", "a/b", "a\\b"])
def test_impossible_names(name: str) -> None:
    assert not DATASTORE.user_pattern.fullmatch(name)
    assert not DATASTORE.database_pattern.fullmatch(name)


def test_it_listens_where_tenants_are_and_on_loopback_only() -> None:
    assert settings(order())["listen_addresses"] == "'127.0.0.1,10.9.0.5,fd00::5'"
    assert settings(order())["port"] == "5433"


@pytest.mark.parametrize("mib", [256, 512, 1024, 4096, 65536])
def test_its_buffers_fit_into_the_flavor(mib: int) -> None:
    found = settings(order(mib << 20))
    size = {name: int(value.removesuffix("MB")) for name, value in found.items() if value.endswith("MB")}
    assert size["shared_buffers"] <= mib // 2
    assert size["shared_buffers"] + size["maintenance_work_mem"] + 100 * size["work_mem"] // 4 < 1.1 * mib


@pytest.mark.parametrize(("gib", "mib"), [(0, 1024), (1, 256), (8, 2048), (1000, 256_000)])
def test_a_slot_keeps_at_most_a_quarter_of_the_volume(gib: int, mib: int) -> None:
    assert settings(replace(order(), volume_bytes=gib << 30))["max_slot_wal_keep_size"] == f"{mib}MB"


def test_the_backup_user_comes_in_to_replicate_over_the_socket_and_in_no_other_way() -> None:
    (hba,) = (file.content for file in files(order(), "/etc/postgresql") if file.path.endswith("pg_hba.conf"))
    lines = [line.split() for line in hba.splitlines()]
    assert [line for line in lines if BACKUP_USER in line] == [
        ["local", "replication", BACKUP_USER, "peer", "map=coffer"],
        ["host", "all", BACKUP_USER, "all", "reject"],
    ]
    first = next(n for n, line in enumerate(lines) if line[:3] == ["local", "all", "all"])
    assert lines[first][-1] == "reject"
    assert lines.index(["host", "replication", "all", "all", "reject"]) < lines.index(
        ["host", "all", "all", "all", "scram-sha-256"]
    )


def test_nobody_is_trusted() -> None:
    for file in files(order(), "/etc/postgresql"):
        assert "trust" not in file.content
        assert file.mode == 0o600
