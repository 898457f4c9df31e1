"""Claims operations and turns them, several at once. What a turn does is in `turn`; what is stored, in the database.

Nothing is kept here between turns that the rows do not hold: a loop that is killed at any point is continued by any
other one when its leases end.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from coffer_db import operations
from coffer_db.database import Database
from coffer_db.operations import Claimed, Saved, Turned
from coffer_db.secrets import BadSecret, MasterKey
from coffer_db.tables import OperationState
from coffer_provisioner.plan import Job, Plan
from coffer_provisioner.reach import Reach
from coffer_provisioner.turn import job_of, try_later, turn, unknown_kind
from coffer_shared import log
from coffer_shared.errors import Unavailable

_log = log.get(__name__)

Ending: TypeAlias = Callable[[Job, OperationState], Mapping[str, Any]]
"""What the end of an operation writes onto its instance, in the same transaction."""

SAVE_AGAIN_AFTER = 0.2


@dataclass(slots=True)
class _Lease:
    """Until when, on our own clock, nobody else can have claimed it."""

    until: float


class Loop:
    def __init__(
        self,
        db: Database,
        plans: Mapping[str, Plan],
        reach: Reach,
        master_key: MasterKey,
        *,
        concurrency: int = 8,
        lease: float = 30.0,
        sweep: float = 1.0,
        ending: Ending | None = None,
        worker: str | None = None,
    ) -> None:
        self._db = db
        self._plans = plans
        self._reach = reach
        self._master_key = master_key
        self._concurrency = concurrency
        self._lease = lease
        self._sweep = sweep
        self._ending = ending
        self._worker = worker or socket.gethostname()
        self._woken = asyncio.Event()
        self._stopping = False
        self._away = False
        self.busy = 0
        """Operations now being turned."""

    def wake(self) -> None:
        """Something is due: do not wait for the next sweep."""
        self._woken.set()

    def stop(self) -> None:
        """Have `run` return once the turns that run have ended; their operations are free for others then."""
        self._stopping = True
        self._woken.set()

    async def run(self) -> None:
        """Claim and turn until `stop`. Cancelled, it leaves its leases to end by themselves."""
        tasks: set[asyncio.Task[None]] = set()
        try:
            while not self._stopping:
                self._woken.clear()
                asked = _now()
                claimed = await self._claim() if len(tasks) < self._concurrency else None
                if claimed is not None:
                    tasks.add(asyncio.create_task(self._work(claimed, _Lease(asked + self._lease)), name=claimed.id))
                else:
                    await self._pause(tasks)
                tasks -= self._reap(tasks)
                self.busy = len(tasks)
            while tasks:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                tasks -= self._reap(tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.busy = 0

    async def _claim(self) -> Claimed | None:
        try:
            claimed = await operations.claim(self._db, self._worker, self._lease)
        except Unavailable as why:
            if not self._away:
                _log.warning("the database is away; nothing is claimed", why=str(why))
            self._away = True
            return None
        self._away = False
        return claimed

    async def _pause(self, tasks: set[asyncio.Task[None]]) -> None:
        woken = asyncio.create_task(self._woken.wait())
        try:
            await asyncio.wait({woken, *tasks}, timeout=self._sweep, return_when=asyncio.FIRST_COMPLETED)
        finally:
            woken.cancel()

    def _reap(self, tasks: set[asyncio.Task[None]]) -> set[asyncio.Task[None]]:
        done = {task for task in tasks if task.done()}
        for task in done:
            task.result()
        return done

    async def _work(self, claimed: Claimed, lease: _Lease) -> None:
        """All turns of one claimed operation, given up at once when its lease is lost."""
        with log.bound(operation=claimed.id, instance=claimed.instance_id, kind=claimed.kind, trace=claimed.trace):
            turning = asyncio.create_task(self._turns(claimed))
            keeping = asyncio.create_task(self._keep(claimed, lease))
            try:
                await asyncio.wait({turning, keeping}, return_when=asyncio.FIRST_COMPLETED)
                if not turning.done():
                    keeping.result()
                    _log.warning("the lease was lost; the step is abandoned")
                    return
                turning.result()
            except Exception:  # noqa: BLE001 - what a save or an ending raises is this operation's trouble, not the loop's
                _log.exception("a turn could not be saved; it is made again when the lease ends")
            finally:
                turning.cancel()
                keeping.cancel()
                await asyncio.gather(turning, keeping, return_exceptions=True)

    async def _turns(self, claimed: Claimed) -> None:
        while True:
            turned = await self._turn(claimed)
            if self._stopping and turned.goes_on:
                state = OperationState.UNDOING if turned.state == OperationState.UNDOING else OperationState.WAITING
                turned = replace(turned, state=state, goes_on=False, wait=0.0)
            saved = await self._save(claimed, turned)
            if saved is None:
                _log.warning("the lease was lost; the result is dropped", step=claimed.step)
                return
            _tell(claimed, turned)
            if not turned.goes_on:
                if turned.finished:
                    self.wake()  # another operation may have waited for this one
                return
            claimed = claimed.after(turned, saved)

    async def _turn(self, claimed: Claimed) -> Turned:
        plan = self._plans.get(claimed.kind)
        if plan is None:
            _log.error("no plan for this kind of operation")
            return self._ended(job_of(claimed, {}), unknown_kind(claimed))
        secret_args: dict[str, Any] = {}
        try:
            if claimed.secret_args is not None:
                secret_args = self._master_key.unwrap(operations.secret_context(claimed.id), claimed.secret_args)
        except BadSecret as why:
            _log.error("the secret arguments do not open: is this the right master key?", why=str(why))
            if claimed.seconds_left > 0:
                return try_later(claimed, job_of(claimed, {}), plan, why)
        job = job_of(claimed, secret_args)
        return self._ended(job, await turn(claimed, job, plan, self._reach))

    def _ended(self, job: Job, turned: Turned) -> Turned:
        if not turned.finished or self._ending is None:
            return turned
        job.failure_code = turned.failure_code or job.failure_code
        job.failure_text = turned.failure_text or job.failure_text
        return replace(turned, instance_changes=dict(self._ending(job, turned.state)))

    async def _save(self, claimed: Claimed, turned: Turned) -> Saved | None:
        """Saved until it is: repeating is harmless, because the lease's token guards it. `_work` ends it."""
        while True:
            try:
                return await operations.save(self._db, claimed.id, claimed.token, turned)
            except Unavailable:
                await asyncio.sleep(SAVE_AGAIN_AFTER)

    async def _keep(self, claimed: Claimed, lease: _Lease) -> None:
        """Lengthen the lease at each third of it. Returns when it is lost, or may be."""
        pause = self._lease / 3
        while True:
            await asyncio.sleep(max(0.0, min(pause, lease.until - _now())))
            asked = _now()
            try:
                async with asyncio.timeout_at(lease.until):
                    if not await operations.extend(self._db, claimed.id, claimed.token, self._lease):
                        return
            except (Unavailable, TimeoutError):
                if _now() >= lease.until:
                    return
                pause = SAVE_AGAIN_AFTER
                continue
            lease.until = asked + self._lease
            pause = self._lease / 3


def _now() -> float:
    return asyncio.get_running_loop().time()


def _tell(claimed: Claimed, turned: Turned) -> None:
    if turned.state == claimed.state and not turned.goes_on:
        _log.debug("waits", step=turned.step, seconds=round(turned.wait, 1), why=turned.progress_text)
    elif turned.goes_on and turned.state == claimed.state:
        _log.info(f"{claimed.step or 'start'} -> {turned.step}")
    else:
        why = turned.failure_text or turned.progress_text
        _log.info(f"{claimed.state} -> {turned.state}", step=turned.step, code=turned.failure_code, why=why)
