"""The settings that every instance gets, by its size: what the agent writes, and what the API tells of it."""

from __future__ import annotations

from coffer_shared.datastore import Setting, Sizes

_MIB = 1024 * 1024
_MAX_CONNECTIONS = 100
_OTHERS_MIB = 256
"""What the server needs beside its buffer pool: sessions, dictionaries, its own code."""
_STEP_MIB = 8
"""The buffer pool is a multiple of it."""


def defaults(sizes: Sizes) -> dict[str, Setting]:
    """The container sees the host's memory, not its own: sizes come from the flavor. In bytes, as the server tells
    them."""
    mib = sizes.memory_bytes // _MIB
    pool = max(64, (mib - _OTHERS_MIB) * 5 // 8 // _STEP_MIB * _STEP_MIB)
    return {
        "max_connections": _MAX_CONNECTIONS,
        "character_set_server": "utf8mb4",
        "collation_server": "utf8mb4_uca1400_ai_ci",
        "innodb_buffer_pool_size": pool * _MIB,
        "innodb_log_file_size": _log_mib(sizes, pool) * _MIB,
        "innodb_flush_log_at_trx_commit": 1,
        # others than InnoDB get little: a server of a small flavor would reserve more for them than for it
        "key_buffer_size": 8 * _MIB,
        "aria_pagecache_buffer_size": min(128, max(8, mib // 64)) * _MIB,
        "tmp_table_size": min(64, max(4, mib // 128)) * _MIB,
        "max_heap_table_size": min(64, max(4, mib // 128)) * _MIB,
        "max_allowed_packet": 64 * _MIB,
        "table_open_cache": 1000,
        "thread_cache_size": 16,
        "performance_schema": False,
        "time_zone": "+00:00",
        "skip_name_resolve": True,
        # at 2 it would write a line for every look at whether it listens
        "log_warnings": 1,
    }


def _log_mib(sizes: Sizes, pool: int) -> int:
    """A backup is lost when the server writes all of it anew before it was read, so it is large for the pool; but no
    more than an eighth of the volume."""
    most = sizes.volume_bytes // 8 // _MIB if sizes.volume_bytes else 1024
    return max(96, min(1024, pool, most))
