"""The container as it runs: hardened, well for the right reasons, restarted and stopped cleanly."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from coffer_guest.containers import Containers
from coffer_guest.health import Monitor
from coffer_guest.machine import make_data_directory
from coffer_shared.datastore import EngineError
from coffer_shared.messages import Engine, Failure
from contract.datastores.conftest import ignore, machine_with

pytestmark = pytest.mark.docker


def inspect(container: str) -> Any:
    done = subprocess.run(["docker", "inspect", container], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)[0]


def pid(container: str) -> int:
    return int(inspect(container)["State"]["Pid"])


def test_it_has_no_privileges(database: Any) -> None:
    shown = inspect(database.container)
    host = shown["HostConfig"]
    assert host["ReadonlyRootfs"]
    assert host["CapDrop"] == ["ALL"]
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert not host["Privileged"]
    assert host["RestartPolicy"]["Name"] == "unless-stopped"
    assert host["Memory"] == host["MemorySwap"] > 0
    assert not shown["Config"]["User"].startswith("0")
    lines = Path(f"/proc/{pid(database.container)}/status").read_text().splitlines()
    status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
    assert status["NoNewPrivs"] == "1"
    assert status["Uid"].split()[0] != "0"


def test_no_secret_is_in_its_environment_or_arguments(database: Any) -> None:
    config = inspect(database.container)["Config"]
    words = " ".join(config["Env"] + (config["Cmd"] or [])).lower()
    assert "password=" not in words
    assert "trust" not in words


async def test_health_tells_the_version_and_metrics(database: Any) -> None:
    async with database.session() as session:
        health = await database.driver.health(session)
    assert health.ok
    assert health.version.startswith(database.spec.default_version)
    assert all(isinstance(value, float) for value in health.metrics.values())
    assert len(health.metrics) >= 5


async def test_while_its_first_start_goes_on_it_is_not_healthy(
    database: Any, elsewhere: tuple[Path, str, int]
) -> None:
    """Images start a server for themselves first, which answers on the socket as well."""
    directory, container, port = elsewhere
    name, ok = database.spec.name, False
    async with machine_with(name, directory, container=container, port=port) as machine, asyncio.timeout(60):
        make_data_directory(machine.order, machine.spec)
        await machine.start_engine(ignore)
        while not ok:
            with suppress(EngineError):
                async with machine.session() as session:
                    ok = (await machine.driver.health(session)).ok
            await asyncio.sleep(0.01)
        for address in machine.order.listen:
            _, writer = await asyncio.open_connection(address, port)
            writer.close()
        logs = subprocess.run(["docker", "logs", container], capture_output=True, text=True, check=True)
    assert "ready; starting the server" in logs.stdout


async def test_after_first_start_may_be_repeated(database: Any) -> None:
    async with database.session() as session:
        await database.driver.after_first_start(session)


async def test_a_session_that_cannot_be_had_is_an_engine_error(database: Any) -> None:
    from dataclasses import replace

    with pytest.raises(EngineError) as failure:
        async with database.driver.session(replace(database.order, run="/nonexistent")):
            pass
    assert failure.value.code == Failure.NOT_READY


async def test_a_statement_error_is_an_engine_error_with_the_engines_words(database: Any) -> None:
    async with database.session() as session:
        with pytest.raises(EngineError) as failure:
            await session.execute("SELEC 1")
    assert "SELEC" in failure.value.text


async def test_a_frozen_engine_becomes_unhealthy_and_recovers(database: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coffer_guest.health._QUERY_SECONDS", 0.5)
    containers = Containers("/var/run/docker.sock", name=database.container)
    monitor = Monitor(containers, every=1)
    try:
        await monitor.watch(database.driver, database.order)
        assert (await monitor.check()).engine is Engine.HEALTHY
        processes = subprocess.run(
            ["docker", "top", database.container, "-o", "pid"], capture_output=True, text=True, check=True
        ).stdout.split()[1:]
        for process in processes:
            subprocess.run(["kill", f"-{signal.SIGSTOP.value}", process], check=False)
        try:
            await monitor.check()
            assert (await monitor.check()).engine is Engine.UNHEALTHY
            assert "no answer" in monitor.facts.detail
        finally:
            for process in reversed(processes):
                subprocess.run(["kill", f"-{signal.SIGCONT.value}", process], check=False)
        assert (await monitor.check()).engine is Engine.HEALTHY
    finally:
        await monitor.close()
        await containers.close()


async def test_a_killed_engine_is_seen_at_once_and_comes_back(database: Any) -> None:
    containers = Containers("/var/run/docker.sock", name=database.container)
    monitor = Monitor(containers, every=30)
    monitor.on_purpose = False
    seen: list[Engine] = []
    monitor.changed = lambda: seen.append(monitor.facts.engine)
    await monitor.watch(database.driver, database.order)
    loop = asyncio.create_task(monitor.run())
    try:
        async with asyncio.timeout(20):
            while monitor.facts.engine is not Engine.HEALTHY:
                await asyncio.sleep(0.02)
            started = monitor.facts.started_at
            subprocess.run(["kill", "-9", str(pid(database.container))], check=True)
            # No poll can have told: the next one would be half a minute away.
            while monitor.facts.started_at == started:
                await asyncio.sleep(0.02)
            while (await monitor.check()).engine is not Engine.HEALTHY:
                await asyncio.sleep(0.1)
        assert seen[0] is Engine.HEALTHY
        assert seen[-1] is Engine.HEALTHY
        assert len(seen) > 2
    finally:
        loop.cancel()
        await asyncio.wait({loop})
        await monitor.close()
        await containers.close()


async def test_a_stop_is_clean_and_a_start_brings_it_back(database: Any) -> None:
    containers = Containers("/var/run/docker.sock", name=database.container)
    monitor = Monitor(containers, every=30)
    try:
        await containers.stop(database.driver.container(database.order).stop_seconds)
        assert (await containers.look()).exit_code == 0
        monitor.on_purpose = True
        await monitor.watch(database.driver, database.order)
        assert (await monitor.check()).engine is Engine.STOPPED
        await containers.start()
        async with asyncio.timeout(20):
            while (await monitor.check()).engine is not Engine.HEALTHY:
                await asyncio.sleep(0.1)
    finally:
        await monitor.close()
        await containers.close()
