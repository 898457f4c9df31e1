"""What Docker is asked to make of a spec."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from coffer_guest import oneshot
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


# --- those of one operation ---

READER = replace(SPEC, command=(), gid=999, binds=(("/state/run", "/var/run/x", "ro"),), shm_bytes=0)


def one_shot() -> dict[str, Any]:
    return oneshot.configuration(READER, role="backup", operation="op-1", job=Path("/run/coffer/jobs/op-1"))


def test_a_one_shot_container_is_hardened_as_well_and_in_the_storage_group() -> None:
    config, engine = one_shot(), configuration(SPEC, memory_bytes=512 * MIB)["HostConfig"]
    assert config["User"] == "999:998"
    for name in ("NetworkMode", "ReadonlyRootfs", "CapDrop", "SecurityOpt"):
        assert config["HostConfig"][name] == engine[name]
    assert "CapAdd" not in config["HostConfig"]
    assert config["Labels"] == {"coffer.role": "backup", "coffer.operation": "op-1"}


def test_it_takes_little_yields_to_the_engine_and_says_nothing() -> None:
    host = one_shot()["HostConfig"]
    assert host["Memory"] == host["MemorySwap"] == 256 * MIB
    assert (host["CpuShares"], host["PidsLimit"], host["OomScoreAdj"]) == (256, 64, 500)
    assert host["RestartPolicy"] == {"Name": "no"}
    assert host["LogConfig"] == {"Type": "none"}
    assert "/tmp" in host["Tmpfs"]


def test_its_job_is_read_only_but_for_what_it_says() -> None:
    mounts = [(m["Source"], m["Target"], m["ReadOnly"]) for m in one_shot()["HostConfig"]["Mounts"]]
    assert mounts == [
        ("/state/run", "/var/run/x", True),
        ("/run/coffer/jobs/op-1", "/job", True),
        ("/run/coffer/jobs/op-1/out", "/job/out", False),
    ]
