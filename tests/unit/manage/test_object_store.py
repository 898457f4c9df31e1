"""What Swift, the provisioner and tenants are told of one another."""

from __future__ import annotations

import base64
import configparser
import json
from pathlib import Path

import pytest

from coffer_manage import foundation, object_store
from coffer_manage.object_store import Address, User


def _as_tempauth_reads(text: str) -> dict[tuple[str, str], list[str]]:
    """Account and user to key and groups, by the rules of Swift's tempauth over paste's configuration files."""
    parser = configparser.ConfigParser()
    parser.optionxform = str
    parser.read_string("[filter:tempauth]\n" + text)
    found = {}
    for option, value in parser["filter:tempauth"].items():
        kind, rest = option.split("_", 1)
        account, user = rest.split("_")
        if kind == "user64":
            account, user = (base64.b64decode(p + "=" * (len(p) % 4)).decode() for p in (account, user))
        found[account, user] = value.split()
    return found


@pytest.mark.parametrize("account", ["demo", "a_b", "under_score_d", "4b0f", "prö jekt", "a:b=c", "#x", "[y]", "?>~"])
@pytest.mark.parametrize("name", ["demo", "x_y", "xy_z", "ab", "Z.1-2"])
def test_tempauth_reads_every_name_as_it_was(account, name):
    text = object_store.users_file([User(account, name, "key-_1", (".admin",)), User("plain", "one", "k")]).decode()
    assert _as_tempauth_reads(text) == {(account, name): ["key-_1", ".admin"], ("plain", "one"): ["k"]}


def test_plain_names_stay_readable():
    text = object_store.users_file([User("demo", "demo", "k", (".admin",))]).decode()
    assert text == "user_demo_demo = k .admin\n"


def test_tenants_own_their_account_and_the_service_users_own_none(tmp_path):
    foundation.lay(
        tmp_path, nats_urls=("tls://nats:4222",), renewal_url="", store=Address("http://s:1", "http://s.guests:1"),
    )
    users = _as_tempauth_reads((tmp_path / "swift" / "users.conf").read_text())
    assert {user: groups for user, (_, *groups) in users.items()} == {
        ("coffer", "setup"): [".reseller_admin"],
        ("coffer", "backup"): [],
        ("admin", "admin"): [".admin"],
        ("demo", "demo"): [".admin"],
        ("other", "other"): [".admin"],
    }
    keys = [key for key, *_ in users.values()]
    assert len(set(keys)) == len(keys)
    assert min(map(len, keys)) > 40
    told = json.loads((tmp_path / "provisioner" / "storage.json").read_bytes())
    assert told == {"swift": {
        "url": "http://s:1", "guest_url": "http://s.guests:1", "account_prefix": "AUTH_",
        "setup_user": "coffer:setup", "setup_key": users["coffer", "setup"][0],
        "user": "coffer:backup", "key": users["coffer", "backup"][0],
    }}


def test_access_names_the_account_of_the_user():
    assert object_store.access("http://127.0.0.1:8780", "a b:x", "k") == {
        "auth_url": "http://127.0.0.1:8780/auth/v1.0", "url": "http://127.0.0.1:8780/v1/AUTH_a%20b", "user": "a b:x",
        "key": "k",
    }


def test_a_key_is_not_in_the_text_of_its_user():
    assert "hush" not in repr(User("a", "b", "hush"))


def test_the_image_runs_as_whom_the_users_file_belongs_to():
    file = Path(__file__).parents[3] / "deploy" / "images" / "swift" / "Dockerfile"
    uid = foundation.UIDS["swift"]
    assert f"USER {uid}:{uid}" in file.read_text()
