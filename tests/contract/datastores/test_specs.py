"""What every datastore folder must hold, without running anything."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import coffer_datastores
from coffer_shared.datastore import FACETS, Feature, HasBackup, Order

NAMES = sorted(coffer_datastores.specs())


def order(name: str) -> Order:
    spec = coffer_datastores.specs()[name]
    return Order(
        instance="00000000-0000-0000-0000-000000000001",
        image="registry:5000/x@sha256:" + "0" * 64,
        data="/data/engine",
        run="/run/x",
        config="/etc/x",
        listen=("10.0.0.5",),
        port=spec.port,
        memory_bytes=2 << 30,
        vcpus=2,
        volume_bytes=8 << 30,
    )


@pytest.mark.parametrize("name", NAMES)
def test_the_folder_is_the_name(name: str) -> None:
    assert coffer_datastores.specs()[name].name == name
    assert coffer_datastores.driver(name).name == name


@pytest.mark.parametrize("name", NAMES)
def test_the_driver_has_exactly_the_claimed_features(name: str) -> None:
    driver = coffer_datastores.driver(name)
    able = {feature for feature in Feature if isinstance(driver, FACETS[feature])}
    assert able == coffer_datastores.specs()[name].features


@pytest.mark.parametrize("name", NAMES)
def test_the_default_version_is_one_of_the_versions(name: str) -> None:
    spec = coffer_datastores.specs()[name]
    assert spec.default_version in spec.versions


@pytest.mark.parametrize("name", NAMES)
def test_the_root_user_is_reserved_and_so_are_the_servers_own_names(name: str) -> None:
    spec = coffer_datastores.specs()[name]
    assert spec.root_user in spec.reserved_users
    assert spec.reserved_databases


@pytest.mark.parametrize("name", NAMES)
def test_the_container_is_a_pure_value_without_secrets_and_writes_only_where_it_may(name: str) -> None:
    driver, wanted = coffer_datastores.driver(name), order(name)
    spec = driver.container(wanted)
    assert spec == driver.container(wanted)
    assert spec.uid != 0
    assert spec.gid != 0
    writable = {source for source, _, mode in spec.binds if mode == "rw"}
    assert writable == {wanted.data, wanted.run}
    assert (wanted.config, "ro") in {(source, mode) for source, _, mode in spec.binds}
    assert all(str(Path(file.path).parent) == wanted.config for file in spec.files)
    assert not [key for key in spec.environment if key.upper().endswith("PASSWORD")]


@pytest.mark.parametrize("name", NAMES)
def test_its_images_are_among_those_that_are_built(name: str) -> None:
    spec = coffer_datastores.specs()[name]
    script = Path(__file__).parents[3] / "deploy/images/build.sh"
    built = subprocess.run([str(script), "--engines"], capture_output=True, text=True, check=True).stdout.split()
    wanted = {f"{image}:{version}" for version in spec.versions for image in (spec.image, spec.backup_image) if image}
    assert wanted <= set(built)


def able(feature: Feature) -> list[str]:
    return [name for name in NAMES if feature in coffer_datastores.specs()[name].features]


@pytest.mark.parametrize("name", able(Feature.BACKUP))
def test_the_containers_of_backups_are_pure_values_without_secrets_and_write_only_what_is_restored(name: str) -> None:
    driver, wanted = coffer_datastores.driver(name), order(name)
    assert isinstance(driver, HasBackup)
    target = "/data/restoring"
    reads, fills = driver.backup_container(wanted, "b@sha256:1"), driver.restore_container(wanted, "b@sha256:1", target)
    assert reads == driver.backup_container(wanted, "b@sha256:1")
    assert fills == driver.restore_container(wanted, "b@sha256:1", target)
    for spec in (reads, fills):
        assert spec.image == "b@sha256:1"
        assert spec.command == ()
        assert spec.uid == driver.container(wanted).uid
        assert spec.files == ()
        assert spec.stop_seconds <= 10
        assert not [key for key in spec.environment if key.upper().endswith("PASSWORD")]
    assert {mode for _, _, mode in reads.binds} == {"ro"}
    assert fills.binds == ((target, target, "rw"),)


@pytest.mark.parametrize("name", able(Feature.BACKUP))
def test_the_tool_of_the_container_is_beside_the_driver_and_needs_nothing_of_it(name: str) -> None:
    module = f"coffer_datastores.{name}.tool"
    code = (
        f"import sys, {module}; print([m for m in sys.modules if m.endswith('.driver') or "
        "m.split('.')[0] in ('asyncpg', 'aiomysql', 'aiodocker', 'nats')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_reading_the_specs_imports_no_driver_and_no_client() -> None:
    code = (
        "import sys, coffer_datastores; coffer_datastores.specs(); "
        "clients = ('asyncpg', 'aiomysql', 'aiodocker', 'nats'); "
        "print([m for m in sys.modules if m.endswith('.driver') or m.split('.')[0] in clients])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_unknown_datastore_has_no_driver() -> None:
    with pytest.raises(KeyError):
        coffer_datastores.driver("nothing")
