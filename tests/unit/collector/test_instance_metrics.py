"""The text that Prometheus reads about instances, from facts that hostile machines may have sent."""

from __future__ import annotations

import json
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from coffer_status_collector.instance_metrics import MOST_METRICS, Shown, parse_shard, render

ID = "6b0c2a2e-8a0d-4f0e-9a53-0d4d7f0e5a11"


def shown(engine: str | None = "healthy", age: float | None = 3.0, instance: str = ID, **facts: Any) -> Shown:
    return Shown(instance, "p", "postgresql", age, engine, json.dumps(facts) if engine else None)


def read(*instances: Shown) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    return {
        family.name: {tuple(sorted(s.labels.items())): s.value for s in family.samples}
        for family in text_string_to_metric_families(render(instances))
    }


def up(*instances: Shown) -> list[float]:
    return list(read(*instances)["coffer_instance_up"].values())


def test_up_is_healthy_and_lately_heard() -> None:
    assert up(shown()) == [1]
    assert up(shown(age=90.0)) == [1]
    assert up(shown(age=90.1)) == [0]
    assert up(shown("running")) == [0]
    assert up(shown("unhealthy")) == [0]
    assert up(shown(None, None)) == [0]


def test_the_labels_of_an_instance() -> None:
    found = read(Shown(ID, 'a"\\\nb', "mysql", 1.0, "healthy", "{}"))
    labels = (("datastore", "mysql"), ("instance", ID), ("project", 'a"\\\nb'))
    assert found["coffer_instance_up"] == {labels: 1}
    assert found["coffer_instance_engine"] == {(("instance", ID), ("state", "healthy")): 1}
    assert found["coffer_instance_heartbeat_age_seconds"] == {(("instance", ID),): 1}


def test_volume_and_the_engines_own_series() -> None:
    found = read(shown(
        volume={"total_bytes": 1000, "used_bytes": 10},
        metrics={"pg_up": 1, 'pg_database_size_bytes{datname="a\\"b"}': 5.5},
    ))
    assert found["coffer_instance_volume_bytes"] == {(("instance", ID),): 1000}
    assert found["coffer_instance_volume_used_bytes"] == {(("instance", ID),): 10}
    assert found["pg_up"] == {(("instance", ID),): 1}
    assert found["pg_database_size_bytes"] == {(("datname", 'a"b'), ("instance", ID)): 5.5}


def test_old_facts_are_not_shown_as_present_ones() -> None:
    found = read(shown(age=91.0, volume={"total_bytes": 1}, metrics={"pg_up": 1}))
    assert set(found) == {"coffer_instance_up", "coffer_instance_heartbeat_age_seconds", "coffer_instance_engine"}


@pytest.mark.parametrize(
    "name",
    [
        "coffer_instance_up", "up", "process_cpu_seconds_total", "pg_up 1\nup", "pg_x{", 'pg_x{instance="other"}',
        'pg_x{a="b",project="other"}', 'pg_x{job="other"}', 'pg_x{__name__="up"}', 'pg_x{a="b"} 1\nup{a="b"}',
        'pg_x{a="b\n"}', "pg_" + "x" * 200, "", 'pg_x{a="\\"}',
    ],
)
def test_a_guest_cannot_speak_in_other_names(name: str) -> None:
    found = read(shown(metrics={name: 1.0}))
    assert found.pop("coffer_instance_metrics_dropped") == {(("instance", ID),): 1}
    assert set(found) == {"coffer_instance_up", "coffer_instance_heartbeat_age_seconds", "coffer_instance_engine"}


def test_no_more_series_than_allowed() -> None:
    found = read(shown(metrics={f"pg_{n}": 1.0 for n in range(MOST_METRICS + 50)}))
    assert sum(1 for name in found if name.startswith("pg_")) == MOST_METRICS
    assert list(found["coffer_instance_metrics_dropped"].values()) == [50]


def test_facts_that_cannot_be_read_cost_one_instance_its_details_only() -> None:
    broken = Shown(ID, "p", "postgresql", 1.0, "healthy", '{"volume":7}')
    other = ID.replace("6", "7")
    found = read(broken, shown(instance=other, metrics={"pg_up": 1}))
    assert len(found["coffer_instance_up"]) == 2
    assert len(found["pg_up"]) == 1


@pytest.mark.parametrize(("text", "shard"), [("0/1", (0, 1)), ("1/2", (1, 2)), ("63/64", (63, 64))])
def test_shards(text: str, shard: tuple[int, int]) -> None:
    assert parse_shard(text) == shard


@pytest.mark.parametrize("text", ["", "1", "1/1", "2/1", "-1/2", "0/0", "0/65", "a/b", "0/2/3", "0/ 2", "٠/2"])
def test_what_is_no_shard(text: str) -> None:
    with pytest.raises(ValueError, match="shard"):
        parse_shard(text)
