"""The policy: its defaults for each role, and what a file may change."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from coffer_api.identity import Identity
from coffer_api.policy import DEFAULTS, BadPolicy, Policy, enforcer, parse

ADMIN, MEMBER, READER, OTHER = (
    Identity("u", "p", frozenset({role})) for role in ("admin", "member", "reader", "creator")
)


@pytest.mark.parametrize(("rule", "allowed"), [
    ("instance:create", {"admin", "member"}),
    ("instance:show", {"admin", "member", "reader"}),
    ("backup:index:all_projects", {"admin"}),
    ("instance:reset_status", {"admin"}),
    ("instance:force_delete", {"admin"}),
    ("datastore:delete", {"admin"}),
    ("context_is_admin", {"admin"}),
    ("flavor:index", {"admin", "member", "reader", "creator"}),
    ("operation:cancel", {"admin", "member"}),
    ("a rule that nobody wrote", {"admin", "member"}),
])
def test_defaults(rule: str, allowed: set[str]) -> None:
    policy = Policy()
    found = {next(iter(who.roles)) for who in (ADMIN, MEMBER, READER, OTHER) if policy.allows(rule, who)}
    assert found == allowed


def test_weakness_09_a_reader_changes_nothing() -> None:
    policy = Policy()
    writes = [name for name, rule in DEFAULTS.items() if rule == "rule:admin_or_owner" and name != "default"]
    assert len(writes) >= 40
    assert not [name for name in writes if policy.allows(name, READER)]
    assert all(policy.allows(name, MEMBER) for name in writes)


def test_a_file_takes_the_place_of_some_rules(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(
        '# as for Trove\n"admin_or_owner": "rule:admin or (project_id:%(tenant)s and role:creator)"\n'
        '"instance:restart": "role:operator or rule:admin"\n"ours": "role:reader"\n"backup:create": "rule:ours"\n'
        '"context_is_admin": "role:cloud_admin"\n',
    )
    policy = Policy(str(file))
    assert policy.allows("instance:create", OTHER)
    assert not policy.allows("instance:create", MEMBER)
    assert not policy.allows("instance:restart", OTHER)
    assert policy.allows("instance:restart", Identity("u", "p", frozenset({"operator"})))
    assert policy.allows("backup:create", READER)
    assert policy.is_admin(Identity("u", "p", frozenset({"cloud_admin"})))
    assert not policy.is_admin(ADMIN)


def test_a_changed_file_is_taken_up_and_a_bad_one_is_not(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text('"instance:create": "role:reader"\n')
    policy = Policy(str(file))
    assert policy.allows("instance:create", READER)
    assert not policy.refresh()
    file.write_text('"instance:create": "!"\n')
    os.utime(file, ns=(1, 1))
    assert policy.refresh()
    assert not policy.allows("instance:create", READER)
    file.write_text('"instance:create": "role:reader and"\n')
    with pytest.raises(BadPolicy, match=r"policy\.yaml: the rules instance:create"):
        policy.refresh()
    assert not policy.allows("instance:create", ADMIN)
    assert not policy.refresh()


@pytest.mark.parametrize(("text", "why"), [
    ("a: 'role:x or'", "the rules a cannot be understood"),
    ("a: '((role:x'", "cannot be understood"),
    ("a: 'rule:nowhere'", "names one that does not exist"),
    ("a: 'rule:b'\nb: 'rule:a'", "or itself"),
    ("a: [1]", "is not a text"),
    ("- a", "not a mapping"),
    ("a: 'b", r"not YAML \(line"),
    ("a: 'http://policy.example/%(x)s'", "asks another server"),
    ("a: '(https://policy.example/ or role:x)'", "asks another server"),
    ("a: 'not http://policy.example/'", "asks another server"),
])
def test_bad_files_are_refused(text: str, why: str) -> None:
    with pytest.raises(BadPolicy, match=why):
        enforcer(parse(text))


def test_an_empty_file_changes_nothing() -> None:
    assert parse("# nothing\n") == {}


def test_verdicts_are_remembered_in_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coffer_api.policy._MOST_KNOWN", 3)
    policy = Policy()
    asked: list[str] = []
    ask = policy._ask
    monkeypatch.setattr(policy, "_ask", lambda rule, who: asked.append(who.user) or ask(rule, who))
    for user in ("a", "a", "b", "c", "d", "a"):
        assert policy.allows("instance:show", Identity(user, "p", frozenset({"reader"})))
    assert asked == ["a", "b", "c", "d", "a"]
    assert len(policy._known) <= 3
