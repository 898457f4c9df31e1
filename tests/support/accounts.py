"""A user as tests of an identity service make them."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Account:
    id: str
    password: str = field(repr=False)
    project: str
    role: str
