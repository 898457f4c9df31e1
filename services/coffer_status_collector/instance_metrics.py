"""/metrics/instances?shard=i/n: the series of instances and of operations, from stored facts.

Any collector can serve any shard, since all that is shown is in the database; an instance is in the shard that the last
32 bits of its id give, so as long as Prometheus asks for each of the n shards once, nothing is counted twice. What is
not of one instance (operations, the installation) is in shard 0.

Cardinality: an instance has 5 series of Coffer's and at most 200 of its engine's exporter (`metrics` of its heartbeat);
more are left out and counted in `coffer_instance_metrics_dropped`. Operations have a histogram of 16 series for
each kind and final state, and a gauge for each kind and open state.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec
from aiohttp import web

from coffer_db.observe import CONTENT_TYPE
from coffer_shared import log
from coffer_shared.errors import Unavailable
from coffer_shared.messages import Engine
from coffer_status_collector.store import OwnConnection, Row

_log = log.get(__name__)

FRESH = 90.0
"""Seconds for which an instance counts as what its last heartbeat said."""
MOST_METRICS = 200
MOST_SHARDS = 64
_PAGE = 1_000
_SHARD = re.compile(r"([0-9]{1,2})/([0-9]{1,2})")


@dataclass(frozen=True, slots=True)
class Shown:
    """What is known of one instance."""

    instance: str
    project: str
    datastore: str
    age: float | None
    engine: str | None
    facts: str | None


class _Volume(msgspec.Struct, frozen=True):
    total_bytes: int = 0
    used_bytes: int = 0


class _Facts(msgspec.Struct, frozen=True):
    """The part of a heartbeat that is shown here."""

    volume: _Volume = _Volume()
    metrics: dict[str, float] = {}


class Others(Protocol):
    async def render(self) -> str: ...


class InstanceMetrics:
    """The handler of that address. One request is worked on at a time, its text made in a thread."""

    def __init__(self, connection: OwnConnection, *others: Others) -> None:
        """`others` are shown with the first shard."""
        self._connection = connection
        self._others = others
        self._turn = asyncio.Lock()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        try:
            shard, of = parse_shard(request.query.get("shard", "0/1"))
        except ValueError as error:
            return web.Response(status=400, text=f"{error}\n")
        try:
            async with self._turn:
                rows = await self._rows(shard, of)
                more = "".join([await other.render() for other in self._others]) if shard == 0 else ""
                text = await asyncio.to_thread(_render_rows, rows)
        except Unavailable as error:
            return web.Response(status=503, text=f"{error}\n")
        return web.Response(body=text + more.encode(), headers={"Content-Type": CONTENT_TYPE})

    async def _rows(self, shard: int, of: int) -> list[Row]:
        """Page by page: a thousand rows are taken apart in a few milliseconds, all of them would hold up the loop."""
        rows: list[Row] = []
        while True:
            page = await self._connection.fetch(_SHOWN, of, shard, rows[-1][0] if rows else "", _PAGE)
            rows += page
            if len(page) < _PAGE:
                return rows


def parse_shard(text: str) -> tuple[int, int]:
    """Of "i/n": i and n. ValueError if that is not one of at most 64 shards."""
    match = _SHARD.fullmatch(text)
    if match is not None:
        shard, of = int(match[1]), int(match[2])
        if shard < of <= MOST_SHARDS:
            return shard, of
    raise ValueError(f"shard is i/n with i below n and n at most {MOST_SHARDS}")


def render(instances: Sequence[Shown]) -> str:
    """Prometheus text. Metrics with names or labels that a guest may not use are left out."""
    families: dict[str, list[str]] = {name: [] for name in _OWN}
    for shown in instances:
        facts = _facts(shown)
        label = f'{{instance="{shown.instance}"}}'
        fresh = shown.age is not None and shown.age <= FRESH
        up = int(fresh and shown.engine == Engine.HEALTHY)
        where = f'instance="{shown.instance}",project="{_escape(shown.project)}",datastore="{_escape(shown.datastore)}"'
        families["coffer_instance_up"].append(f"{{{where}}} {up}")
        if shown.age is None:
            continue
        families["coffer_instance_heartbeat_age_seconds"].append(f"{label} {shown.age:.3f}")
        families["coffer_instance_engine"].append(f'{{instance="{shown.instance}",state="{shown.engine}"}} 1')
        if not fresh:
            continue
        if facts.volume.total_bytes:
            families["coffer_instance_volume_bytes"].append(f"{label} {facts.volume.total_bytes}")
            families["coffer_instance_volume_used_bytes"].append(f"{label} {facts.volume.used_bytes}")
        dropped = _add_metrics(families, shown.instance, facts.metrics)
        if dropped:
            families["coffer_instance_metrics_dropped"].append(f"{label} {dropped}")
    return "".join(_lines(families))


def _render_rows(rows: Sequence[Row]) -> bytes:
    return render([Shown(*row) for row in rows]).encode()


def _add_metrics(families: dict[str, list[str]], instance: str, metrics: Mapping[str, float]) -> int:
    """How many were left out."""
    taken = 0
    for key, value in metrics.items():
        match = _METRIC.fullmatch(key)
        if match is None or _OURS.search(match[2] or "") or taken >= MOST_METRICS:
            continue
        labels = f",{match[2]}" if match[2] else ""
        families.setdefault(match[1], []).append(f'{{instance="{instance}"{labels}}} {value!r}')
        taken += 1
    return len(metrics) - taken


def _lines(families: Mapping[str, list[str]]) -> Iterator[str]:
    for name, samples in families.items():
        if not samples:
            continue
        if name in _OWN:
            yield f"# HELP {name} {_OWN[name]}\n# TYPE {name} gauge\n"
        else:
            yield f"# TYPE {name} untyped\n"
        for sample in samples:
            yield f"{name}{sample}\n"


def _facts(shown: Shown) -> _Facts:
    if shown.facts is None:
        return _Facts()
    try:
        return _decode_facts(shown.facts)
    except msgspec.MsgspecError:
        _log.warning("a stored heartbeat cannot be read", instance=shown.instance)
        return _Facts()


def _escape(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


_OWN = {
    "coffer_instance_up": "Whether the database answered when its agent was last heard, not long ago",
    "coffer_instance_heartbeat_age_seconds": "Time since the agent was last heard",
    "coffer_instance_engine": "What the agent last said of the database",
    "coffer_instance_volume_bytes": "Size of the data volume's file system",
    "coffer_instance_volume_used_bytes": "Bytes used of it",
    "coffer_instance_metrics_dropped": "Series of the agent that are not shown",
}
_VALUE = r'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\["\\n])*"'
_METRIC = re.compile(rf"((?:pg|postgres|mysql|mariadb)_[a-zA-Z0-9_]{{1,120}})(?:\{{({_VALUE}(?:,{_VALUE})*)\}})?")
_OURS = re.compile(r'(?:^|,)(?:instance|project|job|__\w*)="')
_decode_facts = msgspec.json.Decoder(_Facts).decode

# Instances that have not started a database yet, and those being deleted, are not expected to be up.
_SHOWN = """
SELECT instances.id, instances.project_id, datastores.name,
    extract(epoch FROM now() - heartbeats.received_at)::float8, heartbeats.engine, heartbeats.facts::text
FROM instances
JOIN datastore_versions ON datastore_versions.id = instances.datastore_version_id
JOIN datastores ON datastores.id = datastore_versions.datastore_id
LEFT JOIN heartbeats ON heartbeats.instance_id = instances.id
WHERE instances.deleted_at IS NULL
  AND instances.started_once
  AND instances.id > $3
  AND ('x' || right(instances.id, 8))::bit(32)::bigint % $1::int = $2::int
  AND NOT EXISTS (
      SELECT FROM operations
      WHERE operations.instance_id = instances.id AND operations.kind = 'delete_instance'
        AND operations.state IN ('pending', 'running', 'waiting', 'undoing')
  )
ORDER BY instances.id LIMIT $4
"""
