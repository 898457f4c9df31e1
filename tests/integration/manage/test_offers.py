"""What an operator puts on offer with `coffer-manage`, and that migrating does not undo it."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pytest

import coffer_datastores
from integration.manage.conftest import EVERY, Run

if TYPE_CHECKING:
    from support.postgres import Server

DIGEST, OTHER = "sha256:" + "a" * 64, "sha256:" + "b" * 64


@pytest.fixture
def migrated(run: Run) -> None:
    run("migrate")


def table(text: str) -> list[dict[str, str]]:
    head, *lines = [line.split() for line in text.replace("IN USE", "IN-USE").splitlines()]
    return [dict(zip(head, line, strict=True)) for line in lines]


def record(run: Run, monkeypatch: pytest.MonkeyPatch, *pairs: str) -> str:
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(pairs) + "\n"))
    return run("register")


def test_a_release_offers_every_datastore(run: Run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(coffer_datastores, "specs", lambda: EVERY)
    run("migrate")
    offered = {(row["DATASTORE"], row["NUMBER"]): row for row in table(run("version list"))}
    assert offered.keys() == {(name, version) for name, spec in EVERY.items() for version in spec.versions}
    for name, spec in EVERY.items():
        row = offered[name, spec.default_version]
        assert (row["IMAGE"], row["DEFAULT"]) == (f"{spec.image}:{spec.default_version}", "yes")
        assert run(f"parameters list {name} {spec.default_version}").count("\n") > 100


def test_a_release_offers_what_its_datastores_say(run: Run, migrated: None, monkeypatch: pytest.MonkeyPatch):
    (datastore,) = table(run("datastore list"))
    assert (datastore["NAME"], datastore["DEFAULT"], datastore["VERSIONS"]) == ("postgresql", "17/17", "1")
    (version,) = table(run("version list"))
    assert version | {"ID": ""} == {
        "DATASTORE": "postgresql", "NAME": "17", "NUMBER": "17", "MANAGER": "postgresql", "ACTIVE": "yes",
        "DEFAULT": "yes", "IMAGE": "coffer/postgres:17", "DIGEST": "-", "BACKUP-IMAGE": "coffer/postgres-backup:17",
        "BACKUP-DIGEST": "-", "ID": "",
    }
    said = record(run, monkeypatch, f"coffer/postgres:17 {DIGEST}", f"coffer/postgres-backup:17 {OTHER}")
    assert said.splitlines()[0] == f"coffer/postgres:17 is pulled as {DIGEST[:19]}..."
    run("migrate")
    (version,) = table(run("version list postgresql"))
    assert (version["DIGEST"], version["BACKUP-DIGEST"]) == (DIGEST[:19], OTHER[:19])


def test_migrating_keeps_what_an_administrator_changed(run: Run, migrated: None, monkeypatch: pytest.MonkeyPatch):
    run("version add postgresql gold --number 17 --default")
    run("version set postgresql/17 --no-active --name seventeen --image team/pg:17 --digest " + DIGEST)
    run("flavor delete 5")
    run("flavor add 9 huge --vcpus 8 --ram 16384")
    before = run("version list"), run("datastore list"), run("flavor list")
    run("migrate")
    record(run, monkeypatch, f"coffer/postgres:17 {OTHER}")
    versions = {v["NAME"]: v for v in table(run("version list"))}
    assert versions["gold"]["DIGEST"] == OTHER[:19]
    kept = versions["seventeen"]
    assert (kept["ACTIVE"], kept["IMAGE"], kept["DIGEST"]) == ("no", "team/pg:17", DIGEST[:19])
    assert (run("datastore list"), run("flavor list")) == before[1:]
    run("datastore set-default postgresql none")
    run("version delete postgresql/seventeen")
    run("migrate")
    assert [v["NAME"] for v in table(run("version list"))] == ["gold"]
    assert table(run("datastore list"))[0]["DEFAULT"] == "-"
    run("version delete postgresql/gold")
    run("datastore delete postgresql")
    run("migrate")
    assert table(run("datastore list")) == []
    run("version add postgresql 17")
    run("migrate")
    assert [v["NAME"] for v in table(run("version list"))] == ["17"]


def test_versions_are_added_and_changed(run: Run, fails: Run, migrated: None):
    said = run(f"version add silver one --manager postgresql --image team/pg@{DIGEST} --backup-image none --inactive")
    assert "has the id" in said
    assert "digest" not in said
    said = run("version add silver two --manager postgresql --number 18")
    assert said.splitlines()[1:] == [
        "No instance of it can be created: no digest of coffer/postgres:18 is recorded (version set --digest).",
        "No backup of it can be made: none of coffer/postgres-backup:18 is (version set --backup-digest).",
    ]
    one, two = table(run("version list silver"))
    assert (one["ACTIVE"], one["IMAGE"], one["DIGEST"], one["BACKUP-IMAGE"]) == (
        "no", f"team/pg@{DIGEST}", DIGEST[:19], "-",
    )
    assert (two["NUMBER"], two["IMAGE"], two["ACTIVE"]) == ("18", "coffer/postgres:18", "yes")
    said = run(f"version set silver/two --digest {OTHER} --backup-digest {OTHER} --default")
    assert said == "Version silver/two is changed.\n"
    assert {d["NAME"]: d["DEFAULT"] for d in table(run("datastore list"))}["silver"] == "two/18"
    run("version set silver/two --no-default --active")
    assert {d["NAME"]: d["DEFAULT"] for d in table(run("datastore list"))}["silver"] == "-"
    run("datastore set-default silver one")
    run(f"datastore set-default silver {two['ID']}")
    run("datastore set-default silver two/18")
    run("version add silver two --manager postgresql --number 19")
    assert "may be each of silver/two/18, silver/two/19; give one of these" in fails("version set silver/two --active")
    assert run("version delete silver/two/19") == "Version silver/two/19 is deleted.\n"
    run("datastore add bronze")
    assert "bronze has the id" in run("datastore add bronze")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("version add gold 1", "'gold' is no manager of this release; --manager takes postgresql"),
        ("version add gold 1 --manager postgresql --image nginx", "neither repository:tag nor repository@sha256"),
        ("version add gold 1 --manager postgresql --image a:b@sha256:1", "neither repository:tag nor"),
        ("version add gold 1 --manager postgresql --digest sha256:1", "--digest takes sha256: and 64"),
        ("version add gold 1 --manager postgresql --backup-digest x", "--backup-digest takes sha256: and 64"),
        ("version add gold a:b --manager postgresql", "'a:b' cannot be the tag of an image"),
        ("version add postgresql 17", "'17(17)' already exists"),
        ("version set postgresql/17", "nothing was given that is to change"),
        ("version set postgresql/17 --manager gold", "'gold' is no manager"),
        ("version set postgresql/18 --active", "'postgresql/18' cannot be found"),
        ("version delete nothing", "'nothing' cannot be found"),
        ("version list gold", "Datastore 'gold' cannot be found"),
        ("datastore delete gold", "Datastore 'gold' cannot be found"),
        ("datastore delete postgresql", "Datastore 'postgresql' has versions; delete them first"),
        ("datastore set-default gold 1", "Datastore 'gold' cannot be found"),
        ("datastore set-default postgresql 1", "'1' cannot be found"),
        ("version flavor add postgresql/17 77", "Flavor '77' cannot be found; 'flavor list' shows all ids"),
        ("version flavor remove postgresql/17 1", "is not tied to '1'"),
        ("version volume-type remove postgresql/17 fast", "is not tied to 'fast'"),
        ("flavor add 1 other --vcpus 1 --ram 512", "id 1 or the name other is there already"),
        ("flavor add 77 tiny --vcpus 1 --ram 512", "name tiny is there already"),
        ("flavor add 77 x --vcpus nan --ram 512", "--vcpus is above 0"),
        ("flavor add 77 x --vcpus 1 --ram 1", "--ram at least 256"),
        ("flavor add a/b x --vcpus 1 --ram 512", "cannot hold a slash"),
        ("flavor delete 77", "Flavor '77' cannot be found"),
        ("quota set p1 disks=1", "'disks' has no quota; there are instances, ram, volumes, backups"),
        ("quota set p1 instances=many", "'instances=many' needs a number of at least -1, or 'default'"),
        ("quota set p1 instances=-2", "needs a number of at least -1"),
        ("quota set p1 instances", "needs a number of at least -1"),
    ],
)
def test_what_cannot_be_is_said_and_changes_nothing(run: Run, fails: Run, migrated: None, line: str, says: str):
    before = [run(f"{what} list") for what in ("datastore", "version", "flavor")]
    said = fails(line)
    assert said.startswith(f"coffer-manage {line.split(maxsplit=1)[0]}: ")
    assert says in said
    assert [run(f"{what} list") for what in ("datastore", "version", "flavor")] == before
    assert {row["LIMIT"] for row in table(run("quota show p1"))} == {"default"}


def test_ties_are_made_and_undone(run: Run, fails: Run, migrated: None):
    assert run("version flavor list postgresql/17") == "Version postgresql/17 is not tied to any flavors.\n"
    assert run("version flavor add postgresql/17 2 1 2") == "Version postgresql/17 is tied to the flavors 1, 2.\n"
    assert "or versions are tied to it ('version flavor remove')" in fails("flavor delete 1")
    assert run("version flavor remove postgresql/17 1") == "Version postgresql/17 is tied to the flavors 2.\n"
    assert run("flavor delete 1") == "Flavor 1 is deleted.\n"
    assert run("version volume-type add postgresql/17 fast") == (
        "Version postgresql/17 is tied to the volume types fast.\n"
    )
    run("version volume-type remove postgresql/17 fast")
    assert run("version volume-type list postgresql/17") == "Version postgresql/17 is not tied to any volume types.\n"


def test_what_an_instance_has_cannot_be_deleted(
    run: Run, fails: Run, migrated: None, postgres: Server, empty_database: str,
):
    postgres.run(
        "INSERT INTO instances (id, project_id, user_id, name, flavor_id, datastore_version_id, volume_gib, fs_uuid, "
        "formatted, started_once, region, is_public, failed) "
        "SELECT 'i', 'p1', '', 'one', '5', id, 3, 'f', false, false, 'R', false, false FROM datastore_versions",
        empty_database,
    )
    assert "cannot be deleted: used by 1 instance" in fails("version delete postgresql/17")
    assert "Flavor '5' is in use: instances have it" in fails("flavor delete 5")
    assert [tuple(row.values()) for row in table(run("quota show p1"))] == [
        ("instances", "1", "0", "default"), ("ram", "8192", "0", "default"), ("volumes", "3", "0", "default"),
        ("backups", "0", "0", "default"),
    ]
    postgres.run("UPDATE instances SET deleted_at = now()", empty_database)
    run("flavor delete 5")
    run("version delete postgresql/17")


def test_quotas_are_set_and_given_back(run: Run, migrated: None):
    def limits(text: str) -> list[str]:
        return [row["LIMIT"] for row in table(text)]

    assert limits(run("quota set p1 instances=3 ram=-1")) == ["3", "none", "default", "default"]
    assert limits(run("quota set p1 instances=default volumes=7")) == ["default", "none", "7", "default"]
    assert limits(run("quota show p2")) == ["default"] * 4
