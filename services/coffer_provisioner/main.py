"""`coffer-provisioner`: claims operations and runs their plans; the only door to the cloud and to guests' identities.

Any number of replicas may run: operations are leased, requests of guests go to one of them, and the keeper's rounds
hold a lock.
"""

from __future__ import annotations

import asyncio
import socket
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import msgspec
import uvloop

import coffer_datastores
from coffer_db import operations
from coffer_db.database import Database, DatabaseSettings
from coffer_db.observe import Levels, Observer, Tallies
from coffer_db.secrets import MasterKey
from coffer_provisioner.backup_grants import BackupGrants
from coffer_provisioner.backup_records import PostgresBackups
from coffer_provisioner.cloud.docker import DockerCloud, DockerSettings
from coffer_provisioner.cloud.interface import Cloud
from coffer_provisioner.endings import ending
from coffer_provisioner.freezes import Freezes
from coffer_provisioner.guest_link import GuestLink
from coffer_provisioner.guest_requests import GuestRequests
from coffer_provisioner.identities import Installation, MachineIdentities
from coffer_provisioner.issuer import BOOT_LIFETIME, GUEST_LIFETIME, Issuer
from coffer_provisioner.loop import Loop
from coffer_provisioner.plans import PLANS, patient
from coffer_provisioner.reach import Reach
from coffer_provisioner.records import PostgresRecords
from coffer_provisioner.rounds import Rounds
from coffer_provisioner.storage import configured
from coffer_shared import identity, keyset, log, settings, subjects
from coffer_shared.bus import Delivery, Link, tls_context
from coffer_shared.lifetime import until_signalled
from coffer_shared.nkeys import NKey
from coffer_shared.seal import KeyPair
from coffer_shared.wake import receive_wakes

NAME = "provisioner"


class ProvisionerSettings(DatabaseSettings, frozen=True, kw_only=True):
    state_dir: str
    nats_urls: tuple[str, ...]
    stack: str = "coffer"
    cloud: Literal["docker", "openstack"] = "docker"
    """With `openstack`, the driver has settings of its own (`cloud.openstack_labels.OpenStackSettings`)."""
    registry: str
    """host:port at which guests reach the registry."""
    management_network: str = ""
    """As the five below, for `docker`: the Docker network of guests."""
    seed_volume: str = ""
    machine_image: str = "coffer/machine"
    services_image: str = "coffer/services"
    tenant_pool: str = "10.213.0.0/16"
    public_pool: str = "127.0.13.0/24"
    guest_life: int = GUEST_LIFETIME
    boot_life: int = BOOT_LIFETIME
    concurrency: int = 16
    lease_seconds: float = 30.0
    round_seconds: float = 15.0
    patience: settings.Patience = 1.0
    """Every operation and step is given so many times longer: for a cloud that is slower than most. As the API's."""
    metrics_port: int = 9101
    log_level: str = "info"


def main() -> None:
    chosen = settings.load(ProvisionerSettings)
    log.configure(NAME, chosen.log_level)
    uvloop.run(serve(chosen))


