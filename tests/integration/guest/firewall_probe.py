"""Run inside a machine: two networks made of namespaces, the agent's rules, and who then reaches whom. Prints JSON."""

import asyncio
import json
import subprocess
import sys

from coffer_guest.firewall import Firewall, Rules, Site

TENANT, MANAGEMENT = "10.9.0.5", "10.8.0.2"
PORT = 5432


def sh(command: str) -> str:
    return subprocess.run(command, shell=True, check=True, capture_output=True, text=True).stdout


def networks() -> None:
    for space, letter, own, others in (
        ("tenant", "t", f"{TENANT}/24", ["10.9.0.1/24", "10.9.0.9/24", "10.9.0.77/24"]),
        ("management", "m", f"{MANAGEMENT}/24", ["10.8.0.9/24"]),
    ):
        sh(f"ip netns add {space}; ip link add {letter}0 type veth peer name {letter}1 netns {space}")
        sh(f"ip addr add {own} dev {letter}0; ip link set {letter}0 up; ip -n {space} link set lo up")
        for address in others:
            sh(f"ip -n {space} addr add {address} dev {letter}1")
        sh(f"ip -n {space} link set {letter}1 up")
    sh(f"ip -n tenant route add default via {TENANT}")
    sh("ip addr add 169.254.169.254/32 dev lo; ip addr add 127.0.0.11/8 dev lo || true; ip link set lo up")


SERVE = """
import socket, sys
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(('0.0.0.0', int(sys.argv[1])))
s.listen(50)
print('ready', flush=True)
while True:
    c, _ = s.accept(); c.sendall(b'x'); c.close()
"""
REACH = """
import socket, sys
source, target, port = sys.argv[1:]
s = socket.socket()
s.settimeout(1.0)
try:
    if source != '-': s.bind((source, 0))
    s.connect((target, int(port))); print('yes' if s.recv(1) == b'x' else 'no')
except OSError as error:
    print('no')
"""

TALK = """
import socket, sys, threading, time
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(('0.0.0.0', int(sys.argv[1])))
s.listen(50)
print('ready', flush=True)
def talk(c):
    try:
        while True: c.sendall(b'x'); time.sleep(0.05)
    except OSError: pass
while True: threading.Thread(target=talk, args=(s.accept()[0],), daemon=True).start()
"""
LISTEN = """
import socket, sys, time
source, target, port = sys.argv[1:]
s = socket.socket()
s.settimeout(1.0)
s.bind((source, 0))
s.connect((target, int(port))); s.recv(1)
print('ready', flush=True)
sys.stdin.readline()
try:
    for _ in range(40):
        if not s.recv(1): raise OSError
    print('lasts')
except TimeoutError: print('hangs')
except OSError: print('cut off')
"""


def listen(source: str) -> subprocess.Popen[str]:
    command = ("ip", "netns", "exec", "tenant", sys.executable, "-c", LISTEN, source, TENANT, str(PORT))
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "ready"
    return process


