"""What an operator does every day, as far as it needs no database: users, keys, the doctor's look at files."""

from __future__ import annotations

import asyncio
import getpass
import io
import os
import stat
import sys
import time

import msgspec
import pytest

from coffer_api.htpasswd import parse
from coffer_manage import doctor, doctor_files, foundation, keys, main, user_file
from coffer_manage.finding import Level, ok, problem, warning
from coffer_shared import keyset

PASSWORD = "correct horse"


@pytest.fixture(scope="module")
def laid(tmp_path_factory):
    path = tmp_path_factory.mktemp("state")
    foundation.lay(path, nats_urls=("tls://127.0.0.1:1",), renewal_url="")
    return path


@pytest.fixture
def state(laid, tmp_path):
    """One to spoil."""
    copy = tmp_path / "state"
    foundation.adopt(copy, foundation.master_key(laid))
    for file in laid.rglob("*"):
        if file.is_file():
            to = copy / file.relative_to(laid)
            to.parent.mkdir(exist_ok=True)
            to.unlink(missing_ok=True)
            to.write_bytes(file.read_bytes())
            to.chmod(0o400)
            os.chown(to, file.stat().st_uid, file.stat().st_gid)
    return copy


@pytest.fixture
def run(monkeypatch, capsys):
    monkeypatch.setattr(user_file, "COST", 4)

    def run(*arguments: str, give: str = f"{PASSWORD}\n") -> str:
        monkeypatch.setattr("sys.argv", ["coffer-manage", *arguments])
        monkeypatch.setattr(sys, "stdin", io.StringIO(give))
        main.main()
        said = capsys.readouterr().out
        assert PASSWORD not in said
        return said

    return run


def fails(run, capsys, *arguments, **more):
    with pytest.raises(SystemExit) as ended:
        run(*arguments, **more)
    assert ended.value.code in {1, 2}
    return capsys.readouterr().err


# --- users ---


def test_users_come_and_go(run, state):
    file = state / "api" / "htpasswd"
    before, owner = file.read_text(), file.stat()
    at = ("--state", str(state))
    assert run("user", "add", "ann", "--project", "p1", "--role", "member", "--role", "reader", *at) == (
        "ann may use project p1 now.\n"
    )
    ann = parse(file.read_text()).check("ann", PASSWORD.encode())
    assert (ann.project, ann.roles) == ("p1", {"member", "reader"})
    assert file.read_text().startswith(before)
    assert (file.stat().st_mode, file.stat().st_uid) == (owner.st_mode, owner.st_uid)
    assert "ann  project p1  member, reader\n" in run("user", "list", *at)
    assert run("user", "remove", "ann", *at) == "ann is removed.\n"
    assert file.read_text() == before


def test_a_file_of_ones_own_is_made_for_its_owner_and_keeps_its_comments(run, tmp_path):
    file = tmp_path / "users"
    run("user", "add", "ann", "--project", "p1", "--role", "admin,member", "--file", str(file))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.write_text(f"# ours\n\n{file.read_text().rstrip()}")
    run("user", "add", "bob", "--project", "p2", "--role", "reader", "--file", str(file))
    run("user", "remove", "ann", "--file", str(file))
    comment, empty, bob = file.read_text().splitlines()
    assert (comment, empty, bob[:4]) == ("# ours", "", "bob:")


@pytest.mark.parametrize(("arguments", "give", "says"), [
    (("demo", "--project", "p", "--role", "member"), PASSWORD, "there is a user demo already"),
    (("a:b", "--project", "p", "--role", "member"), PASSWORD, "without a colon"),
    (("#a", "--project", "p", "--role", "member"), PASSWORD, "without a colon"),
    (("", "--project", "p", "--role", "member"), PASSWORD, "no user name"),
    (("ann", "--project", "p/1", "--role", "member"), PASSWORD, "a project is"),
    (("ann", "--project", "p", "--role", "king"), PASSWORD, "roles are of"),
    (("ann", "--project", "p", "--role", ""), PASSWORD, "roles are of"),
    (("ann", "--project", "p", "--role", "member"), "short", "8 to 72 bytes"),
    (("ann", "--project", "p", "--role", "member"), "x" * 73, "8 to 72 bytes"),
    (("ann", "--project", "p", "--role", "member"), "", "8 to 72 bytes"),
    (("ann", "--role", "member"), PASSWORD, "--project"),
], ids=str)
def test_a_bad_user_changes_nothing(run, state, capsys, arguments, give, says):
    file = state / "api" / "htpasswd"
    before = file.read_text()
    assert says in fails(run, capsys, "user", "add", *arguments, "--state", str(state), give=f"{give}\n")
    assert file.read_text() == before


def test_a_password_is_no_argument_and_is_asked_for_only_when_it_is_of_use(run, state, capsys, monkeypatch):
    assert "unrecognized" in fails(
        run, capsys, "user", "add", "ann", "--project", "p", "--role", "member", "--state", str(state), "--password=x",
    )
    monkeypatch.setattr(getpass, "getpass", lambda _prompt: pytest.fail("asked"))
    fails(run, capsys, "user", "add", "demo", "--project", "p", "--role", "member", "--state", str(state))


