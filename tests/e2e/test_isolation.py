"""What can be reached and opened from inside: the database container, and root in a machine."""

from __future__ import annotations

import re
import socket

import pytest

from support.stack import Stack, run


@pytest.fixture(scope="module")
def neighbour(api):
    made = api.create("neighbour")
    shown = api.until_ready(made)
    yield shown
    api.delete(made)


def management_addresses(stack: Stack) -> dict[str, str]:
    """Name to address of everything on the management network, machines included."""
    found = run(
        "docker", "network", "inspect", f"{stack.name}-management",
        "-f", "{{range .Containers}}{{.Name}} {{.IPv4Address}}\n{{end}}",
    )
    return {name: cidr.split("/")[0] for name, cidr in (line.split() for line in found.splitlines() if line.strip())}


def from_database(stack: Stack, instance: str, script: str) -> str:
    """Run as the database container's own user, inside the container. bash's /dev/tcp needs no tools."""
    return stack.inside(instance, "docker", "exec", "database", "bash", "-c", script, check=False).strip()


def reached(stack: Stack, instance: str, *targets: tuple[str, int]) -> set[tuple[str, int]]:
    """Which of these accept a connection from the database container. All are tried at once."""
    words = " ".join(f"{host}/{port}" for host, port in targets)
    script = (
        f'for t in {words}; do (timeout 2 bash -c "exec 3<>/dev/tcp/$t" 2>/dev/null && echo $t) & done; wait'
    )
    found = from_database(stack, instance, script).split()
    return {(host, int(port)) for host, port in (line.split("/") for line in found)}


def test_the_probe_itself_can_see_an_open_port(stack, shop):
    assert reached(stack, shop.id, ("127.0.0.1", 5432), ("127.0.0.1", 5433)) == {("127.0.0.1", 5432)}


def test_nothing_of_the_management_network_is_reached_from_the_database(stack, shop, neighbour):
    """NATS, the registry, the door, this machine's own management address and every other machine's."""
    known = management_addresses(stack)
    assert len(known) >= 5, known
    ports = (22, 2375, 4222, 5000, 5432, 8222, 8443, 9101)
    assert reached(stack, shop.id, *((a, port) for a in known.values() for port in ports)) == set()


def test_the_host_behind_the_gateway_is_not_reached(stack, shop):
    """Something listens there for this test; the machine's root reaches it, the database container does not."""
    gateway = shop.private.rpartition(".")[0] + ".1"
    with socket.create_server((gateway, 0)) as listener:
        port = listener.getsockname()[1]
        script = f"timeout 2 bash -c 'exec 3<>/dev/tcp/{gateway}/{port}' 2>/dev/null && echo open || echo shut"
        assert stack.inside(shop.id, "bash", "-c", script).strip() == "open"
        assert reached(stack, shop.id, (gateway, port)) == set()


def test_metadata_and_dockers_name_service_are_not_reached(stack, shop):
    hosts = ("169.254.169.254", "127.0.0.11")
    assert reached(stack, shop.id, *((host, port) for host in hosts for port in (53, 80))) == set()


def test_the_control_network_is_not_reached(stack, shop):
    found = run(
        "docker", "network", "inspect", f"{stack.name}_control",
        "-f", "{{range .Containers}}{{.Name}} {{.IPv4Address}}\n{{end}}",
    )
    addresses = [line.split()[1].split("/")[0] for line in found.splitlines() if line.strip()]
    assert len(addresses) > 8
    ports = (4222, 5000, 5432, 8779, 9090, 9101)
    assert reached(stack, shop.id, *((a, port) for a in addresses for port in ports)) == set()


def test_the_database_container_has_no_rights(stack, shop):
    status = from_database(stack, shop.id, "cat /proc/self/status")
    for kind in ("Inh", "Prm", "Eff", "Amb"):
        assert re.search(rf"^Cap{kind}:\s+0+$", status, re.MULTILINE), kind
    assert re.search(r"^NoNewPrivs:\s+1$", status, re.MULTILINE)
    assert re.search(r"^Uid:\s+999\b", status, re.MULTILINE)
    assert from_database(stack, shop.id, "touch /usr/x 2>/dev/null && echo wrote || echo refused") == "refused"


def test_root_in_a_machine_cannot_open_another_machines_device(stack, shop, neighbour):
    """The other's loop device exists on this host; a node for it can be made here, but not opened."""
    theirs = re.search(r"/dev/loop(\d+)", stack.inside(neighbour["id"], "xfs_info", "/data"))[1]
    mine = re.search(r"/dev/loop(\d+)", stack.inside(shop.id, "xfs_info", "/data"))[1]
    assert theirs != mine
    script = "mknod /dev/probe b 7 {0}; head -c 512 /dev/probe > /dev/null 2>&1 && echo open || echo refused; "
    script += "rm /dev/probe"
    assert stack.inside(shop.id, "sh", "-c", script.format(theirs)).strip() == "refused"
    assert stack.inside(shop.id, "sh", "-c", script.format(mine)).strip() == "open"


@pytest.mark.parametrize("node", ["b 254 0", "b 8 0", "b 259 0", "c 1 1"], ids=["vda", "sda", "nvme", "mem"])
def test_root_in_a_machine_cannot_open_the_hosts_devices(stack, shop, node):
    script = f"mknod /dev/probe {node}; head -c 16 /dev/probe > /dev/null 2>&1 && echo open || echo refused; "
    script += "rm /dev/probe"
    assert stack.inside(shop.id, "sh", "-c", script).strip() == "refused"


def test_a_machine_mounts_nothing_of_another(stack, shop, neighbour):
    mounted = run("docker", "inspect", "-f", "{{range .Mounts}}{{.Name}} {{end}}", stack.machine(shop.id))
    assert shop.id in mounted
    assert neighbour["id"] not in mounted


def test_a_machine_opens_no_port_to_its_neighbours(stack, shop, neighbour):
    """From root in one machine to the other's management address: nothing answers."""
    theirs = next(a for n, a in management_addresses(stack).items() if neighbour["id"] in n)
    for port in (22, 2375, 4222, 5432, 9101):
        script = f"timeout 2 bash -c 'exec 3<>/dev/tcp/{theirs}/{port}' 2>/dev/null && echo open || echo shut"
        assert stack.inside(shop.id, "bash", "-c", script).strip() == "shut"
