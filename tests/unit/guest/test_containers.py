"""What Docker is asked to make of a spec."""

from __future__ import annotations

from dataclasses import replace

import pytest

from coffer_guest.containers import configuration, engine_memory
from coffer_shared.datastore import ContainerSpec

MIB = 1 << 20
SPEC = ContainerSpec(
    image="registry/x@sha256:0",
    command=("-c", "x"),
    environment={"B": "2", "A": "1"},
    binds=(("/data/engine", "/var/lib/x", "rw"), ("/state/config", "/etc/x", "ro")),
    tmpfs=("/tmp",),
    uid=999,
    gid=998,
    stop_signal="SIGINT",
    stop_seconds=60,
    shm_bytes=MIB,
)


def test_every_container_is_hardened() -> None:
    config = configuration(SPEC, memory_bytes=512 * MIB)
    host = config["HostConfig"]
    assert config["User"] == "999:998"
    assert host["NetworkMode"] == "host"
    assert host["ReadonlyRootfs"] is True
    assert host["CapDrop"] == ["ALL"]
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert host["LogConfig"]["Config"] == {"max-size": "10m", "max-file": "3"}
    assert "noexec" in host["Tmpfs"]["/tmp"]
    assert "CapAdd" not in host


def test_a_missing_directory_is_never_made_for_it() -> None:
    host = configuration(SPEC, memory_bytes=512 * MIB)["HostConfig"]
    assert "Binds" not in host
    assert [(mount["Type"], mount["Source"], mount["ReadOnly"]) for mount in host["Mounts"]] == [
        ("bind", "/data/engine", False),
        ("bind", "/state/config", True),
    ]


@pytest.mark.parametrize("flavor", [256, 512, 1024, 8192])
def test_it_gets_the_flavors_memory_less_what_the_agent_needs(flavor: int) -> None:
    assert flavor // 2 <= engine_memory(flavor * MIB) // MIB <= flavor - 96
    host = configuration(SPEC, memory_bytes=flavor * MIB)["HostConfig"]
    assert host["Memory"] == host["MemorySwap"] == engine_memory(flavor * MIB)


def test_another_spec_has_another_label_and_the_same_one_the_same() -> None:
    def label(spec: ContainerSpec, memory: int = 512) -> str:
        found: str = configuration(spec, memory_bytes=memory * MIB)["Labels"]["coffer.spec"]
        return found

    assert label(SPEC) == label(replace(SPEC, environment={"A": "1", "B": "2"}))
    assert len({label(SPEC), label(SPEC, 1024), label(replace(SPEC, image="y"))}) == 3
