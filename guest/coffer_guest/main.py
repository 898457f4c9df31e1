"""Entry point of the agent: `coffer-guest`."""

from __future__ import annotations

import asyncio
import os
import signal

from coffer_guest import agent
from coffer_guest.containers import Containers
from coffer_guest.firewall import Firewall, Site
from coffer_guest.machine import Machine
from coffer_guest.options import Options
from coffer_guest.state import State
from coffer_guest.volume import Volume
from coffer_shared import log, settings
from coffer_shared.bus import Backoff


def main() -> None:
    os.umask(0o077)
    options = settings.load(Options)
    log.configure("guest", options.log_level)
    asyncio.run(_main(options))


async def _main(options: Options) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stop.set)
    await agent.run(options, make_machine, stop, Backoff())


def make_machine(options: Options, state: State) -> Machine:
    containers = Containers(
        options.docker_socket, username=options.registry_username, password=options.registry_password
    )
    return Machine(options, state, containers, Volume(options), Firewall(_site(options)))


def _site(options: Options) -> Site:
    return Site(
        gateway_forwards=options.gateway_forwards,
        leases=options.leases,
        resolver=options.resolver,
        management_macs=tuple(options.management_macs),
        ssh=tuple(options.ssh_cidrs),
    )


if __name__ == "__main__":
    main()
