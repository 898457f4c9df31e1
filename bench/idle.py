"""Memory of the services of the running stack, one process of each, and of a guest's agent."""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent.parent / "tests")]

from machine import cpu_seconds, line, pss_mib, rss_mib

from support.stack import Stack, run

SERVICES = ("api", "provisioner", "backup-scheduler", "status-collector")
SECONDS = 20


def main() -> None:
    stack = Stack.find()
    pids = {s: int(run("docker", "inspect", "-f", "{{.State.Pid}}", f"{stack.name}-{s}-1")) for s in SERVICES}
    memory = {service: pss_mib(pid) for service, pid in pids.items()}
    for service, mib in memory.items():
        line(f"{service}: PSS", f"{mib:.0f} MiB")
    line("the four together: PSS", f"{sum(memory.values()):.0f} MiB")
    before = {service: cpu_seconds(pid) for service, pid in pids.items()}
    time.sleep(SECONDS)
    used = sum(cpu_seconds(pid) - before[service] for service, pid in pids.items())
    line("the four together, idle", f"{100 * used / SECONDS:.1f} % of one core")
    api = stack.api()
    made = api.create("bench", flavorRef="1")
    api.until_ready(made)
    agent = int(stack.inside(made, "pgrep", "-o", "-f", "coffer-guest"))
    ns = int(run("docker", "inspect", "-f", "{{.State.Pid}}", stack.machine(made)))
    line("agent: resident memory", f"{rss_mib(_on_host(ns, agent)):.0f} MiB")
    api.delete(made)


def _on_host(machine: int, inner: int) -> int:
    """The host's id of a process that has the id `inner` in the machine's process namespace."""
    namespace = Path(f"/proc/{machine}/ns/pid").readlink()
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                if (path / "ns/pid").readlink() == namespace:
                    status = (path / "status").read_text()
                    if f"\t{inner}\n" in status.split("NSpid:")[1].split("\n")[0] + "\n":
                        return int(path.name)
            except OSError:
                continue
    raise SystemExit("the agent's process was not found")


if __name__ == "__main__":
    main()
