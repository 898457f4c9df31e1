"""Credentials on disk and in memory, and user data."""

import base64
import stat
from pathlib import Path

import pytest

from coffer_shared import identity
from coffer_shared.identity import (
    Credentials,
    CredentialSource,
    UserData,
    decode_user_data,
    encode_user_data,
    user_nkey,
)
from coffer_shared.nkeys import Kind, NKey, verify

KEY = NKey.generate(Kind.USER)
CREDENTIALS = Credentials("the.jwt.text", KEY.seed)
DATA = UserData(
    instance="6b0c2a2e-8a0d-4f0e-9a53-0d4d7f0e5a11",
    nats_urls=("nats://n1:4222", "nats://n2:4222"),
    ca="-----BEGIN CERTIFICATE-----\n",
    root="00" * 32,
    keyset="text",
    boot_jwt="jwt",
    boot_seed=KEY.seed,
    secret="5e" * 32,
    expires_at=1.5,
)


def test_saved_for_the_owner_only_and_loaded_again(tmp_path: Path) -> None:
    path = tmp_path / "creds"
    identity.save(CREDENTIALS, path)
    identity.save(CREDENTIALS, path)

    assert identity.load(path) == CREDENTIALS
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["creds"]


@pytest.mark.parametrize("content", ["", "{}", '{"jwt": 1, "seed": 2}', '{"jwt": "x", "seed": "SU"}'])
def test_other_files_are_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "creds"
    path.write_text(content)
    with pytest.raises(ValueError):
        identity.load(path)


def test_the_seed_of_an_account_is_no_credential(tmp_path: Path) -> None:
    identity.save(Credentials("x", NKey.generate(Kind.ACCOUNT).seed), tmp_path / "creds")
    with pytest.raises(ValueError, match="user"):
        identity.load(tmp_path / "creds")


@pytest.mark.parametrize("source", [CREDENTIALS, lambda: CREDENTIALS], ids=["value", "callable"])
def test_connect_options_sign_the_nonce(source: Credentials | CredentialSource) -> None:
    options = identity.connect_options(source)
    signature = options["signature_cb"]("nonce")

    assert bytes(options["user_jwt_cb"]()) == b"the.jwt.text"
    verify(CREDENTIALS.nkey, b"nonce", base64.urlsafe_b64decode(signature + b"=="))


def test_user_data_round_trip() -> None:
    assert decode_user_data(encode_user_data(DATA)) == DATA
    assert DATA.boot == Credentials("jwt", KEY.seed)


def test_user_data_of_a_newer_control_plane() -> None:
    assert decode_user_data(encode_user_data(DATA)[:-1] + b',"new":1}') == DATA


@pytest.mark.parametrize("raw", [b"", b"{}", b"[]", encode_user_data(DATA).replace(b"6b0c2a2e", b"*")])
def test_not_user_data(raw: bytes) -> None:
    with pytest.raises(ValueError):
        decode_user_data(raw)


@pytest.mark.parametrize("public", ["", "U", NKey.generate(Kind.ACCOUNT).public, KEY.seed])
def test_only_a_users_public_key_is_a_user_nkey(public: str) -> None:
    with pytest.raises(ValueError):
        user_nkey(public)
    assert user_nkey(KEY.public) == KEY.public


def test_representations_hide_secrets() -> None:
    assert KEY.seed not in repr(CREDENTIALS) + repr(DATA)
    assert DATA.secret not in repr(DATA)
