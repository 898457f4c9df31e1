"""A world that outlives a killed provisioner: rows, a cloud, an object store, a guest and a clock, all in memory.

Nothing here waits: a pause moves the clock, and the guest does its part between two turns.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Any
from uuid import NAMESPACE_OID, uuid5

from coffer_db.operations import Claimed, Saved, Turned
from coffer_db.tables import OPEN_STATES, OperationState
from coffer_provisioner.cloud.fake import FakeCloud
from coffer_provisioner.cloud.interface import MachineState
from coffer_provisioner.plans import PLANS
from coffer_provisioner.reach import Reach
from coffer_provisioner.storage.fake import FakeStorage
from coffer_provisioner.turn import job_of, turn
from coffer_shared.backups import MANIFEST, Grant
from coffer_shared.errors import GiveUp, GuestSilent
from coffer_shared.messages import Accepted, Cancel, Probe, Refused, Start
from unit.provisioner.backup_material import BACKUP, manifest, result, segments
from unit.provisioner.backup_rows import CONTAINER, INSTANCE, KEY, BackupRows

MOST_TURNS = 300
ENDED = {"done", "failed", "cancelled"}
FORWARD = {"pending", "running", "waiting"}


class Killed(BaseException):
    """The process is gone: nothing may catch this."""


class Fuse:
    """Kills at the nth outside call, before or after its effect."""

    def __init__(self, at: int | None = None, *, after: bool = False) -> None:
        self.at, self.after, self.calls = at, after, 0

    def wrap(self, thing: Any) -> Any:
        fuse = self

        class Fused:
            def __getattr__(self, name: str) -> Any:
                method = getattr(thing, name)
                if not inspect.iscoroutinefunction(method):
                    return method  # reckoned here, without asking anybody

                async def call(*args: Any, **kwargs: Any) -> Any:
                    fuse.calls += 1
                    mine = fuse.calls
                    if mine == fuse.at and not fuse.after:
                        raise Killed
                    done = await method(*args, **kwargs)
                    if mine == fuse.at:
                        raise Killed
                    return done

                return call

        return Fused()


class Clock:
    """Put in the place of `time.time`."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class World:
    """`fate` is what becomes of the guest's command; a `stubborn` guest writes for as long as it is let."""

    def __init__(self, clock: Clock, *, fate: str = "", stubborn: bool = False) -> None:
        self.clock, self.fate, self.stubborn = clock, fate, stubborn
        self.cloud = FakeCloud()
        self.storage = FakeStorage(clock=clock, lingering=7.0)
        self.refused = 0
        """What the store did not let the guest write."""
        self.row: dict[str, Any] = {
            "name": "db", "flavor_id": "1", "user_id": "ann", "manager": "postgresql", "version": "17", "port": 5432,
            "image": "coffer/postgres:17", "image_digest": "sha256:" + "0" * 64, "volume_gib": 1, "volume_type": None,
            "fs_uuid": INSTANCE, "formatted": False, "started_once": False, "nics": [], "is_public": True,
            "allowed_cidrs": [], "addresses": [], "enrolled": False, "deleted": False, "revoked": False,
            "availability_zone": None, "locality": None, "server_id": None, "volume_id": None,
            "credential_used": False, "deleted_at": None, "configuration_id": None, "settings": {},
        }
        self.flavors: dict[str, dict[str, Any]] = {
            "1": {"ram_mb": 512, "vcpus": 1.0}, "2": {"ram_mb": 1024, "vcpus": 2.0},
        }
        self.versions: dict[str, dict[str, Any]] = {
            "newer": {"version": "17.9", "image": "coffer/postgres:17.9", "image_digest": "sha256:" + "9" * 64},
        }
        self.image = ""
        """That the engine was given."""
        self.after: list[str] = []
        """Kinds of operations filed to run after this one."""
        self.operation_row: dict[str, Any] = {}
        self.filed()
        self.backups = BackupRows(self.operation_row)
        self.credential = b""
        self.enrolled_with = b""
        self.healthy = False
        self.memory = 0
        """That the engine was given, in bytes."""
        self.file_system = 0
        """Its size in bytes."""
        self.boot = ""
        """What the newest report says; a machine that was started again has not reported yet."""
        self.stopped = False
        self.allowed: list[str] = []
        """Whom the guest lets in."""
        self.settings: dict[str, Any] = {}
        """That the engine runs with, or will."""
        self.runs = 0
        self.commands: list[Start] = []
        self.grant: Grant | None = None
        self.restored: dict[str, bytes | None] = {}
        self.still_since: float | None = None
        """When the guest froze its file system, while it does not write to it."""

    def filed(self) -> None:
        """Another operation."""
        self.operation_row.update(guest_state="", guest_code="", guest_text="", guest_result={}, state="pending")

    # --- rows ---

    async def instance(self, instance: str) -> dict[str, Any]:
        return {**self.flavors[self.row["flavor_id"]], **self.row}

    async def set_instance(self, instance: str, **columns: Any) -> None:
        self.row |= columns

    async def exchange_configuration(self, instance: str, attached: str | None, other: str | None) -> None:
        if self.row["configuration_id"] == attached:
            self.row["configuration_id"] = other

    async def heartbeat(self, instance: str) -> dict[str, Any] | None:
        engine = "stopped" if self.stopped else "healthy"
        found = {"engine": engine, "facts": {"boot": self.boot}, "received_at": self.clock.now}
        return found if self.healthy else None

    async def flavor(self, flavor: str) -> dict[str, Any]:
        if flavor not in self.flavors:
            raise GiveUp("no_flavor", f"the flavor {flavor} is not on offer any more")
        return self.flavors[flavor]

    async def version(self, version: str) -> dict[str, Any]:
        if version not in self.versions:
            raise GiveUp("no_version", "the version is not on offer any more")
        return self.versions[version]

    async def file_after(self, operation: str, kind: str, *, within: timedelta, beside: bool = False) -> None:
        if kind not in self.after:
            self.after.append(kind)

    async def operation(self, operation: str) -> dict[str, Any]:
        return dict(self.operation_row)

    async def set_guest_state(self, operation: str, state: str) -> None:
        if self.operation_row["guest_state"] not in ENDED:
            self.operation_row["guest_state"] = state

    async def revoke_guest(self, instance: str, reason: str) -> None:
        self.row["enrolled"], self.row["revoked"] = False, True

    async def user_data(self, instance: str, operation: str) -> bytes:
        wanted = f"user data of {operation}".encode()
        if wanted != self.credential:
            self.credential, self.row["credential_used"] = wanted, False
        return wanted

    # --- the guest ---

    async def send(self, instance: str, command: Any, *, within: float) -> Any:
        machine = await self.cloud.find_machine(instance)
        heard = (
            machine is not None and machine.state == "active" and self.row["enrolled"]
            and self.cloud.user_data(instance) == self.enrolled_with
        )
        if not heard or self.fate == "silent" or (self.fate == "falls silent" and self.grant is not None):
            raise GuestSilent("no guest")
        if isinstance(command, Cancel):
            return self._cancel()
        if isinstance(command, Probe):
            self.allowed = list(self.row["allowed_cidrs"])
            return Accepted()
        self.commands.append(command)
        if self.fate == "refuses":
            return Refused(code="volume", text="the volume is not what was recorded")
        if command.kind == "snapshot":
            self._freeze(command.args["seconds"])
        elif command.kind == "backup":
            self.grant = Grant(**command.args["grant"])  # as if it had renewed the one before
        elif self.operation_row["guest_state"] != "done":
            if command.kind == "restore":
                self._restore(command.args["restore"])
            self._obey(command)
            self.healthy = True
        return Accepted()

    def _obey(self, command: Start) -> None:
        if self.fate == f"fails to {command.kind}":
            self._end("failed", guest_code="engine", guest_text="the database does not stay up")
            return
        self._end("done")
        self.stopped = command.kind == "stop" or (self.stopped and command.kind not in {"restart", "prepare"})
        self.allowed = list(command.args.get("allowed_cidrs", self.allowed))
        self.memory = command.args.get("memory_bytes", self.memory)
        self.settings = dict(command.args.get("settings", self.settings))
        self.image = command.args.get("image", self.image)
        size = command.args.get("volume_bytes", self.file_system)
        assert size <= self.cloud.gib(INSTANCE) << 30, "the device is smaller than what it is to hold"
        self.file_system = size
        if self.fate == "falls silent after it":
            self.fate = "silent"

    def _freeze(self, seconds: float) -> None:
        if self.operation_row["guest_state"] not in ENDED and self.still_since is None:
            self.still_since, self.still_for = self.clock(), seconds

    def _go_on_frozen(self) -> None:
        """Asks after the snapshot, which also tells that it is frozen; lets go when it is there, or after a while."""
        assert self.still_since is not None
        over = self.fate != "never ends"
        if over and self.backups.row["state"] in {"SAVING", "COMPLETED"}:
            self._end("done", guest_result={"used_bytes": -1 if self.fate == "lies" else 7})
            self.still_since = None
        elif over and self.clock() - self.still_since > self.still_for:
            self._end("failed", guest_code="volume", guest_text="no copy was made in time")
            self.still_since = None
        elif self.operation_row["guest_state"] in {"", "accepted"} and self.operation_row["state"] in FORWARD:
            self.operation_row["guest_state"] = "frozen"

    def _cancel(self) -> Any:
        if self.still_since is not None:
            self.still_since = None
            self._end("cancelled")
            return Accepted()
        if self.grant is None:
            return Refused(code="not_found", text="no such operation here")
        if not self.stubborn:
            self._end("cancelled")
        return Accepted()

    def _restore(self, source: dict[str, Any]) -> None:
        grant = Grant(**source["grant"])
        assert (source["backup"], source["key"]) == (BACKUP, KEY.hex())
        self.restored = {name: self.storage.get(grant, name) for name in (MANIFEST, *segments())}

    def _end(self, state: str, **columns: Any) -> None:
        if self.operation_row["guest_state"] not in ENDED:
            self.runs += 1
            self.operation_row |= {"guest_state": state, **columns}

    async def between_turns(self) -> None:
        """What happens outside: a machine that runs enrols its agent, and a guest goes on with its work."""
        machine = await self.cloud.find_machine(INSTANCE)
        active = machine is not None and machine.state == "active"
        deaf = self.fate == "deaf at first" and active and self.cloud.starts(INSTANCE) < 2
        if active and self.fate != "silent" and not deaf and not self.row["revoked"]:
            given = self.cloud.user_data(INSTANCE)
            if given != self.enrolled_with and given == self.credential:
                self.enrolled_with, self.healthy = given, False
                self.row |= {"enrolled": True, "credential_used": True}
            if given == self.enrolled_with:
                self.boot = f"boot {self.cloud.starts(INSTANCE)} of {machine.id}"
        if self.fate == "goes down" and active and (self.grant is not None or self.still_since is not None):
            self.cloud.set_machine(INSTANCE, MachineState.STOPPED)
        elif self.still_since is not None:
            self._go_on_frozen()
        if self.grant is None:
            return
        if self.stubborn:
            self.put(f"late-{self.clock.now:.3f}", b"x")
        if self.operation_row["guest_state"] == "accepted":
            self._back_up()

    def _back_up(self) -> None:
        """One segment more, then the manifest, and what is to become of it."""
        wanted = segments()
        there = self.names(self.backups.row["prefix"])
        missing = sorted(set(wanted) - set(there))
        if self.fate == "fails" and len(missing) < 2:
            self._end("failed", guest_code="storage", guest_text="the object store refused")
        elif missing:
            self.put(missing[0], b"changed" if self.fate == "damages" and len(missing) == 1 else wanted[missing[0]])
        elif self.fate not in {"never ends", "falls silent", "goes down"}:
            written = manifest(wanted)
            self.put(MANIFEST, written)
            found = {} if self.fate == "lies" else json.loads(json.dumps(result_of(wanted, written)))
            self._end("done", guest_result=found)

    def put(self, name: str, data: bytes) -> None:
        """If the store lets it. A stubborn guest has begun each upload as soon as it could."""
        assert self.grant is not None
        try:
            self.storage.put(self.grant, name, data)
        except PermissionError:
            if self.stubborn and self.clock() < self.grant.expires_at + self.storage.lingering:
                self.objects[self.backups.row["prefix"] + name] = data
            else:
                self.refused += 1

    # --- the store, as a test looks at it ---

    @property
    def objects(self) -> dict[str, bytes]:
        held = self.storage.store.containers.get((CONTAINER.project, CONTAINER.name))
        return held.objects if held else {}

    def names(self, prefix: str) -> list[str]:
        return sorted(name.removeprefix(prefix) for name in self.objects if name.startswith(prefix))


