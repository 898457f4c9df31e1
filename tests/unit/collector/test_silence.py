"""When an instance is silent, when many are, and what is told once only."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from coffer_status_collector.silence import Changed, Fact, Hearing, Judged, MassSilence, MassSilenceOver, judge


def look(before: Judged, ages: dict[str, float], trouble: str = "") -> tuple[Judged, list[Fact]]:
    """As the database gives them: the ages of the silent, and of those that were told to be."""
    given = {i: age for i, age in ages.items() if age > 30.0 or i in before.told}
    return judge(before, given, of=len(ages), interval=10.0, lost_after=90.0, trouble=trouble)


def crowd(silent: int, of: int, age: float = 50.0) -> dict[str, float]:
    return {f"i{n}": age if n < silent else 3.0 for n in range(of)}


def test_three_intervals_are_not_yet_silence() -> None:
    judged, facts = look(Judged(), {"a": 30.0, "b": 0.0})
    assert facts == []
    assert judged.counts == {Hearing.HEARD: 2, Hearing.SILENT: 0, Hearing.LOST: 0}


def test_silent_then_lost_then_heard_each_told_once() -> None:
    judged = Judged()
    told: list[Fact] = []
    for age in (5.0, 31.0, 60.0, 90.1, 200.0, 2.0, 3.0):
        judged, facts = look(judged, {"a": age, "b": 1.0})
        told += facts
    assert told == [
        Changed("a", Hearing.SILENT, 31.0), Changed("a", Hearing.LOST, 90.1), Changed("a", Hearing.HEARD, 2.0),
    ]


def test_many_at_once_are_one_fact_and_none_of_them_is_told() -> None:
    judged, facts = look(Judged(), crowd(3, 10))
    assert facts == [MassSilence(3, 10, "many at once")]
    judged, facts = look(judged, crowd(5, 10, 120.0))
    assert facts == []
    assert judged.mass
    judged, facts = look(judged, crowd(0, 10))
    assert facts == [MassSilenceOver(0, 10)]


def test_two_of_three_are_still_told_one_by_one() -> None:
    _, facts = look(Judged(), crowd(2, 3))
    assert facts == [Changed("i0", Hearing.SILENT, 50.0), Changed("i1", Hearing.SILENT, 50.0)]


def test_a_fifth_of_many_is_told_one_by_one() -> None:
    _, facts = look(Judged(), crowd(20, 100))
    assert len(facts) == 20
    assert all(isinstance(fact, Changed) for fact in facts)


def test_those_known_to_be_lost_do_not_make_the_next_look_like_many() -> None:
    judged = Judged()
    for silent in range(1, 6):
        judged, facts = look(judged, crowd(silent, 10))
        assert facts == [Changed(f"i{silent - 1}", Hearing.SILENT, 50.0)]
    assert not judged.mass


def test_own_trouble_is_one_fact_even_for_one_instance() -> None:
    judged, facts = look(Judged(), crowd(1, 10), "no connection to NATS")
    assert facts == [MassSilence(1, 10, "no connection to NATS")]
    _, facts = look(judged, crowd(1, 10))
    assert facts == [MassSilenceOver(1, 10), Changed("i0", Hearing.SILENT, 50.0)]


def test_own_trouble_with_nobody_silent_is_no_news() -> None:
    assert look(Judged(), crowd(0, 5), "just connected")[1] == []


def test_a_deleted_instance_is_forgotten_silently() -> None:
    judged, _ = look(Judged(), {"a": 50.0, "b": 1.0})
    judged, facts = look(judged, {"b": 1.0})
    assert facts == []
    assert look(judged, {"a": 1.0, "b": 1.0})[1] == []


_ages = st.dictionaries(st.sampled_from("abcdefgh"), st.floats(0, 200))


@given(st.lists(st.tuples(_ages, st.sampled_from(["", "trouble"])), max_size=8))
def test_what_was_told_is_always_what_is_known(rounds: list[tuple[dict[str, float], str]]) -> None:
    """Whoever only hears the facts comes to the same as `told`, and mass facts alternate."""
    judged, mass = Judged(), False
    heard: dict[str, Hearing] = {}
    for ages, trouble in rounds:
        judged, facts = look(judged, ages, trouble)
        for fact in facts:
            match fact:
                case MassSilence():
                    assert not mass
                    mass = True
                case MassSilenceOver():
                    assert mass
                    mass = False
                case Changed(instance, hearing, _):
                    assert not mass
                    assert heard.get(instance, Hearing.HEARD) is not hearing
                    heard[instance] = hearing
        heard = {i: h for i, h in heard.items() if i in ages and h is not Hearing.HEARD}
        assert heard == dict(judged.told)
        assert judged.mass is mass
