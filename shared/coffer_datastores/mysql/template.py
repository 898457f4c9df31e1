"""The settings that every instance gets, by its size: what the agent writes, and what the API tells of it."""

from __future__ import annotations

from coffer_shared.datastore import Setting, Sizes

_MIB = 1024 * 1024
_MAX_CONNECTIONS = 100
_OTHERS_MIB = 320
"""What the server needs beside its buffer pool: sessions, dictionaries, its own code."""
_STEP_MIB = 8
"""The buffer pool is a multiple of it, up to a thousand times."""
_WATCHED_MIB = 1024
"""From this size on the server counts what its statements do, which takes a hundred MiB and more."""


def defaults(sizes: Sizes) -> dict[str, Setting]:
    """The container sees the host's memory, not its own: sizes come from the flavor. In bytes, as the server tells
    them."""
    mib = sizes.memory_bytes // _MIB
    step = _STEP_MIB * (1 + mib // (1000 * _STEP_MIB))
    most = max(64, (mib - _OTHERS_MIB) * 5 // 8)
    # as many as the server would take, and told to it: it rounds the pool up to so many equal parts
    instances = max(1, min(64, int(sizes.vcpus) // 4, most // 1024))
    pool = most // (step * instances) * step * instances
    return {
        "max_connections": _MAX_CONNECTIONS,
        "character_set_server": "utf8mb4",
        "collation_server": "utf8mb4_0900_ai_ci",
        "innodb_buffer_pool_size": pool * _MIB,
        "innodb_buffer_pool_chunk_size": step * _MIB,
        "innodb_buffer_pool_instances": instances,
        "innodb_redo_log_capacity": _log_mib(sizes, pool) * _MIB,
        "innodb_flush_log_at_trx_commit": 1,
        # the host's, on which the server has no say
        "innodb_numa_interleave": False,
        # others than InnoDB get little: a server of a small flavor would reserve more for them than for it
        "key_buffer_size": 8 * _MIB,
        "tmp_table_size": min(64, max(4, mib // 128)) * _MIB,
        "max_heap_table_size": min(64, max(4, mib // 128)) * _MIB,
        "temptable_max_ram": min(1024, max(16, mib // 16)) * _MIB,
        "max_allowed_packet": 64 * _MIB,
        "table_open_cache": 1000,
        "table_definition_cache": 800,
        "thread_cache_size": 16,
        "performance_schema": mib >= _WATCHED_MIB,
        "time_zone": "+00:00",
        "skip_name_resolve": True,
    }


def _log_mib(sizes: Sizes, pool: int) -> int:
    """Large for the pool, so that writing goes on while pages are written out; but no more than an eighth of the
    volume."""
    most = sizes.volume_bytes // 8 // _MIB if sizes.volume_bytes else 1024
    return max(96, min(1024, pool, most))
