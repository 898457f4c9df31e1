"""One operation of a backup on a stage of its own, for tests of single steps."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from coffer_provisioner.backup_store import WRITE_SECONDS
from coffer_provisioner.cloud.fake import FakeCloud
from coffer_provisioner.cloud.interface import MachineSpec, MachineState, Tags
from coffer_provisioner.plan import Job
from coffer_provisioner.reach import Reach
from coffer_provisioner.storage.fake import FakeStorage, Held
from coffer_shared.backups import MANIFEST
from coffer_shared.errors import GiveUp
from coffer_shared.messages import Accepted
from unit.provisioner.backup_material import BACKUP, manifest, segments
from unit.provisioner.backup_rows import CONTAINER, INSTANCE, BackupRows

DIGEST = "sha256:" + "b" * 64
WHOLE = segments()
WRITTEN = manifest(WHOLE)
LINGERING = 7.0
URL = "http://store.invalid/v1/p/database_backups/"


class Stage:
    """One operation, one backup, one store, a cloud, and a guest that answers what it is told to."""

    def __init__(self, clock):
        self.clock, self.cloud, self.storage = clock, FakeCloud(), FakeStorage(clock=clock, lingering=LINGERING)
        self.operation_row = {
            "state": "running", "guest_state": "", "guest_code": "", "guest_text": "", "guest_result": {},
        }
        self.backups = BackupRows(self.operation_row)
        self.held = Held(CONTAINER.keys)
        self.storage.store.containers[CONTAINER.project, CONTAINER.name] = self.held
        self.answer, self.sent = Accepted(), []
        self.job = Job(
            id="op", instance=INSTANCE, project="p", kind="create_backup", args={"backup": BACKUP}, secret_args={},
            context={}, undoing=False, seconds_left=100.0,
        )

    async def operation(self, operation):
        return dict(self.operation_row)

    async def set_guest_state(self, operation, state):
        self.operation_row["guest_state"] = state

    async def instance(self, instance):
        return {
            "manager": "postgresql", "version": "17", "image": "coffer/postgres:17", "image_digest": DIGEST,
            "port": 5432, "ram_mb": 512, "vcpus": 1.0, "fs_uuid": INSTANCE, "formatted": False, "volume_gib": 1,
            "allowed_cidrs": [], "settings": {},
        }

    async def set_instance(self, instance, **columns):
        self.operation_row["instance"] = columns

    async def send(self, instance, command, *, within):
        self.sent.append(command)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    async def machine(self, state=MachineState.ACTIVE):
        tags = Tags(INSTANCE, "op", "p")
        port = await self.cloud.ensure_port(tags, network=None, address=None)
        volume = await self.cloud.ensure_volume(tags, gib=1, volume_type=None)
        await self.cloud.ensure_machine(MachineSpec(tags, "db", 512, 1.0, port, volume, b"u"))
        self.cloud.set_machine(INSTANCE, state)

    def stored(self, **changes):
        prefix = self.row["prefix"]
        self.objects.update({
            prefix + name: data for name, data in ({**WHOLE, MANIFEST: WRITTEN} | changes).items()
        })

    def granted(self, seconds=WRITE_SECONDS):
        self.row["grant_until"] = datetime.fromtimestamp(self.clock() + seconds, UTC)

    @property
    def objects(self):
        return self.held.objects

    @property
    def row(self):
        return self.backups.row

    @property
    def to(self):
        return Reach(
            cloud=self.cloud, guests=self, records=self, identities=None, backups=self.backups,
            storages={"swift": self.storage}, registry="r:5000",
        )


async def given_up(awaitable):
    with pytest.raises(GiveUp) as caught:
        await awaitable
    return caught.value.code
