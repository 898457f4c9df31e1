"""The API as these tests use it: a running service, callers with passwords, rows, and somebody who does its work."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
import bcrypt
import msgspec
from sqlalchemy import text
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import SQLModel
from yarl import URL

import coffer_datastores
from coffer_api.main import running
from coffer_api.settings import Settings
from coffer_db import operations, parameters
from coffer_db.catalogue import Catalogue, DatastoreOffer, FlavorOffer, VersionOffer, version_id
from coffer_db.database import Database, DatabaseSettings
from coffer_db.operations import Turned
from coffer_db.secrets import MasterKey
from coffer_db.tables import OperationState
from coffer_shared.messages import Engine, Heartbeat, VolumeFacts

DIGEST, BACKUP_DIGEST = "sha256:" + "1" * 64, "sha256:" + "2" * 64
NOW_17 = VersionOffer(name="17", version="17.6", manager="postgresql", image="coffer/postgres:17",
                      image_digest=DIGEST, backup_image="coffer/postgres-backup:17", backup_image_digest=BACKUP_DIGEST)
OLD = VersionOffer(name="9", version="9.6", manager="postgresql", image="coffer/postgres:9", active=False)
CATALOGUE = Catalogue(
    (DatastoreOffer("postgresql", (NOW_17, OLD), NOW_17),),
    (FlavorOffer("1", "tiny", 0.5, 512), FlavorOffer("gold", "large", 2, 4096)),
)
VERSION = version_id("postgresql", NOW_17)
OLD_VERSION = version_id("postgresql", OLD)
MASTER = MasterKey.generate()
GIB = 1024**3
USERS = {
    "ann": ("p1", "member"), "bob": ("p2", "member"), "rita": ("p1", "reader"), "root": ("ops", "admin"),
}
"""name: project, role; the password is `<name>-password`."""


@dataclass
class Answer:
    status: int
    body: Any
    headers: Mapping[str, str]

    @property
    def problem(self) -> str:
        """The text of an error, whose envelope must agree with the status."""
        ((_, inside),) = self.body.items()
        assert inside["code"] == self.status
        text: str = inside["message"]
        return text

    def must(self, status: int) -> Any:
        assert self.status == status, self.body
        return self.body


@dataclass
class Caller:
    session: aiohttp.ClientSession
    base: str
    user: str = "ann"
    password: str = ""
    project: str = "p1"
    headers: dict[str, str] = field(default_factory=dict)

    async def __call__(
        self, method: str, path: str, body: Any = None, *, raw: bytes | None = None, headers: Any = None,
    ) -> Answer:
        return await self.bare(method, f"/v1.0/{self.project}{path}", body, raw=raw, headers=headers)

    async def bare(
        self, method: str, path: str, body: Any = None, *, raw: bytes | None = None, headers: Any = None,
    ) -> Answer:
        sent = {"Content-Type": "application/json", **self.headers, **(headers or {})}
        if self.user:
            sent["Authorization"] = basic(self.user, self.password or f"{self.user}-password")
        data = raw if raw is not None else None if body is None else json.dumps(body).encode()
        url = URL(self.base + path, encoded=True)
        async with self.session.request(method, url, data=data, headers=sent, allow_redirects=False) as answer:
            given = await answer.read()
            kind = answer.headers.get("Content-Type", "")
            return Answer(
                answer.status, json.loads(given) if given and "json" in kind else given.decode(),
                {name.lower(): value for name, value in answer.headers.items()},
            )

    def as_(self, user: str, project: str | None = None) -> Caller:
        return Caller(self.session, self.base, user, "", project or USERS[user][0])


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def state_dir(path: Path) -> Path:
    path.mkdir(exist_ok=True)
    (path / "master.pub").write_text(bytes(MASTER.public).hex())
    lines = [
        f"{name}:{bcrypt.hashpw(f'{name}-password'.encode(), bcrypt.gensalt(4)).decode()}:{project}:{role}"
        for name, (project, role) in USERS.items()
    ]
    (path / "htpasswd").write_text("# users\n\n" + "\n".join(lines) + "\n")
    return path


def settings(database: DatabaseSettings, state: Path, **more: Any) -> Settings:
    plain = {name: getattr(database, name) for name in database.__struct_fields__}
    chosen = {
        "state_dir": str(state), "port": 0, "metrics_host": "127.0.0.1", "metrics_port": 0, "operation_wait": 5.0,
        "guest_wait": 1.0, "http_get_rate": 0, "http_post_rate": 0, "http_put_rate": 0, "http_delete_rate": 0,
    }
    return Settings(**{**plain, **chosen, **more})


@contextlib.asynccontextmanager
async def serving(chosen: Settings) -> AsyncIterator[Caller]:
    async with running(chosen) as (host, port), aiohttp.ClientSession() as session:
        yield Caller(session, f"http://{host}:{port}")


class World:
    """The rest of the control plane, as rows."""

    def __init__(self, db: Database) -> None:
        self.db = db

    async def instance(self, project: str = "p1", *, healthy: bool = True, **more: Any) -> str:
        instance = str(uuid4())
        row = {
            "id": instance, "project_id": project, "user_id": "ann", "name": "one", "flavor_id": "1",
            "datastore_version_id": VERSION, "volume_gib": 2, "fs_uuid": str(uuid4()), "formatted": True,
            "started_once": True, "region": "RegionOne", "nics": [], "is_public": False, "allowed_cidrs": [],
            "addresses": [{"address": "10.0.0.5", "type": "private", "network": "n"}], "failed": False,
            "server_id": "machine", **more,
        }
        async with self.db.begin() as session:
            await session.execute(insert(SQLModel.metadata.tables["instances"]).values(**row))
        if healthy:
            await self.beat(instance)
        return instance

    async def backup(self, instance: str, state: str = "COMPLETED", *, project: str = "p1", **more: Any) -> str:
        """As the provisioner leaves it; `age` in seconds since it changed last."""
        backup, age = more.pop("id", None) or str(uuid4()), more.pop("age", 0.0)
        row = {
            "id": backup, "project_id": project, "instance_id": instance, "operation_id": str(uuid4()),
            "name": "nightly", "datastore_version_id": VERSION, "state": state, "storage": "swift",
            "container": "database_backups", "prefix": f"{instance}/{backup}/", "position": {}, "tools": {}, **more,
        }
        if state in {"COMPLETED", "DELETING"}:
            row = {"location": f"http://swift/v1/AUTH_{project}/database_backups/{backup}", "manifest_sha256": "0" * 64,
                   "raw_bytes": GIB // 2, "stored_bytes": GIB // 8, "segments": 3} | row
        async with self.db.begin() as session:
            await session.execute(insert(SQLModel.metadata.tables["backups"]).values(**row))
        await self.sql(
            "UPDATE backups SET updated_at = now() - make_interval(secs => :age) WHERE id = :id", id=backup, age=age,
        )
        return backup

    async def parameters(self, version: str = VERSION) -> None:
        """Those that are shipped for PostgreSQL 17."""
        async with self.db.begin() as session:
            await parameters.record(session, version, coffer_datastores.parameters("postgresql", "17"))

    async def configuration(self, values: dict[str, Any] | None = None, *, project: str = "p1", **more: Any) -> str:
        group = str(uuid4())
        row = {
            "id": group, "project_id": project, "name": "tuned", "datastore_version_id": VERSION,
            "values": values or {}, **more,
        }
        async with self.db.begin() as session:
            await session.execute(insert(SQLModel.metadata.tables["configurations"]).values(**row))
        return group

    async def beat(self, instance: str, engine: Engine = Engine.HEALTHY, *, age: float = 0.0, **more: Any) -> None:
        volume = VolumeFacts(total_bytes=2 * GIB, used_bytes=GIB // 2)
        facts = msgspec.to_builtins(Heartbeat(at=0, version="1", engine=engine, **{"volume": volume, **more}))
        await self.sql(
            "INSERT INTO heartbeats (instance_id, seq, received_at, engine, facts) "
            "VALUES (:id, 1, now() - make_interval(secs => :age), :engine, CAST(:facts AS jsonb)) "
            "ON CONFLICT (instance_id) DO UPDATE SET received_at = excluded.received_at, engine = excluded.engine, "
            "facts = excluded.facts",
            id=instance, age=age, engine=engine.value, facts=json.dumps(facts),
        )

    async def claimed(self) -> operations.Claimed:
        """The operation that is due, waited for if there is none yet."""
        async with asyncio.timeout(10):
            while (found := await operations.claim(self.db, "test", 30.0)) is None:
                await asyncio.sleep(0.01)
        return found

    async def finish(self, state: OperationState = OperationState.SUCCEEDED, **how: Any) -> operations.Claimed:
        """Claim the one operation that is due and end it."""
        claimed = await self.claimed()
        turned = Turned(state=state, step="", context={}, **how)
        assert await operations.save(self.db, claimed.id, claimed.token, turned) is not None
        return claimed

    async def sql(self, statement: str, **values: Any) -> list[Any]:
        async with self.db.connect() as connection:
            found = await connection.execute(text(statement), values)
            return list(found.mappings()) if found.returns_rows else []

    async def count(self, table: str) -> int:
        return int((await self.sql(f"SELECT count(*) AS n FROM {table}"))[0]["n"])
