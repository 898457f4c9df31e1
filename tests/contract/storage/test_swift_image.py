"""What the Swift image does when it is started wrongly."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from support.swift import IMAGE, Swift

pytestmark = pytest.mark.docker


def started(*options: str) -> tuple[int, str]:
    """The exit status and what was printed."""
    done = subprocess.run(
        ["docker", "run", "--rm", "--network=none", "--read-only", "--cap-drop=ALL",
         "--tmpfs=/run/swift:uid=10001,gid=10001,mode=0700", *options, IMAGE],
        capture_output=True, text=True, check=False, timeout=60,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(autouse=True)
def _built(swift: Swift) -> None:
    """The image is there."""


def test_without_users_it_says_what_is_missing() -> None:
    status, said = started()
    assert status == 1
    assert said.startswith("swift: /etc/coffer/users.conf is missing")


def users_of(directory: Path, text: str) -> str:
    """The mount of a users file with this text."""
    users = directory / "users"
    users.mkdir(mode=0o755)
    (users / "users.conf").write_text(text)
    (users / "users.conf").chmod(0o444)
    return f"--volume={users}:/etc/coffer:ro"


@pytest.mark.parametrize("line", [
    "user_coffer_setup = short",
    "user_coffer_setup=" + "k" * 40,
    "user_coffer_setup = " + "k" * 40 + " .root",
    "user_coffer_setup = " + "k" * 40 + " %(here)s",
    "[filter:tempurl]",
    "methods = DELETE " + "k" * 40,
])
def test_users_that_are_none_are_refused_without_showing_them(tmp_path: Path, line: str) -> None:
    fine = f"# fine\n\nuser_coffer_backup = {'b' * 40}\nuser64_YSBi_w7w = {'b' * 40} .admin\n"
    status, said = started(users_of(tmp_path, f"{fine}{line}\n"))
    assert status == 1
    assert "users.conf, line 5: not of the form" in said
    assert "kkkk" not in said


def test_a_file_without_users_is_refused(tmp_path: Path) -> None:
    status, said = started(users_of(tmp_path, "# nobody\n"))
    assert status == 1
    assert "names no user" in said


def test_objects_whose_salt_is_gone_are_not_served(tmp_path: Path) -> None:
    node = tmp_path / "node"
    (node / "d1").mkdir(parents=True)
    node.chmod(0o777)
    status, said = started(users_of(tmp_path, f"user_coffer_backup = {'b' * 40}\n"), f"--volume={node}:/srv/node")
    assert status == 1
    assert "/srv/node/salt, which tells where, is gone" in said
    assert [each.name for each in node.iterdir()] == ["d1"]
