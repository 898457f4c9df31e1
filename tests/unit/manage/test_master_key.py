"""The master key in a file of its own: what opens it, what does not, and what a damaged one says."""

from __future__ import annotations

import json
import os
import stat

import pytest
from nacl.pwhash import argon2id

from coffer_db.secrets import MasterKey
from coffer_manage import master_key
from coffer_manage.master_key import MasterKeyError

PASSPHRASE = "correct horse 12"


@pytest.fixture(autouse=True)
def cheap(monkeypatch):
    monkeypatch.setattr(master_key, "_OPERATIONS", argon2id.OPSLIMIT_MIN)
    monkeypatch.setattr(master_key, "_MEMORY", argon2id.MEMLIMIT_MIN)


@pytest.fixture
def key() -> MasterKey:
    return MasterKey.generate()


@pytest.fixture
def exported(key, tmp_path):
    path = tmp_path / "key.json"
    master_key.export(key, PASSPHRASE, path)
    return path


def _changed(path, **fields):
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_an_export_opens_what_the_installation_sealed(key, exported):
    sealed = key.public.wrap("project-key/p", {"key": "k"})
    assert master_key.read(exported, PASSPHRASE).unwrap("project-key/p", sealed) == {"key": "k"}


def test_the_file_is_its_owners_alone_and_holds_nothing_in_the_clear(key, exported):
    assert stat.S_IMODE(exported.stat().st_mode) == 0o600
    owner, folder = exported.stat(), exported.parent.stat()
    assert (owner.st_uid, owner.st_gid) == (folder.st_uid, folder.st_gid)
    text = exported.read_text()
    assert key.private_bytes().hex() not in text
    assert PASSPHRASE not in text
    assert json.loads(text)["fingerprint"] == key.public.fingerprint


@pytest.mark.parametrize(("uid", "given"), [(0, 1), (1000, 0)])
def test_root_makes_it_for_the_owner_of_the_folder(key, tmp_path, monkeypatch, uid, given):
    owners = []
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    monkeypatch.setattr(os, "fchown", lambda _descriptor, *owner: owners.append(owner))
    master_key.export(key, PASSPHRASE, tmp_path / "key.json")
    assert owners == [(tmp_path.stat().st_uid, tmp_path.stat().st_gid)] * given


def test_two_exports_have_nothing_in_common(key, exported, tmp_path):
    master_key.export(key, PASSPHRASE, tmp_path / "second")
    first, second = (json.loads(p.read_text()) for p in (exported, tmp_path / "second"))
    assert first["salt"] != second["salt"]
    assert first["sealed"] != second["sealed"]


def test_no_file_is_ever_overwritten(key, exported):
    before = exported.read_bytes()
    with pytest.raises(FileExistsError):
        master_key.export(MasterKey.generate(), PASSPHRASE, exported)
    assert exported.read_bytes() == before


def test_a_link_is_not_followed(key, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError):
        master_key.export(key, PASSPHRASE, tmp_path / "link")
    assert not (tmp_path / "elsewhere").exists()


def test_a_disk_that_refuses_leaves_no_half_of_a_file(key, tmp_path, monkeypatch):
    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        master_key.export(key, PASSPHRASE, tmp_path / "key.json")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("passphrase", ["", "eleven char"])
def test_a_short_passphrase_makes_no_file(key, tmp_path, passphrase):
    with pytest.raises(MasterKeyError, match="12 characters"):
        master_key.export(key, passphrase, tmp_path / "key.json")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("passphrase", ["", "correct horse 13", PASSPHRASE + " "])
def test_another_passphrase_does_not_open_it(exported, passphrase):
    with pytest.raises(MasterKeyError, match="does not open") as refused:
        master_key.read(exported, passphrase)
    assert not passphrase or passphrase not in str(refused.value)


@pytest.mark.parametrize(("fields", "said"), [
    ({"sealed": "00" * 72}, "does not open"),
    ({"sealed": "00"}, "does not open"),
    ({"sealed": "no hex"}, "no export"),
    ({"salt": "00" * 16}, "does not open"),
    ({"salt": "00"}, "damaged"),
    ({"operations": 2**40}, "damaged"),
    ({"memory": 2**40}, "damaged"),
    ({"memory": 0}, "damaged"),
    ({"kind": "something else"}, "this release knows"),
    ({"version": 2}, "this release knows"),
    ({"derivation": "scrypt"}, "this release knows"),
    ({"fingerprint": "0" * 16}, "another key"),
    ({"fingerprint": None}, "no export"),
])
def test_what_was_changed_does_not_open(exported, fields, said):
    _changed(exported, **fields)
    with pytest.raises(MasterKeyError, match=said):
        master_key.read(exported, PASSPHRASE)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[]", b"{}"])
def test_other_files_are_no_exports(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(MasterKeyError, match="no export"):
        master_key.read(tmp_path / "file", PASSPHRASE)
