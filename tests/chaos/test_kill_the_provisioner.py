"""kill -9 of every provisioner as it enters each step of create and delete: the operation still ends, and cleanly."""

from __future__ import annotations

import os

import pytest

from chaos.killing import Killer
from coffer_provisioner.plans import PLANS
from support.stack import Stack, eventually

pytestmark = pytest.mark.timeout(420)
CREATE = [step.__name__ for step in PLANS["create_instance"].steps]
DELETE = [step.__name__ for step in PLANS["delete_instance"].steps]
SHORT = {"prepare_guest", "drop_volume"}


def cases(steps: list[str]) -> list[str]:
    full = os.environ.get("DEPTH", "short") == "full"
    return [step for step in steps if full or step in SHORT]


@pytest.mark.parametrize("step", cases(CREATE[1:]))
def test_create_survives(stack: Stack, api, step):
    killer = Killer(stack, step)
    made = api.create("doomed", access={"is_public": True})
    api.until_ready(made, within=240)
    assert killer.killed, f"create never entered {step}"
    killer.close()
    api.delete(made)
    ended_cleanly(stack, made)


@pytest.mark.parametrize("step", cases(DELETE[1:]))
def test_delete_survives(stack: Stack, api, step):
    made = api.create("doomed", access={"is_public": True})
    api.until_ready(made)
    killer = Killer(stack, step)
    api.delete(made, within=240)
    assert killer.killed, f"delete never entered {step}"
    killer.close()
    ended_cleanly(stack, made)


def ended_cleanly(stack: Stack, instance: str) -> None:
    assert stack.leftovers(instance, shared=False) == []
    if stack.sql("SELECT count(*) FROM instances WHERE project_id = 'demo' AND deleted_at IS NULL") == "0":
        eventually(
            lambda: not stack.leftovers(instance, shared=True), within=180,
            what="the project's network has gone with its last instance, at the latest with the keeper's round",
        )
    states = stack.sql(f"SELECT string_agg(DISTINCT state, ',') FROM operations WHERE instance_id = '{instance}'")
    assert states == "succeeded"
