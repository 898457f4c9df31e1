"""The life of an instance through the API, and what is really under it."""

from __future__ import annotations

import json
import re
import secrets

from support.stack import Api, Stack, address, eventually, psql, run


def test_a_tenant_reaches_the_database_on_both_addresses(shop):
    for host in (shop.public, shop.private):
        assert psql(host, "app", shop.password, "shop", "SELECT session_user") == "app"


def test_a_wrong_password_opens_nothing(shop):
    assert psql(shop.public, "app", "wrong", "shop", "SELECT 1", check=False) == ""
    assert psql(shop.public, "postgres", "wrong", "postgres", "SELECT 1", check=False) == ""


def test_list_detail_and_show_agree(api, shop):
    listed = {i["id"]: i for i in api("GET", "/instances").must(200)["instances"]}
    detailed = {i["id"]: i for i in api("GET", "/instances/detail").must(200)["instances"]}
    shown = api.instance(shop.id)
    assert listed[shop.id]["name"] == detailed[shop.id]["name"] == shown["name"] == "shop"
    assert shown["datastore"] == {"type": "postgresql", "version": "17", "version_number": "17"}
    assert shown["volume"]["size"] == 1
    assert {a["type"] for a in shown["addresses"]} == {"private", "public"}


def test_another_project_sees_none_of_it(other, api, shop):
    assert other("GET", f"/instances/{shop.id}").status == 404
    assert other("DELETE", f"/instances/{shop.id}").status == 404
    assert shop.id not in json.dumps(other("GET", "/instances").must(200))
    foreign = Api(api.endpoint, other.user, other.password)
    assert foreign("GET", "/instances").status == 403


def test_databases_users_grants_and_root(api, shop):
    base = f"/instances/{shop.id}"
    first, second = secrets.token_urlsafe(12), secrets.token_urlsafe(12)
    api("POST", f"{base}/databases", {"databases": [{"name": "archive"}]}).must(202)
    assert {d["name"] for d in api("GET", f"{base}/databases").must(200)["databases"]} == {"shop", "archive"}
    assert api("POST", f"{base}/databases", {"databases": [{"name": "archive"}]}).status == 400
    api("POST", f"{base}/users", {"users": [{"name": "clerk", "password": first}]}).must(202)
    assert api("POST", f"{base}/users", {"users": [{"name": "clerk", "password": first}]}).status == 400
    assert psql(shop.private, "clerk", first, "archive", "SELECT 1", check=False) == ""
    api("PUT", f"{base}/users/clerk/databases", {"databases": [{"name": "archive"}]}).must(202)
    assert api("GET", f"{base}/users/clerk/databases").must(200) == {"databases": [{"name": "archive"}]}
    psql(shop.private, "clerk", first, "archive", "CREATE TABLE t (a int); INSERT INTO t VALUES (7)")
    assert psql(shop.private, "clerk", first, "archive", "SELECT a FROM t") == "7"
    api("PUT", f"{base}/users/clerk", {"user": {"password": second}}).must(202)
    assert psql(shop.private, "clerk", first, "archive", "SELECT 1", check=False) == ""
    assert psql(shop.private, "clerk", second, "archive", "SELECT a FROM t") == "7"
    api("DELETE", f"{base}/users/clerk/databases/archive").must(202)
    assert psql(shop.private, "clerk", second, "archive", "SELECT 1", check=False) == ""
    assert api("DELETE", f"{base}/users/clerk/databases/archive").status == 404
    api("DELETE", f"{base}/users/clerk").must(202)
    assert api("GET", f"{base}/users/clerk").status == 404
    api("DELETE", f"{base}/databases/archive").must(202)
    assert api("DELETE", f"{base}/databases/archive").status == 404


def test_root_is_enabled_shown_and_disabled(api, shop):
    base = f"/instances/{shop.id}/root"
    assert api("GET", base).must(200) == {"rootEnabled": False}
    given = api("POST", base).must(200)["user"]
    assert api("GET", base).must(200) == {"rootEnabled": True}
    assert psql(shop.private, given["name"], given["password"], "postgres", "SHOW is_superuser") == "on"
    assert api("DELETE", base).status == 204
    assert psql(shop.private, given["name"], given["password"], "postgres", "SELECT 1", check=False) == ""
    assert api("GET", base).must(200) == {"rootEnabled": False}


def test_rename_and_restart(api, shop):
    api("PUT", f"/instances/{shop.id}", {"instance": {"name": "shop-2"}}).must(202)
    assert api.instance(shop.id)["name"] == "shop-2"
    api("PATCH", f"/instances/{shop.id}", {"instance": {"name": "shop"}}).must(202)
    psql(shop.private, "app", shop.password, "shop", "CREATE TABLE kept AS SELECT generate_series(1, 1000) AS n")
    began = psql(shop.private, "app", shop.password, "shop", "SELECT pg_postmaster_start_time()")
    answer = api("POST", f"/instances/{shop.id}/action", {"restart": {}})
    answer.must(202)
    operation = answer.headers["x-coffer-operation"]
    assert api("POST", f"/instances/{shop.id}/action", {"restart": {}}).status == 422
    api.until_ready(shop.id)
    done = api("GET", f"/operations/{operation}").must(200)["operation"]
    assert (done["state"], done["progress"]) == ("succeeded", 100)
    assert psql(shop.private, "app", shop.password, "shop", "SELECT pg_postmaster_start_time()") != began
    assert psql(shop.private, "app", shop.password, "shop", "SELECT count(*) FROM kept") == "1000"