async def serve(chosen: ProvisionerSettings) -> None:
    state = Path(chosen.state_dir)
    db = Database(chosen, name=f"coffer-{NAME}")
    keys = KeyPair.from_private(bytes.fromhex((state / "key").read_text()))
    signed = (state / "keyset").read_text()
    root = (state / "root.pub").read_text()
    tls = tls_context((state / "ca.pem").read_text())
    guests, control = (
        Link(
            chosen.nats_urls, lambda file=file: identity.load(state / file), name=NAME, tls=tls,  # type: ignore[misc]
            inbox=f"_INBOX.{NAME}", max_payload=1 << 20,
        )
        for file in ("guests.creds", "control.creds")
    )
    life = timedelta(seconds=chosen.guest_life)
    ports = {name: spec.port for name, spec in coffer_datastores.specs().items()}
    records = PostgresRecords(db, ports, jwt_life=life, patience=chosen.patience)
    issuer = _issuer(state, chosen)
    cloud = cloud_of(chosen)
    told = msgspec.json.decode((state / "installation.json").read_bytes())
    installation = Installation(
        nats_urls=tuple(told["nats_urls"]), ca=(state / "ca.pem").read_text(), root=root, keyset=signed,
        renewal_url=told["renewal_url"],
    )
    master = MasterKey(bytes.fromhex((state / "master.key").read_text()))
    backups = PostgresBackups(db, master, patience=chosen.patience)
    storages = configured.storages(state / "storage.json")
    reach = Reach(
        cloud=cloud,
        guests=GuestLink(guests, keys, records),
        records=records,
        identities=MachineIdentities(issuer, records, installation, key=keys.private),
        backups=backups,
        storages=storages,
        registry=chosen.registry,
        patience=chosen.patience,
    )
    loop = Loop(
        db, patient(PLANS, chosen.patience), reach, master, ending=ending, worker=f"{NAME}-{socket.gethostname()}",
        concurrency=chosen.concurrency, lease=chosen.lease_seconds,
    )

    async def woken(instance: str) -> None:
        await operations.wake_instance(db, instance)
        loop.wake()

    requests = GuestRequests(
        keys, issuer, records, BackupGrants(backups, storages), Freezes(backups, woken), keyset=signed,
        guest_life=life, enrolled=woken,
    )
    await guests.subscribe(subjects.ENROLMENTS, "enrol", _answering(requests.on_enrol))
    await guests.subscribe(subjects.REQUESTS, "req", _answering(requests.on_request))
    await receive_wakes(control, keys, keyset.verify(signed, root), lambda _instance: loop.wake())
    rounds = Rounds(db, cloud, every=chosen.round_seconds, filed=loop.wake, patience=chosen.patience)
    observer = Observer(
        NAME, port=chosen.metrics_port,
        checks={"database": db.ready, "guests": _up(guests), "control": _up(control)},
        collectors=(
            Levels("coffer_operations_turning", "Operations being turned here", (), lambda: {(): loop.busy}),
            Levels("coffer_cloud_unknown_resources", "Tagged resources of operations that the database lacks", (),
                   lambda: {(): rounds.unknown}),
            Tallies("coffer_keeper", "What the keeper's rounds did", ("what",),
                    lambda: {(what,): n for what, n in rounds.counts.items()}),
            Tallies("coffer_guest_requests_refused", "Requests of guests that got no answer", ("reason",),
                    lambda: {(reason,): n for reason, n in requests.refused.items()}),
        ),
    )
    for link in (guests, control):
        await link.start()
    await observer.start()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(loop.run())
        going_round = tasks.create_task(rounds.run())
        await until_signalled()
        loop.stop()
        going_round.cancel()
    for link in (guests, control):
        await link.close()
    await observer.stop()
    await cloud.close()
    for storage in storages.values():
        await storage.close()
    await db.close()


def _answering(handle: Any) -> Any:
    async def receive(message: Delivery) -> None:
        answer = await handle(message.subject, message.data, message.reply)
        if answer is not None:
            await message.answer(answer)

    return receive


def _issuer(state: Path, chosen: ProvisionerSettings) -> Issuer:
    accounts = msgspec.json.decode((state / "accounts.json").read_bytes())
    return Issuer(
        NKey.from_seed((state / "guest-signing.seed").read_text()),
        NKey.from_seed((state / "boot-signing.seed").read_text()),
        accounts["GUESTS"]["public"],
        guest_lifetime=chosen.guest_life,
        boot_lifetime=int(chosen.boot_life * chosen.patience),
    )


def cloud_of(chosen: ProvisionerSettings) -> Cloud:
    """BadSettings where what its driver is told cannot be."""
    if chosen.cloud == "openstack":
        from coffer_provisioner.cloud.openstack import OpenStackCloud, OpenStackSettings  # noqa: PLC0415 - if it is used

        given = settings.load(OpenStackSettings, prefix="COFFER_OPENSTACK_")
        if given.dns_domain:
            raise settings.BadSettings("COFFER_OPENSTACK_DNS_DOMAIN is set: no names are made in Designate; unset it")
        return OpenStackCloud(msgspec.structs.replace(given, stack=chosen.stack, registry=chosen.registry))
    if not chosen.management_network:
        raise settings.BadSettings("COFFER_MANAGEMENT_NETWORK is not set: the docker driver needs it")
    return DockerCloud(_docker(chosen))


def _docker(chosen: ProvisionerSettings) -> DockerSettings:
    return DockerSettings(
        stack=chosen.stack,
        machine_image=chosen.machine_image,
        services_image=chosen.services_image,
        management_network=chosen.management_network,
        registry=chosen.registry,
        seed_volume=chosen.seed_volume or None,
        tenant_pool=chosen.tenant_pool,
        public_pool=chosen.public_pool,
    )


def _up(link: Link) -> Any:
    async def check() -> bool:
        return link.connected

    return check
