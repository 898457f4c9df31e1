"""The OpenAPI document, held against the service by schemathesis: no failure of ours, no status that is not documented,
no reply that differs from its description."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from coffer_api.settings import Settings
from integration.api.service import World, basic, serving
from support import schemathesis_run

UNKNOWN = "99999999-9999-4999-8999-999999999999"


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("user", "known"), [("ann", True), ("root", True), ("rita", False)])
async def test_every_answer_is_documented(
    choose: Callable[..., Settings], world: World, tmp_path: Path, user: str, known: bool,
) -> None:
    """With an instance, a backup, a configuration and an operation of the same id, so that every path leads to
    something; or with none that exists. Deletions are left to the unknown: what is gone answers nothing else any more.
    Nobody carries operations out here, so answers do not wait for them."""
    found = UNKNOWN
    more: tuple[str, ...] = ()
    if known:
        found = await world.instance()
        await world.backup(found, id=found)
        await world.configuration({"jit": True}, id=found)
        await world.sql(
            "INSERT INTO operations (id, instance_id, project_id, kind, state, deadline, finished_at, lifecycle, step, "
            "progress, progress_text, attempts, cancel_requested, guest_state, guest_code, guest_text, user_id, "
            "request_id, trace) VALUES (:id, :id, 'p1', 'create_instance', 'succeeded', now(), now(), true, '', 100, "
            "'', 0, false, '', '', '', 'ann', '', '')",
            id=found,
        )
        more = ("--exclude-method", "DELETE")
    async with serving(choose(operation_wait=0.05, cancel_wait=0.05)) as api:
        report = await schemathesis_run.run(
            api.base, tmp_path, parameters={"project": "p1", "id": found}, examples=10, more=more,
            headers={"Authorization": basic(user, f"{user}-password")},
        )
    assert report.status == 0, report.told()
