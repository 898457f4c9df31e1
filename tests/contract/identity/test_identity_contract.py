"""What an identity service says of tokens, and of what was revoked."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from contract.identity.conftest import Directory

pytestmark = pytest.mark.timeout(300)


async def test_a_good_token(directory: Directory):
    account = directory.people.account("reader")
    found = await directory.service.validate(directory.people.token(account))
    assert found is not None
    assert (found.user, found.project, found.roles) == (account.id, account.project, {"reader"})
    assert 60 < found.expires_at - time.time() < 24 * 3600


async def test_a_token_of_nobody(directory: Directory):
    assert await directory.service.validate("gAAAAA-nothing") is None
    assert await directory.service.validate("x" * 4096) is None


async def test_an_expired_token(directory: Directory):
    token = directory.people.short_token(directory.people.account())
    found = await directory.service.validate(token)
    assert found is not None
    async with asyncio.timeout(max(found.expires_at - time.time(), 0) + 20):
        while await directory.service.validate(token) is not None:
            await asyncio.sleep(0.2)
    assert time.time() >= found.expires_at


async def test_tokens_without_a_project(directory: Directory):
    people = directory.people
    account = people.account("admin")
    people.on_domain(account)
    people.on_system(account)
    for scope in ("unscoped", {"domain": {"id": "default"}}, {"system": {"all": True}}):
        found = await directory.service.validate(people.token(account, scope))
        assert found is not None
        assert (found.user, found.project) == (account.id, None)


async def test_revoked_tokens_and_disabled_users_are_listed(directory: Directory):
    people, service = directory.people, directory.service
    since = time.time() - 60
    first, second = people.account(), people.account()
    revoked, others = people.token(first), people.token(first)
    disabled = people.token(second)
    before = await service.revocations(since)

    people.revoke(revoked)
    after = await service.revocations(since)
    assert len(after - before) == 1
    assert await service.validate(revoked) is None
    assert await service.validate(others) is not None

    people.disable(second)
    assert await service.revocations(since) - after
    assert await service.validate(disabled) is None
    assert await service.revocations(time.time() + 60) == frozenset()


async def test_without_its_role_a_user_has_no_project(directory: Directory):
    account = directory.people.account()
    token = directory.people.token(account)
    assert await directory.service.validate(token) is not None
    directory.people.strip(account)
    assert await directory.service.validate(token) is None
