"""`coffer-manage` as it is called: what it prints, and how it fails."""

from __future__ import annotations

import json

import pytest

from coffer_manage import main


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
        return run("init", "--state", str(tmp_path), "--nats-url", "tls://a:1", "--nats-url", "tls://b:1")

    return init


def test_init_may_be_run_again(init, tmp_path):
    assert init() == "The installation's keys were made.\n"
    assert init() == "The installation's keys are in place.\n"
    told = json.loads((tmp_path / "provisioner" / "installation.json").read_bytes())
    assert told == {"nats_urls": ["tls://a:1", "tls://b:1"], "renewal_url": ""}


def test_init_shows_no_secret(init, tmp_path):
    said = init()
    for secret in json.loads((tmp_path / "operator" / "users.json").read_bytes()).values():
        assert secret["password"] not in said


def test_clients_gets_each_users_own_endpoint(init, run, tmp_path):
    init()
    told = json.loads(run("clients", "--state", str(tmp_path), "--endpoint", "http://api:8779/v1.0"))
    assert {name: user["endpoint"] for name, user in told["users"].items()} == {
        name: f"http://api:8779/v1.0/{name}" for name in ("admin", "demo", "other")
    }
    assert (told["user"], told["password"]) == ("demo", told["users"]["demo"]["password"])


def test_a_state_that_is_not_there_is_said_in_a_line(run, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        run("clients", "--state", str(tmp_path), "--endpoint", "x")
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert said.startswith("coffer-manage clients: ")
    assert "users.json" in said
    assert said.count("\n") == 1
