"""Who asks, and what the policy lets them do. Rule names are Trove's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from starlette.requests import Request

from coffer_api.problems import Problem


@dataclass(frozen=True, slots=True)
class Identity:
    user: str
    project: str
    """The project of the URL, which this user may use."""
    roles: frozenset[str]

    @property
    def admin(self) -> bool:
        return "admin" in self.roles


class Needs(Enum):
    ANY = frozenset({"admin", "member", "reader"})
    WRITE = frozenset({"admin", "member"})
    ADMIN = frozenset({"admin"})


RULES: Mapping[str, Needs] = {
    "datastore:index": Needs.ANY,
    "datastore:show": Needs.ANY,
    "datastore:version_index": Needs.ANY,
    "datastore:version_show": Needs.ANY,
    "datastore:version_show_by_uuid": Needs.ANY,
    "datastore:list_associated_flavors": Needs.ANY,
    "datastore:list_associated_volume_types": Needs.ANY,
    "flavor:index": Needs.ANY,
    "flavor:show": Needs.ANY,
    "limits:index": Needs.ANY,
    "instance:index": Needs.ANY,
    "instance:detail": Needs.ANY,
    "instance:show": Needs.ANY,
    "instance:create": Needs.WRITE,
    "instance:update": Needs.WRITE,
    "instance:delete": Needs.WRITE,
    "instance:restart": Needs.WRITE,
    "instance:resize_volume": Needs.WRITE,
    "instance:resize_flavor": Needs.WRITE,
    "instance:promote_to_replica_source": Needs.WRITE,
    "instance:eject_replica_source": Needs.WRITE,
    "instance:reset_status": Needs.ADMIN,
    "instance:force_delete": Needs.ADMIN,
    "instance:configuration": Needs.ANY,
    "instance:guest_log_list": Needs.ANY,
    "instance:module_list": Needs.ANY,
    "instance:module_apply": Needs.WRITE,
    "instance:module_remove": Needs.WRITE,
    "instance:backups": Needs.ANY,
    "instance:extension:database:index": Needs.ANY,
    "instance:extension:database:create": Needs.WRITE,
    "instance:extension:database:delete": Needs.WRITE,
    "instance:extension:user:index": Needs.ANY,
    "instance:extension:user:show": Needs.ANY,
    "instance:extension:user:create": Needs.WRITE,
    "instance:extension:user:delete": Needs.WRITE,
    "instance:extension:user:update": Needs.WRITE,
    "instance:extension:user:update_all": Needs.WRITE,
    "instance:extension:user_access:index": Needs.ANY,
    "instance:extension:user_access:update": Needs.WRITE,
    "instance:extension:user_access:delete": Needs.WRITE,
    "instance:extension:root:index": Needs.ANY,
    "instance:extension:root:create": Needs.WRITE,
    "instance:extension:root:delete": Needs.WRITE,
    "backup:index": Needs.ANY,
    "backup:index:all_projects": Needs.ADMIN,
    "backup:show": Needs.ANY,
    "backup:create": Needs.WRITE,
    "backup:delete": Needs.WRITE,
    "backup_strategy:index": Needs.ANY,
    "backup_strategy:create": Needs.WRITE,
    "backup_strategy:delete": Needs.WRITE,
    "cluster:index": Needs.ANY,
    "cluster:show": Needs.ANY,
    "cluster:create": Needs.WRITE,
    "cluster:delete": Needs.WRITE,
    "cluster:action": Needs.WRITE,
    "configuration:index": Needs.ANY,
    "configuration:show": Needs.ANY,
    "configuration:instances": Needs.ANY,
    "configuration:create": Needs.WRITE,
    "configuration:update": Needs.WRITE,
    "configuration:edit": Needs.WRITE,
    "configuration:delete": Needs.WRITE,
    "configuration-parameter:index": Needs.ANY,
    "configuration-parameter:show": Needs.ANY,
    "configuration-parameter:index_by_version": Needs.ANY,
    "configuration-parameter:show_by_version": Needs.ANY,
    "module:index": Needs.ANY,
    "module:show": Needs.ANY,
    "module:create": Needs.WRITE,
    "module:update": Needs.WRITE,
    "module:delete": Needs.WRITE,
    "datastore:delete": Needs.ADMIN,
    "context_is_admin": Needs.ADMIN,
    "operation:index": Needs.ANY,
    "operation:show": Needs.ANY,
    "operation:cancel": Needs.WRITE,
}


MANAGEMENT = "context_is_admin"
"""The rule of what is under /mgmt; who fails it is answered 401 there, not 403."""


def allowed(request: Request, rule: str) -> Identity:
    """The caller, if the rule lets them; else 403 with Trove's sentence."""
    identity: Identity = request.scope["identity"]
    if identity.roles.isdisjoint(RULES[rule].value):
        if rule == MANAGEMENT:
            raise Problem(401, "User does not have admin privileges.")
        raise Problem(403, f"Policy doesn't allow {rule} to be performed.")
    return identity