def test_the_data_volume_is_xfs_on_its_own_loop_device(stack: Stack, shop):
    known = stack.inside(shop.id, "xfs_info", "/data")
    assert re.search(r"meta-data=/dev/loop\d+", known)
    uuid = stack.inside(shop.id, "blkid", "-s", "UUID", "-o", "value", re.search(r"/dev/loop\d+", known)[0]).strip()
    assert uuid == stack.sql(f"SELECT fs_uuid FROM instances WHERE id = '{shop.id}'")


def test_limits_are_the_flavors(stack: Stack, shop):
    """Flavor 1: half a processor and 512 MB, as the machine's own control group has it."""
    script = (
        "if [ -e /sys/fs/cgroup/cpu.max ]; then cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/cpu.max; else "
        "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/cpu/cpu.cfs_quota_us "
        "/sys/fs/cgroup/cpu/cpu.cfs_period_us; fi"
    )
    memory, quota, period = (int(n) for n in stack.inside(shop.id, "sh", "-c", script).split())
    assert memory == 512 * 1024 * 1024
    assert quota / period == 0.5


def test_no_engine_container_is_visible_to_the_hosts_docker(stack: Stack, shop):
    own = stack.machine(shop.id)
    assert "coffer/machine" in run("docker", "inspect", "-f", "{{.Config.Image}}", own)
    processes = run("docker", "ps", "--no-trunc", "--format", "{{.Image}} {{.Command}} {{.Names}}")
    engines = [line for line in processes.splitlines() if "postgres" in line and "-postgres-1" not in line]
    assert engines == []
    assert "postgres" in stack.inside(shop.id, "docker", "ps", "--format", "{{.Image}}")


def test_the_machine_image_holds_no_engine_image(stack: Stack):
    """A machine's root file system as it comes out of the image, searched for engines' programs and image layers."""
    found = run(
        "docker", "run", "--rm", "--entrypoint", "sh", "coffer/machine", "-c",
        "find / -xdev \\( -name postgres -o -name mysqld -o -name mariadbd -o -name initdb \\) -type f; "
        "ls -A /var/lib/docker/image /var/lib/docker/overlay2 2>/dev/null; true",
    )
    assert found.strip() == ""


def test_the_guest_pulled_by_digest(stack: Stack, shop):
    digest = stack.sql("SELECT image_digest FROM datastore_versions WHERE name = '17'")
    assert digest.startswith("sha256:")
    log = stack.compose("logs", "--no-log-prefix", "registry-guests")
    assert f"/v2/coffer/postgres/manifests/{digest}" in log


def test_without_the_seed_every_layer_is_pulled(stack: Stack, api, monkeypatch):
    """The seed only lends layers: a machine made without it fetches the manifest by digest, and every blob."""
    monkeypatch.setenv("COFFER_SEED_VOLUME", "")
    stack.compose("up", "-d", "--wait", "provisioner")
    try:
        digest = stack.sql("SELECT image_digest FROM datastore_versions WHERE name = '17'")
        manifest, blob = f"GET /v2/coffer/postgres/manifests/{digest}", "GET /v2/coffer/postgres/blobs/sha256:"
        before = stack.compose("logs", "--no-log-prefix", "registry-guests")
        made = api.create("unseeded")
        api.until_ready(made)
        after = stack.compose("logs", "--no-log-prefix", "registry-guests")[len(before):]
        layers = json.loads(stack.inside(made, "docker", "image", "ls", "-q", "--no-trunc", "--format", "{{json .}}"))
        assert layers["Repository"].endswith("/coffer/postgres")
        assert manifest in after
        assert len(set(re.findall(re.escape(blob) + r"[0-9a-f]{64}", after))) >= 3
        api.delete(made)
    finally:
        monkeypatch.undo()
        stack.compose("up", "-d", "--wait", "provisioner")


def test_a_deleted_instance_leaves_nothing(stack: Stack, api):
    made = api.create("brief", access={"is_public": True})
    shown = api.until_ready(made)
    loop = re.search(r"/dev/(loop\d+)", stack.inside(made, "xfs_info", "/data"))[1]
    assert len(stack.leftovers(made, shared=False)) >= 4
    api.delete(made)
    assert stack.leftovers(made, shared=False) == []
    eventually(
        lambda: not run("sh", "-c", f"cat /sys/block/{loop}/loop/backing_file 2>/dev/null || true").strip(),
        within=10, what="the loop device is free",
    )
    assert psql(address(shown, "public"), "app", "x", "shop", "SELECT 1", check=False) == ""
    assert stack.sql(f"SELECT count(*) FROM guests WHERE instance_id = '{made}' AND revoked_at IS NULL") == "0"
    assert stack.sql(f"SELECT count(*) FROM operations WHERE instance_id = '{made}' AND secret_args IS NOT NULL") == "0"
