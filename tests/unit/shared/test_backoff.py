"""The pauses between attempts to connect."""

from coffer_shared.bus import Backoff


def test_doubling_up_to_the_ceiling_with_jitter() -> None:
    backoff = Backoff(first=1.0, ceiling=60.0)
    for failures, most in [(1, 1.0), (2, 2.0), (3, 4.0), (6, 32.0), (7, 60.0), (10_000, 60.0)]:
        delays = [backoff.delay(failures) for _ in range(200)]
        assert most / 2 <= min(delays)
        assert max(delays) <= most
        assert len(set(delays)) > 100
