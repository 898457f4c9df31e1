"""Run inside a machine on a network with Docker's own DNS: what a backup's group reaches, and what the engine.

Prints JSON. Arguments: the name of a host on that network that serves on the ports 8080 and 9999, and its address.
"""

import asyncio
import json
import socket
import subprocess
import sys

from coffer_guest.firewall import STORAGE_GID, Firewall, Rules

NAME, ADDRESS = sys.argv[1:]
TENANT, NEIGHBOUR = "10.9.0.5", "10.9.0.9"
STORE, OTHER, ENGINE = 8080, 9999, 5432

REACH = """
import socket, sys
target, port = sys.argv[1:]
s = socket.socket()
s.settimeout(1.5)
try:
    s.connect((target, int(port)))
    s.sendall(b'x')
    print('yes' if s.recv(1) == b'x' else 'no')
except OSError:
    print('no')
"""
RESOLVE = """
import socket, sys
try:
    print('yes' if socket.gethostbyname(sys.argv[1]) == sys.argv[2] else 'no')
except OSError:
    print('no')
"""
HOLD = """
import socket, sys
s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 3)
print('connected', flush=True)
sys.stdin.readline()
s.settimeout(1.5)
try:
    s.sendall(b'x'); print('yes' if s.recv(1) == b'x' else 'no')
except OSError:
    print('no')
"""


def sh(command: str) -> str:
    return subprocess.run(command, shell=True, check=True, capture_output=True, text=True).stdout


def who(uid: int, gid: int, groups: str = "--clear-groups") -> list[str]:
    return ["setpriv", "--reuid", str(uid), "--regid", str(gid), groups, "/usr/bin/python3", "-c"]


BACKUP, SERVER = who(999, STORAGE_GID), who(999, 999)


def says(program: list[str], code: str, *arguments: str) -> bool:
    done = subprocess.run([*program, code, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip() == "yes"


def reach(program: list[str], target: str, port: int) -> bool:
    return says(program, REACH, target, str(port))


def tenant_network() -> None:
    sh("ip netns add tenant; ip link add t0 type veth peer name t1 netns tenant")
    sh(f"ip addr add {TENANT}/24 dev t0; ip link set t0 up; ip -n tenant link set lo up")
    sh(f"ip -n tenant addr add {NEIGHBOUR}/24 dev t1; ip -n tenant addr add 10.9.0.1/24 dev t1")
    sh("ip -n tenant link set t1 up; ip addr add 169.254.169.254/32 dev lo")


def serve(port: int, *prefix: str) -> subprocess.Popen[bytes]:
    code = f"import sys; sys.argv = ['', '{port}']; exec(open('/src/tests/integration/guest/echo_server.py').read())"
    process = subprocess.Popen([*prefix, sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return process


def backup_reaches() -> dict[str, bool]:
    own = next(line.split()[3].split("/")[0] for line in sh("ip -o -4 addr show eth0").splitlines())
    return {
        "the name": says(BACKUP, RESOLVE, NAME, ADDRESS),
        "the store": reach(BACKUP, NAME, STORE),
        "the store by its address": reach(BACKUP, ADDRESS, STORE),
        "another port there": reach(BACKUP, ADDRESS, OTHER),
        "loopback": reach(BACKUP, "127.0.0.1", STORE) or reach(BACKUP, "127.0.0.1", ENGINE),
        "docker's dns by the store's port": reach(BACKUP, "127.0.0.11", STORE),
        "the machine's tenant address": reach(BACKUP, TENANT, STORE) or reach(BACKUP, TENANT, ENGINE),
        "the machine's management address": reach(BACKUP, own, STORE),
        "a tenant": reach(BACKUP, NEIGHBOUR, STORE),
        "the tenant network's gateway": reach(BACKUP, "10.9.0.1", STORE),
        "metadata": reach(BACKUP, "169.254.169.254", STORE),
    }


def engine_reaches() -> dict[str, bool]:
    return {
        "the name": says(SERVER, RESOLVE, NAME, ADDRESS),
        "the store": reach(SERVER, ADDRESS, STORE),
        "the store with the group as another of its own": reach(who(999, 999, "--groups=998"), ADDRESS, STORE),
        "a tenant": reach(SERVER, NEIGHBOUR, STORE),
        "itself": reach(SERVER, TENANT, ENGINE),
    }


async def main() -> None:
    tenant_network()
    servers = [serve(STORE), serve(ENGINE), serve(STORE, "ip", "netns", "exec", "tenant")]
    firewall = Firewall()
    closed = Rules((TENANT,), ENGINE)
    seen: dict[str, object] = {}
    try:
        await firewall.apply(closed)
        seen["closed"] = sorted(where for where, reached in backup_reaches().items() if reached)
        await firewall.apply(Rules((TENANT,), ENGINE, storage_port=STORE))
        seen["open"] = sorted(where for where, reached in backup_reaches().items() if reached)
        seen["engine while open"] = sorted(where for where, reached in engine_reaches().items() if reached)
        seen["agent"] = reach(["/usr/bin/python3", "-c"], ADDRESS, OTHER) and socket.gethostbyname(NAME) == ADDRESS
        held = subprocess.Popen(
            [*BACKUP, HOLD, ADDRESS, str(STORE)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert held.stdout is not None
        assert held.stdout.readline() == "connected\n"
        await firewall.apply(closed)
        seen["a connection of before, when closed again"] = held.communicate("go on\n")[0].strip()
        seen["closed again"] = sorted(where for where, reached in backup_reaches().items() if reached)
    finally:
        for server in servers:
            server.kill()
    print(json.dumps(seen))


asyncio.run(main())
