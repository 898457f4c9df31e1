"""How a cloud is known that one signs in to."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from keystoneauth1.session import Session

from coffer_clouds.session import sign_in, tls_of
from coffer_shared.settings import BadSettings

CLOUDS = """
clouds:
  here:
    auth: {auth_url: "https://keystone:5000/v3/", username: u, password: hush-hush, project_name: p,
           user_domain_id: default, project_domain_id: default}
    verify: %s
"""


@pytest.mark.parametrize(("verify", "known"), [("true", True), ("false", False)])
def test_by_the_systems_authorities_or_not_at_all(tmp_path: Path, verify: str, known: bool) -> None:
    (tmp_path / "clouds.yaml").write_text(CLOUDS % verify)
    session, address = sign_in(str(tmp_path / "clouds.yaml"), "here", 3.0, program="test", why="no user")
    assert (tls_of(session), address) == (known, "https://keystone:5000/v3")


def test_by_authorities_of_ones_own(tmp_path: Path) -> None:
    assert isinstance(tls_of(Session(verify=str(tmp_path))), ssl.SSLContext)
    with pytest.raises(BadSettings, match="authorities"):
        tls_of(Session(verify=str(tmp_path / "missing.pem")))
    (tmp_path / "ca.pem").write_text("none")
    with pytest.raises(BadSettings, match="authorities"):
        tls_of(Session(verify=str(tmp_path / "ca.pem")))


@pytest.mark.parametrize("text", ["clouds: {", "clouds: {}", "clouds: {here: {auth: {password: hush-hush}}}"])
def test_what_is_wrong_is_told_without_the_password(tmp_path: Path, text: str) -> None:
    (tmp_path / "clouds.yaml").write_text(text)
    with pytest.raises(BadSettings) as caught:
        sign_in(str(tmp_path / "clouds.yaml"), "here", 3.0, program="test", why="no user")
    assert "hush-hush" not in str(caught.value)
