"""Keystone as the strategy of the API asks it, without one. The contract suite holds it to the real one."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from coffer_api.keystone_service import Away, Token
from support.accounts import Account


@dataclass
class FakeKeystone:
    """`fault` is what every call raises; while `gate` is not set, no answer comes; `asked` counts validations."""

    fault: Away | None = None
    blind: Away | None = None
    """What the list of revocations alone raises."""
    gate: asyncio.Event | None = None
    asked: Counter[str] = field(default_factory=Counter)
    polled: int = 0
    events: list[tuple[float, str]] = field(default_factory=list)
    _tokens: dict[str, tuple[Account, str | None, float]] = field(default_factory=dict)
    _gone: set[str] = field(default_factory=set)
    """Ids of disabled users, revoked tokens and users without their role."""

    # --- what the strategy asks ---
    async def validate(self, token: str) -> Token | None:
        self.asked[token] += 1
        if self.gate is not None:
            await self.gate.wait()
        if self.fault is not None:
            raise self.fault
        if token in self._gone or token not in self._tokens:
            return None
        account, project, until = self._tokens[token]
        if account.id in self._gone or until <= time.time():
            return None
        return Token(account.id, project, frozenset({account.role} if project else ()), until)

    async def revocations(self, since: float) -> frozenset[str]:
        self.polled += 1
        if (fault := self.fault or self.blind) is not None:
            raise fault
        return frozenset(text for at, text in self.events if at > since)

    # --- what people do to it ---
    def account(self, role: str = "member", project: str | None = None) -> Account:
        return Account(uuid.uuid4().hex, "", project or uuid.uuid4().hex, role)

    def token(self, account: Account, scope: Any = "project", *, life: float = 3600.0) -> str:
        made = uuid.uuid4().hex
        self._tokens[made] = (account, account.project if scope == "project" else None, time.time() + life)
        return made

    def short_token(self, account: Account) -> str:
        return self.token(account, life=1.0)

    def revoke(self, token: str) -> None:
        self._end(token)

    def disable(self, account: Account) -> None:
        self._end(account.id)

    def strip(self, account: Account) -> None:
        self._gone.add(account.id)

    def on_domain(self, account: Account) -> None:
        pass

    def on_system(self, account: Account) -> None:
        pass

    def _end(self, what: str) -> None:
        self._gone.add(what)
        self.events.append((time.time(), what))
