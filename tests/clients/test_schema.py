"""The whole OpenAPI document against the running stack, every phase and check of schemathesis: no failure of ours, no
status that is not documented, no reply that differs from its description."""

from __future__ import annotations

import base64
import os
import warnings
from pathlib import Path
from urllib.parse import urlsplit

import pytest

with warnings.catch_warnings(action="ignore"):
    import openstack

from support import schemathesis_run, ways
from support.stack import Api, Stack

pytestmark = pytest.mark.filterwarnings("ignore")  # the SDK warns of itself

EXAMPLES = 60 if os.environ.get("DEPTH", "short") == "full" else 10
UNKNOWN = "99999999-9999-4999-8999-999999999999"


@pytest.mark.timeout(900)
async def test_with_a_password_and_an_instance_that_lives(stack: Stack, tmp_path: Path) -> None:
    """Every path that has an id leads to it. Its own deletion is left out; restarts and the like are not."""
    api = stack.api("other")
    made = api.create("fuzzed")
    api.until_ready(made)
    try:
        await _must_be_documented(api, tmp_path, made, _basic(api), more=("--exclude-operation-id", "delete_instance"))
    finally:
        for found in api("GET", "/instances?limit=100").must(200)["instances"]:
            api.delete(found["id"])


@pytest.mark.timeout(900)
async def test_with_a_token(stack: Stack, tmp_path: Path) -> None:
    """The administrator's, who reaches management, too; nothing that he could ask for exists."""
    cloud = openstack.connection.Connection(**ways.arguments(stack, "keystone", admin=True))
    endpoint, token = str(cloud.endpoint_for("database")), str(cloud.auth_token)
    cloud.close()
    await _must_be_documented(Api(endpoint, "", ""), tmp_path, UNKNOWN, {"X-Auth-Token": token})


@pytest.mark.timeout(900)
async def test_without_credentials(stack: Stack, tmp_path: Path) -> None:
    await _must_be_documented(stack.api("demo"), tmp_path, UNKNOWN, {})


async def _must_be_documented(
    api: Api, folder: Path, found: str, headers: dict[str, str], *, more: tuple[str, ...] = (),
) -> None:
    at = urlsplit(api.endpoint)
    report = await schemathesis_run.run(
        f"{at.scheme}://{at.netloc}", folder, headers=headers, examples=EXAMPLES, more=more,
        parameters={"project": at.path.rsplit("/", 1)[1], "id": found},
    )
    assert report.status == 0, report.told()


def _basic(api: Api) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{api.user}:{api.password}".encode()).decode()}
