"""Which caller may do what: rules under Trove's names in oslo.policy's language, which a YAML file may override.

A member does what Trove lets anybody of the project do; a reader reads and changes nothing. Management is for
administrators. The file is read at the start and again whenever it changes; a bad one stops the start, and later the
rules that were in force stay.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from oslo_config import cfg
from oslo_policy.policy import Enforcer, Rules

from coffer_api.identity import MANAGEMENT, Identity

OWNER = "rule:admin_or_owner"
READER = "rule:admin_or_reader"
ADMIN = "rule:admin"
ANYBODY = ""
"""Of the project, whatever their role."""

_READ = (
    "limits:index", "instance:index", "instance:detail", "instance:show", "instance:configuration",
    "instance:guest_log_list", "instance:backups", "instance:module_list", "instance:extension:root:index",
    "instance:extension:user:index", "instance:extension:user:show", "instance:extension:user_access:index",
    "instance:extension:database:index", "instance:extension:database:show", "cluster:index", "cluster:show",
    "cluster:show_instance", "cluster:extension:root:index", "backup:index", "backup:show", "backup_strategy:index",
    "configuration:index", "configuration:show", "configuration:instances", "configuration-parameter:index",
    "configuration-parameter:show", "configuration-parameter:index_by_version",
    "configuration-parameter:show_by_version", "module:index", "module:show", "module:instances",
    "operation:index", "operation:show",
)
_WRITE = (
    "instance:create", "instance:update", "instance:edit", "instance:delete", "instance:restart",
    "instance:resize_volume", "instance:resize_flavor", "instance:promote_to_replica_source",
    "instance:eject_replica_source", "instance:module_apply", "instance:module_remove",
    "instance:extension:root:create", "instance:extension:root:delete", "instance:extension:user:create",
    "instance:extension:user:delete", "instance:extension:user:update", "instance:extension:user:update_all",
    "instance:extension:user_access:update", "instance:extension:user_access:delete",
    "instance:extension:database:create", "instance:extension:database:delete", "cluster:create", "cluster:delete",
    "cluster:force_delete", "cluster:action", "cluster:extension:root:create", "cluster:extension:root:delete",
    "backup:create", "backup:delete", "backup_strategy:create", "backup_strategy:delete", "configuration:create",
    "configuration:delete", "configuration:update", "configuration:edit", "module:create", "module:delete",
    "module:update", "module:reapply", "operation:cancel",
)
_OFFERS = (
    "datastore:index", "datastore:show", "datastore:version_show", "datastore:version_show_by_uuid",
    "datastore:version_index", "datastore:list_associated_flavors", "datastore:list_associated_volume_types",
    "flavor:index", "flavor:show",
)
# An owner who resets or forces by this door would pass by the administrator's rules.
_ADMIN = (
    "instance:reset_status", "instance:force_delete", "cluster:reset-status", "datastore:delete",
    "backup:index:all_projects",
)
DEFAULTS: Mapping[str, str] = {
    MANAGEMENT: "role:admin",
    "admin": "role:admin or is_admin:True",
    "admin_or_owner": "rule:admin or (project_id:%(tenant)s and role:member)",
    "admin_or_reader": "rule:admin_or_owner or (project_id:%(tenant)s and role:reader)",
    "default": OWNER,
    **dict.fromkeys(_OFFERS, ANYBODY),
    **dict.fromkeys(_READ, READER),
    **dict.fromkeys(_WRITE, OWNER),
    **dict.fromkeys(_ADMIN, ADMIN),
}
_REMOTE = ("http:", "https:")
"""Checks that ask another server: they would block everybody's requests while they wait."""
_MOST_KNOWN = 20_000


class BadPolicy(Exception):
    """Says what in the file cannot be used."""


class Policy:
    def __init__(self, file: str = "") -> None:
        """`file`: path of the YAML file; empty: the defaults. BadPolicy or OSError if it cannot be used."""
        self._file = Path(file) if file else None
        self._stamp = self._changed()
        self._enforcer = self._load()
        self._known: dict[tuple[str, Identity], bool] = {}

    def allows(self, rule: str, identity: Identity) -> bool:
        """Remembered, because the library takes most of a millisecond: it looks at its own signatures every time."""
        found = self._known.get((rule, identity))
        if found is None:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            found = self._known[rule, identity] = self._ask(rule, identity)
        return found

    def is_admin(self, identity: Identity) -> bool:
        return self.allows(MANAGEMENT, identity)

    def _ask(self, rule: str, identity: Identity) -> bool:
        creds = {
            "user_id": identity.user, "user": identity.user, "project_id": identity.project,
            "tenant": identity.project, "roles": list(identity.roles), "is_admin": identity.admin,
        }
        target = {"tenant": identity.project, "project_id": identity.project}
        return bool(self._enforcer.enforce(rule, target, creds))

    def refresh(self) -> bool:
        """Read the file if it changed since; whether it did. Blocks on the file."""
        stamp = self._changed()
        if stamp == self._stamp:
            return False
        self._stamp = stamp
        self._enforcer = self._load()
        self._known = {}
        return True

    def _changed(self) -> tuple[int, int] | None:
        if self._file is None:
            return None
        state = self._file.stat()
        return state.st_mtime_ns, state.st_size

    def _load(self) -> Enforcer:
        if self._file is None:
            return enforcer({})
        try:
            return enforcer(parse(self._file.read_text()))
        except (BadPolicy, UnicodeDecodeError) as error:
            raise BadPolicy(f"{self._file}: {error}") from None


def parse(text: str) -> dict[str, str]:
    """Rule names to rules. Names that Coffer does not use may be aliases of the file's own."""
    try:
        found: Any = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        raise BadPolicy(f"it is not YAML{f' (line {where.line + 1})' if where else ''}") from None
    if not isinstance(found, dict):
        raise BadPolicy("it is not a mapping of rule names to rules")
    for name, rule in found.items():
        if not isinstance(name, str) or not isinstance(rule, str):
            raise BadPolicy(f"the rule {str(name)[:100]!r} is not a text")
        if any(part.lstrip("(").startswith(_REMOTE) for part in rule.split()):
            raise BadPolicy(f"the rule {name!r} asks another server, which is not supported")
    return found


def enforcer(overrides: Mapping[str, str]) -> Enforcer:
    """The defaults with what takes their place. BadPolicy for what makes no sense."""
    given = {**DEFAULTS, **overrides}
    rules = Rules.from_dict(given, "default")
    broken = [name for name, rule in rules.items() if given[name] not in {"!", "@", ""} and str(rule) == "!"]
    if broken:
        raise BadPolicy(f"the rules {', '.join(sorted(broken))} cannot be understood")
    found = Enforcer(cfg.ConfigOpts(), use_conf=False, rules=rules, default_rule="default")
    if not found.check_rules():
        raise BadPolicy("a rule names one that does not exist, or itself")
    return found
