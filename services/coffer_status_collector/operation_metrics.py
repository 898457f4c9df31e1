"""How long operations took and how many are open, counted from their rows.

What has long ended is counted once and kept, so that asking does not read the whole table each time; a process that
starts anew counts from the rows and comes to the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from itertools import accumulate

from coffer_status_collector.store import OwnConnection

BUCKETS = (1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 45.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
_SETTLED = timedelta(minutes=10)
"""An operation that ended this long ago is certainly visible: its transaction is over."""

Key = tuple[str, str, int]
"""kind, final state, bucket"""


class OperationMetrics:
    def __init__(self, connection: OwnConnection) -> None:
        self._connection = connection
        self._until = datetime(2000, 1, 1, tzinfo=UTC)
        self._counts: Counter[Key] = Counter()
        self._sums: Counter[tuple[str, str]] = Counter()

    async def render(self) -> str:
        counts, sums = await self._finished()
        rows = await self._connection.fetch(_OPEN)
        return "".join((*_durations(counts, sums), *_open([(row[0], row[1], row[2], row[3]) for row in rows])))

    async def _finished(self) -> tuple[Mapping[Key, int], Mapping[tuple[str, str], float]]:
        settled: datetime = (await self._connection.fetch("SELECT now() - $1::interval", _SETTLED))[0][0]
        rows = await self._connection.fetch(_FINISHED, self._until, settled, list(BUCKETS))
        counts, sums = self._counts.copy(), self._sums.copy()
        for kind, state, bucket, is_settled, count, total in rows:
            counts[kind, state, bucket] += count
            sums[kind, state] += total
            if is_settled:
                self._counts[kind, state, bucket] += count
                self._sums[kind, state] += total
        self._until = max(settled, self._until)
        return counts, sums


def _durations(counts: Mapping[Key, int], sums: Mapping[tuple[str, str], float]) -> Iterator[str]:
    name = "coffer_operation_duration_seconds"
    yield f"# HELP {name} From filing to the end\n# TYPE {name} histogram\n"
    for kind, state in sorted(sums):
        labels = f'kind="{kind}",state="{state}"'
        upto = list(accumulate(counts.get((kind, state, bucket), 0) for bucket in range(len(BUCKETS) + 1)))
        for limit, count in zip((*map(repr, BUCKETS), "+Inf"), upto, strict=True):
            yield f'{name}_bucket{{{labels},le="{limit}"}} {count}\n'
        yield f"{name}_sum{{{labels}}} {sums[kind, state]:.3f}\n{name}_count{{{labels}}} {upto[-1]}\n"


def _open(rows: list[tuple[str, str, int, int]]) -> Iterator[str]:
    yield "# HELP coffer_operations_open Operations that have not ended\n# TYPE coffer_operations_open gauge\n"
    for kind, state, count, _ in rows:
        yield f'coffer_operations_open{{kind="{kind}",state="{state}"}} {count}\n'
    yield "# HELP coffer_operations_overdue Open, and past the deadline\n# TYPE coffer_operations_overdue gauge\n"
    late: Counter[str] = Counter()
    for kind, _, _, overdue in rows:
        late[kind] += overdue
    for kind, overdue in sorted(late.items()):
        yield f'coffer_operations_overdue{{kind="{kind}"}} {overdue}\n'


_FINISHED = """
SELECT kind, state, width_bucket(extract(epoch FROM finished_at - created_at)::float8, $3::float8[]),
    finished_at < $2, count(*)::bigint, sum(extract(epoch FROM finished_at - created_at))::float8
FROM operations WHERE finished_at >= $1
GROUP BY 1, 2, 3, 4
"""
_OPEN = """
SELECT kind, state, count(*)::bigint, count(*) FILTER (WHERE deadline < now())::bigint
FROM operations WHERE state IN ('pending', 'running', 'waiting', 'undoing')
GROUP BY 1, 2 ORDER BY 1, 2
"""
