"""A plan: the named steps of one kind of operation, and the steps that take it back.

A step looks first, acts only if needed, and returns Done or Wait, or raises GiveUp (final) or TryAgain (passing).
It may die at any point: whoever runs it next starts the same step again. What later steps need is remembered in
`job.context`, which is saved with the turn.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from coffer_provisioner.reach import Reach


@dataclass(frozen=True, slots=True)
class Done:
    """The step's aim is reached."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Look again after this many seconds, or when woken."""

    seconds: float
    why: str = ""


Outcome: TypeAlias = Done | Wait


@dataclass(slots=True)
class Job:
    """One operation while a worker turns it. `context` is what steps may change."""

    id: str
    instance: str
    project: str
    kind: str
    args: dict[str, Any]
    secret_args: dict[str, Any] = field(repr=False)
    context: dict[str, Any]
    undoing: bool
    seconds_left: float
    """Until the operation's deadline; while undoing, until the undo's."""
    failure_code: str = ""
    failure_text: str = ""


CANCELLED = "cancelled"
"""The code of a failure that somebody asked for."""
Step: TypeAlias = "Callable[[Job, Reach], Awaitable[Outcome]]"


@dataclass(frozen=True, slots=True)
class Plan:
    kind: str
    steps: tuple[Step, ...]
    undo: tuple[Step, ...] = ()
    within: timedelta = timedelta(minutes=20)
    """The story's deadline, counted from filing."""
    step_limit: timedelta = timedelta(seconds=60)
    """How long one turn of one step may take."""
    cancellable: bool = False
    keep_trying: bool = False
    """Never give up on the deadline (a deletion): alert and go on."""
