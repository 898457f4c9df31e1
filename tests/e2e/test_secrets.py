"""Every secret of a life is looked for in every place that people and other processes can read."""

from __future__ import annotations

import base64
import json
import os
import re
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from coffer_db.secrets import MasterKey, ProjectKey
from support.stack import Stack, eventually, run
from support.store import Store


def test_no_secret_is_found_anywhere(stack: Stack, api):
    known = dict(_installation(stack))
    first, second, third, root = (secrets.token_urlsafe(24) for _ in range(4))
    made = api.create(
        "keeper", databases=[{"name": "vault"}],
        users=[{"name": "one", "password": first, "databases": [{"name": "vault"}]}],
    )
    api.until_ready(made)
    base = f"/instances/{made}"
    api("POST", f"{base}/users", {"users": [{"name": "two", "password": second}]}).must(202)
    api("PUT", f"{base}/users", {"users": [{"name": "two", "password": third}]}).must(202)
    api("POST", f"{base}/root", {"password": root}).must(200)
    generated = api("POST", f"{base}/root").must(200)["user"]["password"]
    known |= {"first": first, "second": second, "third": third, "root": root, "generated": generated}
    store = Store.of(stack)
    with store.paused_for_guests():
        backup = api("POST", "/backups", {"backup": {"name": "sealed", "instance": made}}).must(202)["backup"]["id"]
        grant = json.loads(eventually(
            lambda: stack.inside(made, "sh", "-c", "cat /run/coffer/jobs/*/grant.json", check=False), within=60,
            what="the backup runs",
        ))
        known["grant"] = re.search(r"temp_url_sig=([0-9a-f]+)", grant["query"])[1]
        known |= _keys_of_backup(stack, backup)
        places = {**_logs(stack, made), **_inspections(stack, made), **_processes(), **_database(stack), **_shown(api)}
    eventually(
        lambda: api("GET", f"/backups/{backup}").must(200)["backup"]["status"] == "COMPLETED", within=120,
        what="the backup is complete",
    )
    places["what is stored"] = "".join(
        store.read("demo", "database_backups", name).decode("latin-1")
        for name in store.names("demo", "database_backups", f"{made}/{backup}/")
    )
    api("DELETE", f"/backups/{backup}").must(202)
    api.delete(made)
    places |= {f"{k} after": v for k, v in {**_logs(stack, None), **_database(stack)}.items()}
    assert len(known) > 20
    assert sum(len(text) for text in places.values()) > 100_000
    found = [f"{name} in {place}" for place, text in places.items() for name, value in known.items()
             for form in _forms(value) if form in text]
    assert found == []


def test_the_search_would_find_one(stack: Stack):
    """The same places, searched for what must be there: the search is not blind."""
    places = {**_logs(stack, None), **_processes(), **_database(stack)}
    assert any("coffer_provisioner" in text or "provisioner" in text for text in places.values())
    assert "coffer/postgres" in places["database"]
    assert any("dockerd" in text for place, text in places.items() if place.startswith("process"))


def test_user_data_is_gone_after_enrolment(stack: Stack, shop):
    assert stack.inside(shop.id, "sh", "-c", "ls /etc/coffer/user-data.json 2>/dev/null || true").strip() == ""


def test_the_agents_own_keys_are_readable_by_root_only(stack: Stack, shop):
    modes = stack.inside(shop.id, "sh", "-c", "stat -c '%a %U %F %n' /var/lib/coffer /var/lib/coffer/*")
    for line in modes.splitlines():
        mode, owner, *_ = line.split(" ")
        assert owner == "root", line
        assert int(mode, 8) & 0o077 == 0, line