def result_of(objects: dict[str, bytes], written: bytes) -> dict[str, Any]:
    found = result(objects, written)
    return {name: getattr(found, name) for name in found.__struct_fields__}


# --- turning an operation in it ---


def reach(world: World, fuse: Fuse) -> Reach:
    fused = fuse.wrap(world)
    return Reach(
        cloud=fuse.wrap(world.cloud), guests=fused, records=fused, identities=fused, backups=fuse.wrap(world.backups),
        storages={"swift": fuse.wrap(world.storage)}, registry="registry:5000",
    )


def filed(kind: str, args: dict[str, Any], nth: int) -> Claimed:
    return Claimed(
        id=str(uuid5(NAMESPACE_OID, f"{kind} {nth}")), token="t", instance_id=INSTANCE, project_id="p", user_id="u",
        request_id="", trace="", kind=kind, args=args, secret_args=None, state=OperationState.RUNNING, step="",
        progress=0, attempts=0, context={}, failure_code=None, failure_text=None, failure_step=None,
        cancel_requested=False, seconds_left=1000.0,
    )


async def drive(
    kind: str, world: World, fuse: Fuse, args: dict[str, Any] | None = None, *, deadline_after: int = MOST_TURNS,
    cancel_after: int = MOST_TURNS, nth: int = 1,
) -> Claimed:
    """Turn to the end, taking up again after the one kill. `*_after`: that many turns. `nth`: of that kind."""
    plan, claimed = PLANS[kind], filed(kind, args or {}, nth)
    world.filed()
    world.after = []
    for number in range(MOST_TURNS):
        left = 1000.0 if number < deadline_after or claimed.undoing else -1.0
        now = Saved(cancel_requested=number >= cancel_after, seconds_left=left)
        claimed = claimed.after(_same(claimed), now)
        world.operation_row["state"] = claimed.state.value
        try:
            turned = await turn(claimed, job_of(claimed, {}), plan, reach(world, fuse))
        except Killed:
            continue
        _keeps_no_secret(turned)
        claimed = claimed.after(turned, now)
        if turned.state not in OPEN_STATES:
            return claimed
        world.clock.now += 0.0 if turned.goes_on else max(turned.wait, 0.01)
        await world.between_turns()
    raise AssertionError(f"stuck at {claimed.step} in {claimed.state}")


async def everywhere(
    make: Callable[[], Awaitable[World]], kind: str, args: dict[str, Any] | None = None, **how: int,
) -> AsyncIterator[tuple[World, Claimed, str]]:
    """The operation in a fresh world for each kill at each call, and once without any: what came of each."""
    fuse, one = Fuse(), await make()
    claimed = await drive(kind, one, fuse, args, **how)
    yield one, claimed, "no kill"
    for after in (False, True):
        for at in range(1, fuse.calls + 1):
            one = await make()
            claimed = await drive(kind, one, Fuse(at, after=after), args, **how)
            yield one, claimed, f"{'after' if after else 'before'} call {at} of {fuse.calls}"


def _same(claimed: Claimed) -> Turned:
    return Turned(state=claimed.state, step=claimed.step, context=claimed.context, attempts=claimed.attempts)


def _keeps_no_secret(turned: Turned) -> None:
    kept = repr(turned)
    assert KEY.hex() not in kept
    assert "temp_url_sig" not in kept
