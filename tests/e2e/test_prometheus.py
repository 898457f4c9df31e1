"""What Prometheus sees of the stack."""

from __future__ import annotations

import json
import urllib.request
from typing import Any
from urllib.parse import quote

import pytest

from support.stack import Stack, eventually


@pytest.fixture
def ask(stack: Stack):
    at = stack.compose("port", "prometheus", "9090").strip()

    def query(expression: str) -> list[dict[str, Any]]:
        with urllib.request.urlopen(f"http://{at}/api/v1/query?query={quote(expression)}", timeout=10) as answer:
            found: list[dict[str, Any]] = json.loads(answer.read())["data"]["result"]
        return found

    return query


def test_every_replica_of_every_service_is_up(ask):
    def up() -> bool:
        seen: dict[str, list[str]] = {}
        for row in ask("up"):
            seen.setdefault(row["metric"]["job"], []).append(row["value"][1])
        wanted = {
            "coffer-api", "coffer-provisioner", "coffer-revoker", "coffer-backup-scheduler",
            "coffer-status-collector",
        }
        return all(seen.get(job) == ["1", "1"] for job in wanted)

    eventually(up, within=60, what="two of each service are scraped and up")


def test_each_instance_is_counted_once(ask, stack: Stack, shop):
    eventually(
        lambda: [r["value"][1] for r in ask(f'coffer_instance_up{{instance_id="{shop.id}"}}')] == ["1"]
        or [r["value"][1] for r in ask(f'coffer_instance_up{{instance="{shop.id}"}}')] == ["1"],
        within=60, what="the instance is up in exactly one shard",
    )
    alive = stack.sql("SELECT count(*) FROM instances WHERE deleted_at IS NULL")
    eventually(
        lambda: [r["value"][1] for r in ask("count(coffer_instance_up)")] == [alive], within=60,
        what="as many series as instances",
    )


def test_the_engine_shows_the_stock_exporters_names(ask, shop):
    eventually(lambda: any(shop.id in json.dumps(r["metric"]) for r in ask("pg_up")), within=60, what="pg_up")
