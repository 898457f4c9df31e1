"""Logs as a process writes them. Each test runs a process of its own: logging is set up once in one."""

from __future__ import annotations

import json
import subprocess
import sys

CODE = """
import logging
from coffer_shared import log
log.configure("test", {level!r})
_log = log.get("some.module")
{body}
"""


def said(body: str, level: str = "info") -> list[dict[str, object]]:
    ran = subprocess.run(
        [sys.executable, "-c", CODE.format(body=body, level=level)], capture_output=True, text=True, check=True,
    )
    assert ran.stderr == ""
    return [json.loads(line) for line in ran.stdout.splitlines()]


def test_a_line_is_one_json_object_that_says_who_and_when():
    (line,) = said("_log.info('it happened', size=3)")
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "it happened", "level": "info", "module": "some.module", "service": "test", "size": 3,
    }


def test_what_is_bound_is_on_every_line_below_and_on_none_after():
    lines = said("""
with log.bound(operation='op', instance='i'):
    _log.info('inside')
    logging.getLogger('lib').warning('inside, from a library')
_log.info('outside')
""")
    assert [line.get("operation") for line in lines] == ["op", "op", None]
    assert {line["service"] for line in lines} == {"test"}


def test_secrets_are_masked_wherever_they_come_from():
    lines = said("""
names = ['password', 'database_password', 'secret', 'secret_hash', 'boot_seed', 'token', 'lease_token', 'credential',
         'private_key', 'jwt', 'boot_JWT', 'Password']
_log.info('given', **dict.fromkeys(names, 'hunter2'), safe='shown')
with log.bound(password='hunter2'):
    _log.warning('bound')
    logging.getLogger('lib').error('from a library')
""")
    assert "hunter2" not in json.dumps(lines)
    assert lines[0]["safe"] == "shown"
    assert lines[0]["boot_seed"] == lines[1]["password"] == lines[2]["password"] == "***"


def test_lines_below_the_level_are_left_out():
    body = "_log.debug('a'); _log.info('b'); _log.warning('c')"
    assert [line["event"] for line in said(body, "warning")] == ["c"]
    assert [line["event"] for line in said(body, "debug")] == ["a", "b", "c"]


def test_libraries_are_heard_from_warnings_on():
    lines = said("logging.getLogger('lib').info('a'); logging.getLogger('lib').warning('b %s', 1)", "debug")
    assert [(line["event"], line["level"]) for line in lines] == [("b 1", "warning")]


def test_an_exception_is_part_of_its_line():
    (line,) = said("""
try:
    1 / 0
except ZeroDivisionError:
    _log.exception('it broke')
""")
    assert line["event"] == "it broke"
    assert "ZeroDivisionError" in line["exception"]
