"""Every `openstack database` and `openstack datastore` command of python-troveclient, and what comes of it.

The rows are a life, in their order: later ones use what earlier ones made. Words in braces are filled in.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import Enum
from importlib.metadata import distribution

LATER = r"is not implemented in this release\. \(HTTP 501\)"
NO_SWIFT = r"'AttributeError' object has no attribute 'message'"
"""What the client says when it looks for Swift in a catalogue, and there is no Keystone."""


class Outcome(Enum):
    WORKS = "works"
    WAITS = "501"
    """What it asks for is of a later release, and the API says so."""
    TOLD = "501, told"
    """As WAITS, but the client prints the sentence and ends as if all were well. It looks for Swift first, which it
    cannot without Keystone: then it is OUTSIDE."""
    NONE = "none there"
    """It works on something of which there is none yet: not found is the true answer."""
    OUTSIDE = "not ours"
    """The client asks another service that is not part of this one."""


@dataclass(frozen=True, slots=True)
class Row:
    words: str
    says: str = ""
    """What must be found in what it prints, as a pattern."""
    outcome: Outcome = Outcome.WORKS
    admin: bool = False
    until: str = ""
    """What is waited for afterwards: `ready`, `complete` or `gone`, then what and its name."""


def rows(way: str) -> tuple[Row, ...]:
    """The whole table, as it is for one way of authenticating."""
    if way == "keystone":
        return ROWS
    return tuple(
        replace(row, outcome=Outcome.OUTSIDE, says=NO_SWIFT) if row.outcome is Outcome.TOLD else row for row in ROWS
    )


def command_of(words: str, known: frozenset[str]) -> str:
    """The longest command that the words begin with."""
    return max((command for command in known if f"{words} ".startswith(f"{command} ")), key=len, default="")


def installed() -> frozenset[str]:
    """What the client's package brings, as it is typed."""
    return frozenset(
        point.name.replace("_", " ") for point in distribution("python-troveclient").entry_points
        if point.group == "openstack.database.v1"
    )


def _all(outcome: Outcome, says: str, *words: str, admin: bool = False) -> tuple[Row, ...]:
    return tuple(Row(line, says, outcome, admin) for line in words)


