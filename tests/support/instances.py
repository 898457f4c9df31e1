"""Instances of any engine on a stack that is up, by a client of that engine."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass, field
from typing import Any, Self

import coffer_datastores
from support.engines import CLIENTS
from support.stack import Api, address


@dataclass(frozen=True, slots=True)
class Database:
    """One instance, as a tenant reaches it."""

    id: str
    engine: str
    public: str
    password: str = field(repr=False)

    @classmethod
    def make(cls, api: Api, engine: str) -> Self:
        """With the database `shop`, for the user `app`."""
        password = secrets.token_urlsafe(18)
        made = api.create(
            f"of-{engine}", datastore={"type": engine}, access={"is_public": True}, databases=[{"name": "shop"}],
            users=[{"name": "app", "password": password, "databases": [{"name": "shop"}]}],
        )
        shown = api.until_ready(made)
        assert shown["datastore"]["type"] == engine
        return cls(made, engine, address(shown, "public"), password)

    def ask(self, statement: str, *, user: str = "app", password: str = "", database: str = "shop") -> Any:
        client, port = CLIENTS[self.engine], coffer_datastores.specs()[self.engine].port

        async def once() -> Any:
            secret = password or self.password
            async with asyncio.timeout(30), client.connect(self.public, port, user, secret, database) as session:
                return await session.fetchval(statement)

        return asyncio.run(once())

    def is_denied(self, **who: str) -> bool:
        try:
            self.ask("SELECT 1", **who)
        except CLIENTS[self.engine].denied:
            return True
        return False
