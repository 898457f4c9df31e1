"""Who asks, and whether the policy lets them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from starlette.requests import Request

from coffer_api.problems import Problem


@dataclass(frozen=True, slots=True)
class Identity:
    user: str
    project: str
    """The project of the URL, which this user may use."""
    roles: frozenset[str]
    admin: bool = False
    """Whether the policy says so: an administrator sees what belongs to other projects."""


MANAGEMENT = "context_is_admin"
"""The rule of what is under /mgmt; who fails it is answered 401 there, not 403."""


class Rules(Protocol):
    """What the policy says (`coffer_api.policy`)."""

    def allows(self, rule: str, identity: Identity) -> bool: ...


def allowed(request: Request, rule: str) -> Identity:
    """The caller, if the rule lets them; else 403 with Trove's sentence."""
    identity: Identity = request.scope["identity"]
    rules: Rules = request.scope["policy"]
    if not rules.allows(rule, identity):
        if rule == MANAGEMENT:
            raise Problem(401, "User does not have admin privileges.")
        raise Problem(403, f"Policy doesn't allow {rule} to be performed.")
    return identity