def test_on_a_terminal_it_is_asked_for_twice(run, state, capsys, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(io, "StringIO", Terminal)
    answers = iter([PASSWORD, "another horse", PASSWORD, PASSWORD])
    monkeypatch.setattr(getpass, "getpass", lambda _prompt: next(answers))
    ann = ("user", "add", "ann", "--project", "p", "--role", "member", "--state", str(state))
    assert "differ" in fails(run, capsys, *ann)
    run(*ann)
    assert list(answers) == []


def test_one_that_is_not_there_cannot_be_removed(run, state, capsys):
    assert "there is no user ann" in fails(run, capsys, "user", "remove", "ann", "--state", str(state))


# --- keys ---


def test_keys_are_shown_by_what_is_no_secret(run, state):
    said = run("keys", "show", "--state", str(state))
    assert f"master key{' ' * 27}" in said
    assert foundation.master_key(state).public.fingerprint in said
    for what in ("root of the key set", "key of provisioner", "NATS user revoker/system.creds",
                 "certificate nats/server.pem", "certificate api/ca.pem"):
        assert what in said
    found = msgspec.to_builtins(foundation.load(state))
    secrets = {found["root"], found["master"], *found["service_keys"].values(), *found["accounts"].values()}
    assert not any(secret in said for secret in secrets)


def test_what_expires_is_told_with_its_day(state):
    known = [one for _, read in keys.expiring(state) for one in read()]
    assert len(known) == 4 + 8 + 3
    assert all(one.expires > time.time() + 300 * 86400 for one in known)


# --- the doctor's look at files ---


def levels(found):
    return {one.about: one.level for one in found}


def at(found, level):
    return [one.text for one in found if one.level is level]


def test_a_new_installation_is_well(laid):
    found = doctor_files.findings(laid, time.time())
    assert levels(found) == {"files": Level.OK, "master key": Level.OK, "expiries": Level.OK}
    assert "within 364 days" in found[-1].text or "within 365 days" in found[-1].text


def test_a_file_that_is_gone_or_that_others_read(state):
    (state / "api" / "key").unlink()
    (state / "door" / "server.key").chmod(0o444)
    found = doctor_files.findings(state, time.time())
    assert at(found, Level.PROBLEM) == [
        "api/key cannot be read: No such file or directory", "door/server.key can be read by others (mode 444)",
    ]
    assert all("init" in one.remedy for one in found if one.level is Level.PROBLEM)


@pytest.mark.parametrize(("file", "text"), [
    ("provisioner/master.key", "11" * 32), ("api/master.pub", "11" * 32), ("provisioner/master.key", "nothing"),
])
def test_a_master_key_that_is_not_the_same_everywhere(state, file, text):
    (state / file).chmod(0o600)
    (state / file).write_text(text)
    assert levels(doctor_files.findings(state, time.time()))["master key"] is Level.PROBLEM


def test_what_expires_soon_and_what_has_expired(laid):
    day = 86400
    found = doctor_files.findings(laid, time.time() + 340 * day)
    assert levels(found)["expiries"] is Level.WARNING
    assert any("api/control.creds expires in 2" in text for text in at(found, Level.WARNING))
    found = doctor_files.findings(laid, time.time() + 366 * day)
    assert "NATS user api/control.creds has expired" in at(found, Level.PROBLEM)
    assert any("certificate nats/server.pem expires in 3" in text or "nats/server.pem" in text
               for text in at(doctor_files.findings(laid, time.time() + 396 * day), Level.WARNING))


def test_a_key_set_of_another_root(state):
    for name in ("root.pub",):
        (state / "api" / name).chmod(0o600)
        (state / "api" / name).write_text(keyset.root_public(bytes(32)))
    found = doctor_files.findings(state, time.time())
    assert "api/keyset: not a key set signed by this root" in at(found, Level.PROBLEM)


def test_without_its_foundation_there_is_nothing_to_compare(tmp_path):
    (only,) = doctor_files.findings(tmp_path, time.time())
    assert only.level is Level.PROBLEM
    assert "copy" in only.remedy


# --- what it says ---


def test_each_finding_is_a_line_and_what_to_do_another():
    found = [ok("files", "there"), warning("orphans", "2", "look"), problem("roles", "differ", "migrate")]
    assert doctor.told(found) == (
        "ok       files              there\n"
        "warning  orphans            2\n"
        "                            -> look\n"
        "problem  roles              differ\n"
        "                            -> migrate\n"
        "1 problem.\n"
    )
    assert doctor.is_ill(found)
    assert not doctor.is_ill(found[:2])
    assert doctor.told(found[:1]).endswith("All is well.\n")


def test_where_nothing_answers_the_doctor_says_so_and_ends_with_1(run, state, capsys, monkeypatch):
    monkeypatch.setenv("COFFER_DATABASE_HOST", "127.0.0.1")
    monkeypatch.setenv("COFFER_DATABASE_PORT", "1")
    monkeypatch.setenv("COFFER_NATS_URLS", "tls://127.0.0.1:1")
    with pytest.raises(SystemExit) as ended:
        run("doctor", "--state", str(state))
    assert ended.value.code == 1
    said = capsys.readouterr().out
    assert "problem  database           it cannot be asked" in said
    assert "problem  NATS               tls://127.0.0.1:1 takes no connection" in said
    assert said.endswith("2 problems.\n")
    assert run("doctor", "--state", str(state), "--keys-only").endswith("All is well.\n")


async def test_a_nats_server_that_takes_connections(monkeypatch):
    async with await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0) as server:
        url = f"tls://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        monkeypatch.setenv("COFFER_NATS_URLS", f"{url},tls://127.0.0.1:1")
        well, away = await doctor._nats()
    assert well == ok("NATS", f"{url} takes connections")
    assert away.level is Level.PROBLEM
