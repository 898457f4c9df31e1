"""Which object stores a provisioner has, by its storage.json."""

from __future__ import annotations

import json

import pytest

from coffer_provisioner.storage.configured import storages
from coffer_provisioner.storage.interface import Container
from coffer_shared.settings import BadSettings

TOLD = {
    "url": "http://swift:8080", "guest_url": "http://swift.coffer:8080", "account_prefix": "AUTH_",
    "setup_user": "coffer:setup", "setup_key": "s3cret-1", "user": "coffer:backup", "key": "s3cret-2",
}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "storage.json"


async def test_swift_is_there_as_it_is_told(path):
    path.write_text(json.dumps({"swift": TOLD}))
    found = storages(path)
    assert list(found) == ["swift"]
    container = Container("demo", "database_backups", ("a" * 64, "b" * 64))
    grant = found["swift"].grant(container, "i/b/", "PUT", until=2e9)
    assert grant.url == "http://swift.coffer:8080/v1/AUTH_demo/database_backups/i/b/"
    assert found["swift"].location(container, "x") == "http://swift:8080/v1/AUTH_demo/database_backups/x"
    await found["swift"].close()


@pytest.mark.parametrize("text", [None, "{}", '{"swift": null}', '{"of a later release": {}}'])
def test_without_a_section_there_is_none(path, text):
    if text is not None:
        path.write_text(text)
    assert storages(path) == {}


@pytest.mark.parametrize("text", [
    "", "[]", '{"swift": {}}', json.dumps({"swift": TOLD | {"key": ["s3cret-2"]}}), json.dumps({"swift": TOLD})[:-9],
])
def test_what_is_wrong_is_told_without_its_secrets(path, text):
    path.write_text(text)
    with pytest.raises(BadSettings, match="storage.json") as caught:
        storages(path)
    assert "s3cret" not in str(caught.value)
