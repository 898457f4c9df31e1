"""`coffer-revoker`: the process around `revoker`. It holds the operator's signing key and hears nothing from guests."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import uvloop

from coffer_db.database import Database, DatabaseSettings
from coffer_db.observe import Levels, Observer, Tallies
from coffer_db.revocations import RevocationStore
from coffer_provisioner.account import AccountKeys, AccountName
from coffer_provisioner.revoker import Revoker, revoker_link
from coffer_shared import identity, log, settings
from coffer_shared.bus import tls_context
from coffer_shared.lifetime import until_signalled
from coffer_shared.nkeys import NKey

NAME = "revoker"


class RevokerSettings(DatabaseSettings, frozen=True, kw_only=True):
    state_dir: str
    nats_urls: tuple[str, ...]
    metrics_port: int = 9101
    log_level: str = "info"


def main() -> None:
    chosen = settings.load(RevokerSettings)
    log.configure(NAME, chosen.log_level)
    uvloop.run(serve(chosen))


async def serve(chosen: RevokerSettings) -> None:
    state = Path(chosen.state_dir)
    db = Database(chosen, name=f"coffer-{NAME}")
    accounts = msgspec.json.decode((state / "accounts.json").read_bytes(), type=dict[AccountName, AccountKeys])
    link = revoker_link(
        chosen.nats_urls, lambda: identity.load(state / "system.creds"),
        tls=tls_context((state / "ca.pem").read_text()),
    )
    store = RevocationStore(db)
    revoker = Revoker(
        link, store, NKey.from_seed((state / "operator-signing.seed").read_text()), accounts,
    )

    async def connected() -> bool:
        return link.connected

    observer = Observer(
        NAME, port=chosen.metrics_port, checks={"database": db.ready, "nats": connected},
        collectors=(
            Levels("coffer_revoker_active", "Whether this replica is the one that revokes", (),
                   lambda: {(): float(revoker.active)}),
            Tallies("coffer_revoker", "What the revoker did", ("what",),
                    lambda: {(name,): n for name, n in revoker.counters.items()}),
        ),
    )
    await observer.start()
    try:
        async with asyncio.TaskGroup() as tasks:
            work = tasks.create_task(revoker.run())
            await until_signalled()
            work.cancel()
    finally:
        await observer.stop()
        await store.release()
        await db.close()
