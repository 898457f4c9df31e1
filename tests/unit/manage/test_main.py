"""`coffer-manage` as it is called: what it prints, and how it fails."""

from __future__ import annotations

import getpass
import io
import json
import sys

import pytest
from nacl.pwhash import argon2id

from coffer_manage import foundation, main, master_key

PASSPHRASE = "correct horse 12"


@pytest.fixture
def run(monkeypatch, capsys):
    def run(*arguments: str) -> str:
        monkeypatch.setattr("sys.argv", ["coffer-manage", *arguments])
        main.main()
        return capsys.readouterr().out

    return run


@pytest.fixture
def init(run, tmp_path):
    def init() -> str:
        return run(
            "init", "--state", str(tmp_path), "--nats-url", "tls://a:1", "--nats-url", "tls://b:1",
            "--swift-url", "http://swift:8080", "--swift-guest-url", "http://swift.coffer:8080",
        )

    return init


@pytest.fixture
def key(run, monkeypatch, tmp_path):
    """`coffer-manage master-key`, with a line on standard input."""
    monkeypatch.setenv("COFFER_DATABASE_HOST", "127.0.0.1")
    monkeypatch.setenv("COFFER_DATABASE_PORT", "1")
    monkeypatch.setattr(master_key, "_OPERATIONS", argon2id.OPSLIMIT_MIN)
    monkeypatch.setattr(master_key, "_MEMORY", argon2id.MEMLIMIT_MIN)

    def key(action: str, *, state=tmp_path / "state", give: str = f"{PASSPHRASE}\n", kind=io.StringIO) -> str:
        monkeypatch.setattr(sys, "stdin", kind(give))
        return run("master-key", action, "--state", str(state), "--file", str(tmp_path / "key.json"))

    foundation.lay(tmp_path / "state", nats_urls=(), renewal_url="")
    return key


def test_init_may_be_run_again(init, tmp_path):
    assert init() == "The installation's keys were made.\n"
    assert init() == "The installation's keys are in place.\n"
    told = json.loads((tmp_path / "provisioner" / "installation.json").read_bytes())
    assert told == {"nats_urls": ["tls://a:1", "tls://b:1"], "renewal_url": ""}


def test_init_shows_no_secret(init, tmp_path):
    said = init()
    for secret in json.loads((tmp_path / "operator" / "users.json").read_bytes()).values():
        assert secret["password"] not in said
        assert secret["store_key"] not in said


def test_one_address_of_the_object_store_serves_guests_too(run, tmp_path):
    run("init", "--state", str(tmp_path), "--nats-url", "tls://a:1", "--swift-url", "https://objects.example")
    told = json.loads((tmp_path / "provisioner" / "storage.json").read_bytes())["swift"]
    assert told["url"] == told["guest_url"] == "https://objects.example"


def test_a_clouds_object_store_is_named_by_its_user(run, tmp_path):
    of = ("--swift-cloud", "service", "--swift-clouds-file", "/run/openstack/clouds.yaml")
    run("init", "--state", str(tmp_path), "--nats-url", "tls://a:1", *of)
    told = json.loads((tmp_path / "provisioner" / "storage.json").read_bytes())["swift"]
    assert told["keystone"] == {"clouds_file": "/run/openstack/clouds.yaml", "cloud": "service"}
    assert not (tmp_path / "swift").exists()
    for wrong in (of[:2], (*of, "--swift-url", "https://objects.example")):
        with pytest.raises(SystemExit):
            run("init", "--state", str(tmp_path / "other"), "--nats-url", "tls://a:1", *wrong)
    assert not (tmp_path / "other").exists()


def test_clients_gets_each_users_own_endpoint(init, run, tmp_path):
    init()
    told = json.loads(run("clients", "--state", str(tmp_path), "--endpoint", "http://api:8779/v1.0"))
    assert {name: user["endpoint"] for name, user in told["users"].items()} == {
        name: f"http://api:8779/v1.0/{name}" for name in ("admin", "demo", "other")
    }
    assert (told["user"], told["password"]) == ("demo", told["users"]["demo"]["password"])
    assert "object_store" not in told


def test_clients_gets_each_users_own_account_of_the_object_store(init, run, tmp_path):
    init()
    told = json.loads(run(
        "clients", "--state", str(tmp_path), "--endpoint", "http://api:8779/v1.0", "--swift", "http://127.0.0.1:8780",
    ))
    keys = foundation.load(tmp_path).store_keys
    for name in ("admin", "demo", "other"):
        assert told["users"][name]["object_store"] == {
            "auth_url": "http://127.0.0.1:8780/auth/v1.0", "url": f"http://127.0.0.1:8780/v1/AUTH_{name}",
            "user": f"{name}:{name}", "key": keys[f"{name}:{name}"],
        }
    assert told["object_store"] == told["users"]["demo"]["object_store"]
    assert keys["coffer:setup"] not in json.dumps(told)


def test_a_state_that_is_not_there_is_said_in_a_line(run, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        run("clients", "--state", str(tmp_path), "--endpoint", "x")
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert said.startswith("coffer-manage clients: ")
    assert "users.json" in said
    assert said.count("\n") == 1


def test_the_master_key_comes_out_and_is_recognized(key, tmp_path):
    fingerprint = foundation.master_key(tmp_path / "state").public.fingerprint
    for said in (key("export"), key("verify")):
        assert fingerprint in said
        assert PASSPHRASE not in said


def test_a_verification_that_cannot_be_recorded_is_noted(key, tmp_path):
    key("export")
    assert key("verify").endswith("the next `coffer-manage migrate` records that.\n")
    own = foundation.master_key(tmp_path / "state").public.fingerprint
    assert (tmp_path / "state" / "manage" / "verified-export").read_text() == own


@pytest.mark.parametrize("give", ["", "short\n"])
def test_no_master_key_leaves_without_a_passphrase(key, tmp_path, capsys, give):
    with pytest.raises(SystemExit):
        key("export", give=give)
    assert "12 characters" in capsys.readouterr().err
    assert not (tmp_path / "key.json").exists()


def test_an_export_of_another_installation_is_told_from_ones_own(key, tmp_path, capsys):
    key("export")
    foundation.lay(tmp_path / "other", nats_urls=(), renewal_url="")
    with pytest.raises(SystemExit) as ended:
        key("verify", state=tmp_path / "other")
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert foundation.master_key(tmp_path / "state").public.fingerprint in said
    assert foundation.master_key(tmp_path / "other").public.fingerprint in said
    with pytest.raises(SystemExit):
        key("import", state=tmp_path / "other")


def test_a_new_installation_begins_with_an_exported_key(key, tmp_path):
    key("export")
    key("import", state=tmp_path / "new")
    assert not foundation.lay(tmp_path / "new", nats_urls=(), renewal_url="")
    assert (tmp_path / "new" / "provisioner" / "master.key").read_text() == foundation.load(tmp_path / "state").master


def test_on_a_terminal_the_passphrase_is_asked_for_twice(key, tmp_path, monkeypatch, capsys):
    answers = iter([PASSPHRASE, "correct horse 13", PASSPHRASE, PASSPHRASE, PASSPHRASE])
    monkeypatch.setattr(getpass, "getpass", lambda _prompt: next(answers))
    with pytest.raises(SystemExit):
        key("export", kind=_Terminal)
    assert "differ" in capsys.readouterr().err
    key("export", kind=_Terminal)
    assert "this installation's" in key("verify", kind=_Terminal)
    assert list(answers) == []


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True
