"""The settings that every instance gets, by its size: what the agent writes, and what the API tells of it."""

from __future__ import annotations

from coffer_shared.datastore import Setting, Sizes, Unit

_MIB = 1024 * 1024
_MAX_CONNECTIONS = 100
_LEAST_SLOT_MIB = 1024
_SLOT_PART = 4

UNITS = {
    name: Unit(measures, factor)
    for measures, units in (
        ("size", {"B": 1, "kB": 2**10, "8kB": 2**13, "MB": 2**20, "GB": 2**30, "TB": 2**40}),
        ("time", {"us": 1e-6, "ms": 1e-3, "s": 1, "min": 60, "h": 3600, "d": 86400}),
    )
    for name, factor in units.items()
}


def defaults(sizes: Sizes) -> dict[str, Setting]:
    """The container sees the host's memory, not its own: sizes come from the flavor."""
    mib = sizes.memory_bytes // _MIB
    workers = max(2, round(sizes.vcpus))
    return {
        "max_connections": _MAX_CONNECTIONS,
        "password_encryption": "scram-sha-256",
        "shared_buffers": f"{max(32, mib // 4)}MB",
        "effective_cache_size": f"{max(64, mib // 2)}MB",
        "work_mem": f"{min(64, max(4, mib // (4 * _MAX_CONNECTIONS)))}MB",
        "maintenance_work_mem": f"{min(1024, max(32, mib // 16))}MB",
        "huge_pages": "off",
        "jit": False,
        "max_worker_processes": max(8, workers),
        "max_parallel_workers": workers,
        "max_parallel_workers_per_gather": max(1, workers // 2),
        "wal_level": "replica",
        "max_wal_size": "512MB",
        "max_wal_senders": 10,
        "max_replication_slots": 10,
        # A slot that nobody gives back must not fill the volume: past this it is worth nothing any more.
        "max_slot_wal_keep_size": f"{_slot_mib(sizes)}MB",
        "log_destination": "stderr",
        "logging_collector": False,
        "log_line_prefix": "%m [%p] %q%u@%d ",
        "log_timezone": "UTC",
        "timezone": "UTC",
    }


def _slot_mib(sizes: Sizes) -> int:
    return sizes.volume_bytes // _SLOT_PART // _MIB if sizes.volume_bytes else _LEAST_SLOT_MIB
