"""The replay window, with a clock that stands still unless told otherwise."""

from hypothesis import given
from hypothesis import strategies as st

from coffer_shared.replay import Window

NOW = 1_800_000_000.0
MICRO = 1_000_000


class Clock:
    now = NOW

    def __call__(self) -> float:
        return self.now


def at(seconds: float) -> int:
    return int((NOW + seconds) * MICRO)


def test_once_only() -> None:
    window = Window(clock=Clock())
    assert window.accept(1, at(0))
    assert not window.accept(1, at(0))


def test_same_sequence_of_another_sender() -> None:
    window = Window(clock=Clock())
    assert window.accept(1, at(0))
    assert window.accept(2, at(0))


def test_out_of_order_is_fine() -> None:
    window = Window(clock=Clock())
    assert [window.accept(1, at(s)) for s in (3, 1, 2, 1)] == [True, True, True, False]


def test_skew() -> None:
    window = Window(clock=Clock())
    assert not window.accept(1, at(-121))
    assert not window.accept(1, at(121))
    assert window.accept(1, at(-119))
    assert window.accept(1, at(119))


def test_floor_survives_a_restart() -> None:
    before = Window(clock=Clock())
    assert before.accept(1, at(-2))
    assert before.accept(2, at(-5))
    after = Window(before.floor, clock=Clock())

    assert before.floor == at(-2)
    assert not after.accept(1, at(-2))
    assert not after.accept(3, at(-3))
    assert after.accept(1, at(-1))


def test_not_before_refuses_what_was_sent_before_the_start() -> None:
    window = Window(clock=Clock())
    assert not window.accept(1, at(-1), not_before=NOW)
    assert window.accept(1, at(1), not_before=NOW)
    assert not window.accept(1, at(1), not_before=NOW)
    assert window.floor == 0


def test_what_leaves_the_memory_of_a_sender_stays_refused() -> None:
    window = Window(clock=Clock(), per_sender=8)
    seqs = [at(0) + n for n in range(50)]
    assert all(window.accept(1, seq) for seq in seqs)
    assert not any(window.accept(1, seq) for seq in seqs)
    assert len(window._seen[1]._recent) <= 8


def test_a_crowd_of_senders_is_bounded_and_stays_refused() -> None:
    window = Window(clock=Clock(), senders=4)
    assert all(window.accept(sender, at(0) + sender) for sender in range(1, 20))
    assert not any(window.accept(sender, at(0) + sender) for sender in range(1, 20))
    assert len(window._seen) <= 4


def test_forgotten_senders_stay_refused_when_the_clock_is_set_back() -> None:
    clock = Clock()
    window = Window(clock=clock)
    assert window.accept(1, at(0))
    clock.now = NOW + 1000
    assert window.accept(2, at(1000))
    clock.now = NOW

    assert 1 not in window._seen
    assert not window.accept(1, at(0))


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(-130, 130), st.integers(0, 3)), max_size=200))
def test_nothing_is_accepted_twice(messages: list[tuple[int, int, int]]) -> None:
    clock = Clock()
    window = Window(clock=clock, per_sender=8, senders=3)
    accepted = set()
    for sender, offset, step in messages:
        clock.now += step
        message = sender, at(offset)
        if window.accept(*message):
            assert message not in accepted
            accepted.add(message)
            assert abs(message[1] / MICRO - clock.now) <= 120
