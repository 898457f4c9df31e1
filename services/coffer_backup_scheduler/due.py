"""What is due now. Pure: times are given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rhythm:
    """A chore and how many seconds lie between two of its runs."""

    name: str
    every: float


def due(rhythms: Iterable[Rhythm], next_run: Mapping[str, float], now: float) -> list[str]:
    """Names of those whose time has come, the longest overdue first; one that has never run is due."""
    late = {r.name: next_run.get(r.name, float("-inf")) for r in rhythms}
    return sorted((name for name, at in late.items() if at <= now), key=lambda name: (late[name], name))


def after(rhythm: Rhythm, now: float, *, worked: bool, retry: float = 30.0) -> float:
    """When to run it again: after its time, or sooner if it failed."""
    return now + (rhythm.every if worked else min(retry, rhythm.every))


def pause(rhythms: Iterable[Rhythm], next_run: Mapping[str, float], now: float, longest: float) -> float:
    """Seconds until something is due, at most `longest`."""
    return min([longest, *(max(next_run.get(r.name, now) - now, 0.0) for r in rhythms)])