OFFERS = (
    Row("database flavor list", r"\btiny\b"),
    Row("database flavor list --datastore-type postgresql --datastore-version-id {version}", r"\btiny\b"),
    Row("database flavor show tiny", r"\bram\b.*\b512\b"),
    Row("datastore list", r"\bpostgresql\b"),
    Row("datastore show postgresql", r"default_version.*\b17\b"),
    Row("datastore version list postgresql", r"\b17\b"),
    Row("datastore version show 17 --datastore postgresql", "{version}"),
    Row("datastore version show {version}", r"\b17\b"),
    Row("database limit list", r"max_instances"),
)
GROUPS = (
    Row("database configuration parameter list 17 --datastore postgresql", r"\bmax_connections\b"),
    Row("database configuration parameter list {version}", r"\bwork_mem\b"),
    Row("database configuration parameter show 17 max_connections --datastore postgresql", r"restart_required"),
    Row('database configuration create group-{t} \'{{"max_connections": 120}}\' --datastore postgresql '
        "--datastore-version 17 --description words", r"max_connections"),
    Row("database configuration list", r"group-{t}.*postgresql"),
    Row("database configuration show group-{t}", r"\b120\b"),
    Row('database configuration parameter set {group} \'{{"work_mem": "8MB"}}\''),
    Row("database configuration show group-{t}", r"work_mem"),
    Row('database configuration set {group} \'{{"max_connections": 130}}\' --name group-{t} --description more'),
    Row("database configuration show group-{t}", r"\b130\b"),
    Row("database configuration instances group-{t}"),
)
INSTANCE = (
    Row("database instance create spare-{t} --flavor 1 --size 1 --datastore postgresql --datastore-version 17",
        r"\bBUILD\b"),
    Row("database instance create desk-{t} --flavor tiny --size 1 --datastore postgresql --datastore-version 17 "
        "--databases shop --users app:{password} --is-public", r"\bBUILD\b", until="ready instance desk-{t}"),
    Row("database instance list", r"desk-{t}.*ACTIVE.*HEALTHY"),
    Row("database instance show desk-{t}", r"\bHEALTHY\b"),
    Row("database instance update desk-{t} --name desk2-{t}"),
    Row("database instance update desk2-{t} --name desk-{t}"),
    Row("database configuration default desk-{t}", r"max_connections"),
    Row("database configuration attach desk-{t} group-{t}"),
    Row("database configuration instances group-{t}", r"desk-{t}"),
    Row("database configuration detach desk-{t}"),
    Row("database instance update desk-{t} --configuration {group}"),
    Row("database instance update desk-{t} --remove-configuration"),
)
CONTENTS = (
    Row("database db create desk-{t} archive --character_set UTF8"),
    Row("database db list desk-{t}", r"\barchive\b"),
    Row("database user create desk-{t} clerk {password} --databases archive"),
    Row("database user list desk-{t}", r"clerk.*archive"),
    Row("database user show desk-{t} clerk", r"archive"),
    Row("database user grant access desk-{t} clerk shop"),
    Row("database user show access desk-{t} clerk", r"\bshop\b"),
    Row("database user revoke access desk-{t} clerk shop"),
    Row("database user update attributes desk-{t} clerk --new_name a.clerk --new_password {password}"),
    Row("database user show desk-{t} a.clerk", r"archive"),
    Row("database user delete desk-{t} a.clerk"),
    Row("database db delete desk-{t} archive"),
    Row("database root show desk-{t}", r"False"),
    Row("database root enable desk-{t}", r"password"),
    Row("database root show desk-{t}", r"True"),
    Row("database root disable desk-{t}"),
)
BACKUPS = (
    Row("database backup strategy create --instance-id {desk} --swift-container mine", r"\bmine\b"),
    Row("database backup strategy list", r"\bmine\b"),
    Row("database backup strategy delete --instance-id {desk}"),
    Row("database backup create full-{t} --instance desk-{t} --description words", r"\bNEW\b",
        until="complete backup full-{t}"),
    Row("database backup list", r"full-{t}"),
    Row("database backup list instance desk-{t}", r"full-{t}.*COMPLETED"),
    Row("database backup show full-{t}", r"COMPLETED"),
    *_all(Outcome.WAITS, LATER, "database backup create more-{t} --instance desk-{t} --incremental",
          "database backup create more-{t} --instance desk-{t} --parent {backup}",
          "database backup create more-{t} --restore-from http://x/c/o --restore-datastore-version {version} "
          "--restore-size 1"),
    Row("database backup delete full-{t}", r"accepted", until="gone backup full-{t}"),
    Row("database backup execution delete nothing", r"auth_url|None", Outcome.OUTSIDE),
)
TASKS = (
    Row("database instance restart desk-{t}", until="ready instance desk-{t}"),
    Row("database instance upgrade desk-{t} {version}", until="ready instance desk-{t}"),
    Row("database instance update desk-{t} --is-private", until="ready instance desk-{t}"),
    Row("database instance update desk-{t} --is-public --allowed-cidr 127.0.0.0/8", until="ready instance desk-{t}"),
    Row("database instance resize volume desk-{t} 2", until="ready instance desk-{t}"),
    Row("database instance show desk-{t}", r"\bvolume\b\W+2\b"),
    Row("database instance resize flavor desk-{t} 2", until="ready instance desk-{t}"),
    Row("database instance show desk-{t}", r"\bflavor\b\W+2\b"),
    *_all(
        Outcome.WAITS, LATER, "database instance create r-{t} --replica-of desk-{t}",
        "database instance promote desk-{t}", "database instance eject desk-{t}", "database instance detach desk-{t}",
        "database log list desk-{t}", "database log show desk-{t} general",
        "database log set desk-{t} general --enable",
        "database ssl show desk-{t}", "database ssl enable desk-{t} http://barbican/secrets/1",
        "database ssl disable desk-{t}", "database ssl rollback desk-{t}",
    ),
    Row("database log tail desk-{t} general", r"is not implemented in this release\.", Outcome.TOLD),
    Row("database log save desk-{t} general --file {scratch}", r"is not implemented in this release\.", Outcome.TOLD),
    Row("database cluster list"),
    *_all(Outcome.WAITS, LATER, "database cluster create c postgresql 17 --instance flavor=1,volume=1"),
    *_all(
        Outcome.NONE, r"No cluster with a name or ID of 'c' exists", "database cluster show c",
        "database cluster delete c", "database cluster force delete c", "database cluster reset status c",
        "database cluster grow c --instance flavor=1,volume=1", "database cluster shrink c m",
        "database cluster upgrade c {version}", "database cluster list instances c", "database cluster modules c",
    ),
)
MANAGEMENT = (
    Row("database instance list --all-projects", r"desk-{t}", admin=True),
    Row("database instance reboot {desk}", admin=True, until="ready instance desk-{t}"),
    Row("database instance rebuild {desk} {version}", admin=True, until="ready instance desk-{t}"),
    Row("database instance reset status {desk}", admin=True, until="ready instance desk-{t}"),
    Row("database quota show {project}", r"instances", admin=True),
    Row("database quota update {project} instances 7", r"instances.*\b7\b", admin=True),
    Row("database quota show {project}", r"instances.*\b7\b", admin=True),
    Row("datastore version create 1-{t} ds-{t} postgresql '' --image-tags coffer/postgres:17 --version-number 17.6",
        admin=True),
    Row("datastore version list ds-{t}", r"1-{t}", admin=True),
    Row("datastore version set {made_version} --disable --version-name 2-{t}", admin=True),
    Row("datastore version list ds-{t}", r"2-{t}", admin=True),
    Row("datastore version delete {made_version}", admin=True),
    Row("datastore delete ds-{t}", admin=True),
)
END = (
    Row("database configuration delete group-{t}"),
    Row("database instance delete spare-{t}", r"accepted", until="gone instance spare-{t}"),
    Row("database instance force delete {desk}", admin=True, until="gone instance desk-{t}"),
)
ROWS = (*OFFERS, *GROUPS, *INSTANCE, *CONTENTS, *BACKUPS, *TASKS, *MANAGEMENT, *END)


def judged(row: Row, status: int, text: str, says: str) -> str:
    """Nothing if all is as it should be, else why not."""
    if (status == 0) is not (row.outcome in {Outcome.WORKS, Outcome.TOLD}):
        return f"ended with {status}"
    return "" if re.search(says, text) else f"does not say {says!r}"
