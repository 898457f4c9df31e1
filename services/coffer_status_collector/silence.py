"""Who has gone silent: facts from the ages of the last heartbeats. Pure; what is done about them is others' affair.

When many fall silent together, or the collector itself was in trouble, nothing is known of any single instance. Then
one fact says so, and instances are judged again one by one when that has passed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

MASS_SHARE = 0.2
MASS_LEAST = 3


class Hearing(StrEnum):
    HEARD = "heard"
    SILENT = "silent"
    """More than three intervals without a heartbeat."""
    LOST = "lost"
    """So long that what it said last counts no more."""


@dataclass(frozen=True, slots=True)
class Changed:
    """One instance's hearing changed."""

    instance: str
    hearing: Hearing
    age: float


@dataclass(frozen=True, slots=True)
class MassSilence:
    """Many are silent at once, or nobody can be heard from here."""

    silent: int
    of: int
    why: str


@dataclass(frozen=True, slots=True)
class MassSilenceOver:
    silent: int
    of: int


Fact = Changed | MassSilence | MassSilenceOver


@dataclass(frozen=True, slots=True)
class Judged:
    """What has been told so far; the next judgement starts from it."""

    told: Mapping[str, Hearing] = field(default_factory=dict)
    """Instances that were told to be silent or lost."""
    mass: bool = False
    counts: Mapping[Hearing, int] = field(default_factory=dict)


def judge(
    before: Judged, ages: Mapping[str, float], *, of: int, interval: float, lost_after: float, trouble: str = "",
) -> tuple[Judged, list[Fact]]:
    """`ages`: seconds since the last heartbeat of those that may be silent, and of all that were told to be.

    `of`: how many instances there are to be heard; those without an age here are heard. `trouble`: the collector's own.
    """
    now = {instance: _hearing(age, interval, lost_after) for instance, age in ages.items()}
    found = Counter(now.values())
    silent = found[Hearing.SILENT] + found[Hearing.LOST]
    counts = {hearing: found[hearing] for hearing in Hearing} | {Hearing.HEARD: of - silent}
    # Those told before it began are not news; they must not make the next one look like many.
    news = sum(1 for i, hearing in now.items() if hearing is not Hearing.HEARD and i not in before.told)
    together = news >= MASS_LEAST and news > MASS_SHARE * of
    if news and (trouble or together):
        facts: list[Fact] = [] if before.mass else [MassSilence(silent, of, trouble or "many at once")]
        told = {i: hearing for i, hearing in before.told.items() if i in now}
        return Judged(told, mass=True, counts=counts), facts
    over: list[Fact] = [MassSilenceOver(silent, of)] if before.mass else []
    return _one_by_one(before, now, ages, counts, over)


def _one_by_one(
    before: Judged,
    now: Mapping[str, Hearing],
    ages: Mapping[str, float],
    counts: Mapping[Hearing, int],
    facts: list[Fact],
) -> tuple[Judged, list[Fact]]:
    for instance, hearing in now.items():
        if hearing is not before.told.get(instance, Hearing.HEARD):
            facts.append(Changed(instance, hearing, ages[instance]))
    told = {instance: hearing for instance, hearing in now.items() if hearing is not Hearing.HEARD}
    return Judged(told, mass=False, counts=counts), facts


def _hearing(age: float, interval: float, lost_after: float) -> Hearing:
    if age > lost_after:
        return Hearing.LOST
    return Hearing.SILENT if age > 3 * interval else Hearing.HEARD
