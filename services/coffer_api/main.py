"""`coffer-api`: the HTTP service. Any number of replicas may run; none keeps anything that another needs."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
import time
from asyncio import TaskGroup
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import NamedTuple

import uvicorn
import uvloop
from starlette.types import ASGIApp

import coffer_datastores
from coffer_api.app import build
from coffer_api.asking import GuestQueries, NoGuests
from coffer_api.auth import HttpBasic, NoAuth, Strategy
from coffer_api.htpasswd import BadUserFile, UserFile
from coffer_api.keystone import KeystoneTokens, TokenMetrics
from coffer_api.keystone_service import Keystone, connect
from coffer_api.metrics import Metrics
from coffer_api.policy import BadPolicy, Policy
from coffer_api.reach import Guests, NoWakes, Reach, Wakes
from coffer_api.reads import Reads
from coffer_api.settings import Settings
from coffer_api.tenant_cloud import TenantCloud
from coffer_db.database import Database
from coffer_db.observe import Observer
from coffer_db.secrets import MasterPublicKey
from coffer_db.waiting import Waiter
from coffer_shared import identity, keyset, log, settings
from coffer_shared.bus import Link, tls_context
from coffer_shared.lifetime import until_signalled
from coffer_shared.seal import KeyPair
from coffer_shared.settings import BadSettings
from coffer_shared.wake import RECEIVER, Waker

NAME = "api"
_GRACE = 15
_BACKLOG = 2048
_POLICY_EVERY = 5.0
_log = log.get(__name__)


def main() -> None:
    try:
        chosen = settings.load(Settings)
        chosen.check()
        log.configure(NAME, chosen.log_level)
        uvloop.run(serve(chosen))
    except (BadSettings, BadUserFile, BadPolicy, OSError) as error:
        sys.exit(f"coffer-{NAME}: {error}")


async def serve(chosen: Settings) -> None:
    """Until SIGTERM or SIGINT; requests under way are finished first."""
    async with running(chosen):
        name = await until_signalled()
        _log.info("stopping", signal=name)


@contextlib.asynccontextmanager
async def running(chosen: Settings) -> AsyncIterator[tuple[str, int]]:
    """The whole service; gives the address on which it listens."""
    db = Database(chosen, name=f"coffer-{NAME}")
    observer = Observer(NAME, host=chosen.metrics_host, port=chosen.metrics_port, checks={"database": db.ready})
    metrics = Metrics(observer.registry)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(db.close)
        keystone = _keystone(chosen, stack) if chosen.auth_strategy == "keystone" else None
        strategy, policy = _strategy(chosen, metrics, keystone, stack), Policy(chosen.policy_file)
        listener = stack.enter_context(_listen(chosen.host, chosen.port))
        reach = await _reach(chosen, db, metrics, keystone, stack)
        await observer.start()
        stack.push_async_callback(observer.stop)
        server = _server(build(reach, strategy, policy, db.ready), chosen)
        async with TaskGroup() as tasks:
            watching = tasks.create_task(_watch(policy))
            tasks.create_task(server.serve([listener]))
            address: tuple[str, int] = listener.getsockname()[:2]
            _log.info("listening", address=address[0], port=address[1], authentication=chosen.auth_strategy)
            try:
                yield address
            finally:
                watching.cancel()
                server.should_exit = True


async def _watch(policy: Policy) -> None:
    """Take up changes of the policy file."""
    while True:
        await asyncio.sleep(_POLICY_EVERY)
        try:
            if await asyncio.to_thread(policy.refresh):
                _log.info("the policy changed")
        except (BadPolicy, OSError) as error:
            _log.error("the policy file is not usable; the earlier rules stay", reason=str(error))


class _Asked(NamedTuple):
    """Keystone, and the address that is told to callers."""

    service: Keystone
    address: str


def _keystone(chosen: Settings, stack: contextlib.AsyncExitStack) -> _Asked:
    service, address = connect(chosen.keystone_clouds, chosen.keystone_cloud, chosen.keystone_timeout)
    stack.callback(service.close)
    return _Asked(service, chosen.keystone_uri or address)


def _strategy(
    chosen: Settings, metrics: Metrics, keystone: _Asked | None, stack: contextlib.AsyncExitStack,
) -> Strategy:
    if keystone is not None:
        tokens = KeystoneTokens(
            keystone.service, TokenMetrics(metrics.registry), uri=keystone.address,
            remember=chosen.keystone_remember, poll=chosen.keystone_poll,
        )
        tokens.start()
        stack.push_async_callback(tokens.close)
        return tokens
    if chosen.auth_strategy == "noauth":
        return NoAuth()
    path = Path(chosen.htpasswd) if chosen.htpasswd else Path(chosen.state_dir) / "htpasswd"
    strategy = HttpBasic(UserFile(path), metrics)
    stack.callback(strategy.close)
    return strategy


async def _reach(
    chosen: Settings, db: Database, metrics: Metrics, keystone: _Asked | None, stack: contextlib.AsyncExitStack,
) -> Reach:
    reads, waiter = Reads(db, chosen.database_pool), Waiter(db)
    master = MasterPublicKey(_key(Path(chosen.state_dir) / "master.pub"))
    await waiter.start()
    stack.push_async_callback(waiter.stop)
    guests: Guests = NoGuests()
    wakes: Wakes = NoWakes()
    if chosen.nats_urls:
        guests, wakes = await _connect(chosen, reads, metrics, stack)
    tenants = None
    if keystone is not None:
        tenants = TenantCloud(
            keystone.service, interface=chosen.cloud_interface, region=chosen.region, seconds=chosen.cloud_timeout,
        )
        stack.push_async_callback(tenants.close)
    return Reach(
        settings=chosen, db=db, reads=reads, guests=guests, wakes=wakes, waiter=waiter, master=master,
        specs=coffer_datastores.specs(), metrics=metrics, tenants=tenants,
    )


async def _connect(
    chosen: Settings, reads: Reads, metrics: Metrics, stack: contextlib.AsyncExitStack,
) -> tuple[Guests, Wakes]:
    state = Path(chosen.state_dir)
    keys = KeyPair.from_private(_key(state / "key"))
    try:
        trusted = keyset.verify((state / "keyset").read_text().strip(), (state / "root.pub").read_text().strip())
    except ValueError as error:
        raise BadSettings(f"{state / 'keyset'}: {error}") from None
    provisioner = trusted.of(RECEIVER, time.time())
    if provisioner is None:
        raise BadSettings(f"{state / 'keyset'}: no valid key of the provisioner")
    tls = tls_context((state / "ca.pem").read_text())
    links = []
    for file in ("guests.creds", "control.creds"):
        # The file is read anew at every connection, so that a renewed one is taken up.
        link = Link(
            chosen.nats_urls, lambda file=file: identity.load(state / file), name=NAME, tls=tls,  # type: ignore[misc]
            inbox=f"_INBOX.{NAME}", max_payload=1 << 20,
        )
        await link.start()
        stack.push_async_callback(link.close)
        links.append(link)
    guests, control = links
    metrics.nats_connected.set_function(lambda: float(guests.connected and control.connected))
    return (
        GuestQueries(guests, keys, reads, metrics, within=chosen.guest_wait), Waker(control, keys, provisioner.raw),
    )


def _key(path: Path) -> bytes:
    try:
        found = bytes.fromhex(path.read_text().strip())
    except ValueError:
        found = b""
    if len(found) != 32:
        raise BadSettings(f"{path} does not hold a key of 32 bytes in hex")
    return found


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    # Connections inherit it. An answer is written in two pieces, and asyncio's own loop would let the second wait for
    # the acknowledgement of the first, which takes 40 ms.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


class _Server(uvicorn.Server):
    """Leaves signals to the process."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _server(app: ASGIApp, chosen: Settings) -> uvicorn.Server:
    return _Server(uvicorn.Config(
        app, http="httptools", loop="none", ws="none", lifespan="off", log_config=None, access_log=False,
        server_header=False, timeout_graceful_shutdown=_GRACE, timeout_keep_alive=75,
        proxy_headers=bool(chosen.trusted_proxies), forwarded_allow_ips=list(chosen.trusted_proxies),
    ))