def _installation(stack: Stack) -> Iterator[tuple[str, str]]:
    """Every secret that the first start made."""
    text = run(
        "docker", "run", "--rm", "-i", "--log-driver", "none", "--user", "0:0", "--network", "none",
        "-v", f"{stack.name}_state-operator:/state:ro", "coffer/services", "cat", "/state/foundation.json",
    )
    public = {"authority_cert"}

    def leaves(value: Any, name: str) -> Iterator[tuple[str, str]]:
        if isinstance(value, dict):
            for key, part in value.items():
                if key not in public:
                    yield from leaves(part, f"{name}.{key}")
        else:
            yield name, str(value).strip()

    yield from leaves(json.loads(text), "installation")


def _keys_of_backup(stack: Stack, backup: str) -> dict[str, str]:
    """The keys that are only wrapped in the database, opened as the provisioner opens them."""
    master = MasterKey(bytes.fromhex(dict(_installation(stack))["installation.master"]))

    def blob(statement: str) -> bytes:
        return bytes.fromhex(stack.sql(f"SELECT encode(({statement}), 'hex')"))

    wrapped = blob("SELECT wrapped FROM project_keys WHERE project_id = 'demo'")
    project = master.unwrap("project-key/demo", wrapped)["key"]
    data = ProjectKey.opened("demo", wrapped, master).unwrap(
        f"backup/{backup}", blob(f"SELECT data_key FROM backups WHERE id = '{backup}'"),
    )
    signing = master.unwrap(
        "container/demo/swift/database_backups",
        blob("SELECT keys FROM backup_containers WHERE project_id = 'demo' AND name = 'database_backups'"),
    )
    found = {"project key": project, "data key": data.hex()}
    return found | {f"signing key {n}": key for n, key in enumerate(signing["keys"])}


def _logs(stack: Stack, instance: str | None) -> dict[str, str]:
    found = {"logs of the stack": stack.compose("logs", "--no-color")}
    for machine in run("docker", "ps", "-aq", "--filter", f"label=coffer.stack={stack.name}").split():
        found[f"log of machine {machine}"] = _both("docker", "logs", machine)
    if instance:
        found["log of the engine"] = _both("docker", "exec", stack.machine(instance), "docker", "logs", "database")
    return found


def _inspections(stack: Stack, instance: str) -> dict[str, str]:
    ids = run("docker", "ps", "-aq").split()
    machine = stack.machine(instance)
    inner = run("docker", "exec", machine, "docker", "ps", "-aq").split()
    return {
        "docker inspect": run("docker", "inspect", *ids),
        "docker inspect in the machine": run("docker", "exec", machine, "docker", "inspect", *inner),
        "volumes": run("docker", "volume", "inspect", *run("docker", "volume", "ls", "-q").split()),
    }


def _processes() -> dict[str, str]:
    """Command lines and environments of every process of this host, those in containers included. What other tests
    run meanwhile, out of this same environment of Python, is no part of what is tested."""
    found = {}
    for path in Path("/proc").iterdir():
        if path.name.isdigit() and int(path.name) != os.getpid():
            try:
                texts = {name: (path / name).read_bytes().decode(errors="replace") for name in ("cmdline", "environ")}
            except OSError:
                continue  # it ended meanwhile
            if sys.prefix not in texts["cmdline"]:
                found |= {f"process {path.name} {name}": text for name, text in texts.items()}
    return found


def _database(stack: Stack) -> dict[str, str]:
    return {"database": stack.compose(
        "exec", "-T", "postgres", "pg_dump", "-U", "postgres", "--data-only", "--inserts", "coffer",
    )}


def _shown(api: Any) -> dict[str, str]:
    paths = ("/operations", "/instances/detail")
    return {f"GET {path}": json.dumps(api("GET", path).body) for path in paths}


def _both(*command: str) -> str:
    return run("sh", "-c", '"$@" 2>&1', "sh", *command)


def _forms(value: str) -> set[str]:
    forms = {value, base64.b64encode(value.encode()).decode().rstrip("="), value.encode().hex()}
    try:
        raw = bytes.fromhex(value)
    except ValueError:
        return forms
    return forms | {base64.b64encode(raw).decode().rstrip("="), base64.urlsafe_b64encode(raw).decode().rstrip("=")}