def serve(port: int, *prefix: str, program: str = SERVE) -> subprocess.Popen[str]:
    process = subprocess.Popen([*prefix, sys.executable, "-c", program, str(port)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "ready"
    return process


def reach(target: str, port: int, *prefix: str, source: str = "-") -> bool:
    done = subprocess.run(
        [*prefix, sys.executable, "-c", REACH, source, target, str(port)], capture_output=True, text=True, check=True
    )
    return done.stdout.strip() == "yes"


async def virtual_machine(seen: dict[str, object], tenant: tuple[str, ...], management: tuple[str, ...]) -> None:
    nobody = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups")
    rules = Rules((TENANT,), PORT, ("10.9.0.77/32",), gateway="10.9.0.9")
    await Firewall(Site(gateway_forwards=False)).apply(rules)
    seen["a router that is the gateway"] = reach(TENANT, PORT, *tenant, source="10.9.0.9")
    seen["allowed where a router is the gateway"] = reach(TENANT, PORT, *tenant, source="10.9.0.77")
    seen["metadata, who is not root"] = reach("169.254.169.254", 2222, *nobody)
    seen["metadata, root"] = reach("169.254.169.254", 2222)
    mac = sh("cat /sys/class/net/m0/address").strip()
    await Firewall(Site(management_macs=(mac,), ssh=("10.8.0.0/24", "10.9.0.0/24"))).apply(Rules())
    seen["ssh from management, opened"] = reach(MANAGEMENT, 22, *management)
    seen["ssh from the tenant"] = reach(TENANT, 22, *tenant)
    seen["ssh to the management address from the tenant"] = reach(MANAGEMENT, 22, *tenant)


async def main() -> None:
    networks()
    tenant, management = ("ip", "netns", "exec", "tenant"), ("ip", "netns", "exec", "management")
    engine = ("setpriv", "--reuid", "999", "--regid", "999", "--clear-groups")
    servers = [
        serve(PORT, *engine),
        serve(PORT + 1, *engine),
        serve(8080, *tenant),
        serve(8080, *management),
        serve(2222),
        serve(22),
    ]
    firewall, seen = Firewall(), {}
    sh("nft add table ip nat; nft add chain ip nat kept")
    try:
        await firewall.apply(Rules())
        seen["before prepare, from the tenant"] = reach(TENANT, PORT, *tenant)
        await firewall.apply(Rules((TENANT,), PORT, ("10.9.0.9/32", "192.0.2.0/24", "192.0.2.7/32")))
        for _ in range(2):
            await Firewall().apply(Rules((TENANT,), PORT, ("10.9.0.9/32", "192.0.2.0/24", "192.0.2.7/32")))
        seen["allowed address"] = reach(TENANT, PORT, *tenant, source="10.9.0.9")
        seen["gateway"] = reach(TENANT, PORT, *tenant, source="10.9.0.1")
        seen["another address"] = reach(TENANT, PORT, *tenant, source="10.9.0.77")
        seen["another port"] = reach(TENANT, PORT + 1, *tenant, source="10.9.0.9")
        seen["engine's port from management"] = reach(MANAGEMENT, PORT, *management)
        seen["ssh from management"] = reach(MANAGEMENT, 2222, *management)
        seen["engine to management"] = reach("10.8.0.9", 8080, *engine)
        seen["engine to the machine's management address"] = reach(MANAGEMENT, 2222, *engine)
        seen["engine to metadata"] = reach("169.254.169.254", 2222, *engine)
        seen["engine to docker's dns"] = reach("127.0.0.11", 2222, *engine)
        seen["engine to tenant"] = reach("10.9.0.9", 8080, *engine)
        seen["engine to itself"] = reach("127.0.0.1", PORT, *engine) and reach(TENANT, PORT, *engine)
        seen["agent to management"] = reach("10.8.0.9", 8080)
        seen["agent to engine"] = reach("127.0.0.1", PORT) and reach(TENANT, PORT)
        await firewall.apply(Rules((TENANT,), PORT, ()))
        seen["everybody when nothing is named"] = reach(TENANT, PORT, *tenant, source="10.9.0.77")
        await firewall.apply(Rules((TENANT,), PORT, ("10.9.0.77/32",), gateway="10.9.0.9"))
        seen["a gateway that was named"] = reach(TENANT, PORT, *tenant, source="10.9.0.9")
        seen["not the other one then"] = reach(TENANT, PORT, *tenant, source="10.9.0.1")
        await virtual_machine(seen, tenant, management)
        servers[0].kill()
        servers[0].wait()
        servers[0] = serve(PORT, *engine, program=TALK)
        await firewall.apply(Rules((TENANT,), PORT, ("10.9.0.9/32", "10.9.0.77/32")))
        still, no_more = listen("10.9.0.9"), listen("10.9.0.77")
        await firewall.apply(Rules((TENANT,), PORT, ("10.9.0.9/32",)))
        seen["a connection of one who is still allowed"] = still.communicate("go\n")[0].strip()
        seen["a connection of one who is not any more"] = no_more.communicate("go\n")[0].strip()
        seen["other tables are kept"] = "kept" in sh("nft list table ip nat")
        seen["one table of ours"] = sh("nft list tables").count("inet coffer") == 1
    finally:
        for server in servers:
            server.kill()
    print(json.dumps(seen))


asyncio.run(main())
