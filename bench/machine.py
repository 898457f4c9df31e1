"""Figures of the machine and its processes, read from /proc, and how results are printed."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

_SCHEDULED = 2  # CPUCLOCK_SCHED, of Linux


def load() -> str:
    return "load " + " ".join(Path("/proc/loadavg").read_text().split()[:3])


def describe() -> str:
    return f"{os.cpu_count()} cores, kernel {platform.release()}, {load()}"


def cpu_seconds(pid: int) -> float:
    """User and system time of a process with all its threads, its children left out.

    From the process's own clock, which the scheduler keeps exactly. What /proc/<pid>/stat shows is sampled by the
    timer's ticks, and work that a timer starts is then counted wrongly by a half and more."""
    return time.clock_gettime((~pid << 3) | _SCHEDULED)


def pss_mib(pid: int) -> float:
    """Proportional set size: memory shared with other processes counted in part."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    return 0.0


def rss_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def spread(values: Sequence[float], unit: str, digits: int = 2) -> str:
    """Median, and between which values."""
    return (
        f"median {statistics.median(values):.{digits}f} {unit} "
        f"({min(values):.{digits}f} to {max(values):.{digits}f}, n={len(values)})"
    )


def line(what: str, figure: str) -> None:
    print(f"{what:<62} {figure}   [{load()}]", flush=True)
