"""Grants against a signature made with another tool."""

from __future__ import annotations

from urllib.parse import parse_qs

import pytest

from coffer_provisioner.storage.signing import new_grant, signature

PATH = "/v1/AUTH_demo/my backups/i/b/"
# printf 'PUT\n2000000000\nprefix:/v1/AUTH_demo/my backups/i/b/' | openssl dgst -sha256 -hmac a-key
SIGNED = "119eca785f0b36740653fbc1a3060a1c85be068f05a9c6a2cc07ffde4d159122"


def test_the_signature_is_the_one_that_others_make() -> None:
    assert signature("a-key", "PUT", PATH, 2_000_000_000) == SIGNED


def test_a_grant_says_what_was_signed_and_nothing_of_the_key() -> None:
    grant = new_grant(
        kind="swift", url="http://swift.coffer:8080/", path=PATH, method="PUT", until=2_000_000_000.9, key="a-key",
    )
    assert grant.url == "http://swift.coffer:8080/v1/AUTH_demo/my%20backups/i/b/"
    assert grant.query == f"temp_url_sig={SIGNED}&temp_url_expires=2000000000&temp_url_prefix=i%2Fb%2F"
    assert (grant.kind, grant.method, grant.expires_at) == ("swift", "PUT", 2_000_000_000.0)
    assert "a-key" not in grant.url + grant.query
    assert SIGNED not in repr(grant)


@pytest.mark.parametrize(("changed", "to"), [
    ("key", "b-key"), ("method", "GET"), ("path", "/v1/AUTH_demo/my backups/i/c/"), ("until", 2_000_000_001),
    ("path", "/v1/AUTH_demo2/my backups/i/b/"),
])
def test_everything_is_in_the_signature(changed: str, to: str | float) -> None:
    asked = {"kind": "swift", "url": "http://s", "path": PATH, "method": "PUT", "until": 2e9, "key": "a-key"}
    grant = new_grant(**(asked | {changed: to}))  # type: ignore[arg-type]
    assert parse_qs(grant.query)["temp_url_sig"] != [SIGNED]


@pytest.mark.parametrize(("path", "method", "key"), [
    (PATH, "DELETE", "a-key"), (PATH, "HEAD", "a-key"), (PATH, "POST", "a-key"), (PATH.rstrip("/"), "PUT", "a-key"),
    ("/v1/AUTH_demo/c/", "PUT", "a-key"), ("/v1/AUTH_demo/c//b/", "PUT", "a-key"), (PATH, "PUT", ""),
])
def test_what_is_not_signed(path: str, method: str, key: str) -> None:
    with pytest.raises(ValueError, match=r"a grant is for|no key"):
        new_grant(kind="swift", url="http://s", path=path, method=method, until=2e9, key=key)
