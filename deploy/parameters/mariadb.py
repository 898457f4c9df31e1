#!/usr/bin/env python3
"""Writes the list of parameters that tenants of MariaDB may choose, from what a server of the image says itself.

    deploy/parameters/mariadb.py 11.8        (needs Docker and coffer/mariadb:11.8)

What a variable is comes from the server's information_schema; which of them are offered is said here. Of its seven
hundred, most are about replication, clusters, files, keys and the server's own workings, or stand for a statement; so
one that a new version brings is not offered until it is named here.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from image_server import server, value, write

OFFERED = {
    "connections and their limits": (
        "max_connections max_connect_errors max_password_errors max_allowed_packet "
        "net_buffer_length net_read_timeout net_write_timeout net_retry_count connect_timeout wait_timeout "
        "interactive_timeout idle_transaction_timeout idle_readonly_transaction_timeout "
        "idle_write_transaction_timeout max_statement_time max_prepared_stmt_count thread_cache_size "
        "tcp_keepalive_interval tcp_keepalive_probes tcp_keepalive_time require_secure_transport"
    ),
    "what statements mean where a session does not say": (
        "sql_mode autocommit completion_type character_set_server collation_server time_zone default_week_format "
        "transaction_isolation explicit_defaults_for_timestamp auto_increment_increment auto_increment_offset "
        "group_concat_max_len div_precision_increment lc_time_names sql_safe_updates "
        "max_join_size updatable_views_with_limit low_priority_updates event_scheduler local_infile "
        "log_bin_trust_function_creators default_regex_flags max_recursive_iterations max_sp_recursion_depth "
        "system_versioning_alter_history "
        "block_encryption_mode innodb_strict_mode innodb_default_row_format innodb_autoinc_lock_mode "
        "innodb_force_primary_key innodb_compression_default innodb_compression_level"
    ),
    "memory, for all or for each session": (
        "innodb_buffer_pool_size innodb_log_buffer_size innodb_sort_buffer_size key_buffer_size "
        "aria_pagecache_buffer_size aria_sort_buffer_size myisam_sort_buffer_size bulk_insert_buffer_size "
        "sort_buffer_size join_buffer_size join_buffer_space_limit join_cache_level read_buffer_size "
        "read_rnd_buffer_size mrr_buffer_size tmp_table_size tmp_memory_table_size tmp_disk_table_size "
        "max_heap_table_size max_session_mem_used max_tmp_session_space_usage max_tmp_total_space_usage "
        "max_rowid_filter_size max_sort_length max_length_for_sort_data query_cache_type query_cache_size "
        "query_cache_limit query_cache_min_res_unit table_open_cache table_definition_cache stored_program_cache "
        "mhnsw_max_cache_size mhnsw_ef_search mhnsw_default_m mhnsw_default_distance"
    ),
    "how InnoDB writes, reads, locks and cleans up": (
        "innodb_log_file_size innodb_flush_log_at_trx_commit innodb_flush_log_at_timeout innodb_io_capacity "
        "innodb_io_capacity_max innodb_flush_neighbors innodb_adaptive_flushing innodb_adaptive_flushing_lwm "
        "innodb_max_dirty_pages_pct innodb_max_dirty_pages_pct_lwm innodb_lru_scan_depth innodb_read_io_threads "
        "innodb_write_io_threads innodb_read_ahead_threshold innodb_random_read_ahead innodb_old_blocks_pct "
        "innodb_old_blocks_time innodb_adaptive_hash_index innodb_lock_wait_timeout innodb_rollback_on_timeout "
        "innodb_deadlock_detect innodb_snapshot_isolation innodb_print_all_deadlocks innodb_purge_threads "
        "innodb_purge_batch_size innodb_max_purge_lag innodb_max_purge_lag_delay innodb_max_undo_log_size "
        "innodb_undo_log_truncate innodb_online_alter_log_max_size innodb_autoextend_increment innodb_fill_factor "
        "innodb_buffer_pool_dump_at_shutdown innodb_buffer_pool_dump_pct innodb_buffer_pool_load_at_startup "
        "lock_wait_timeout concurrent_insert delay_key_write"
    ),
    "words to search for": (
        "innodb_ft_cache_size innodb_ft_total_cache_size innodb_ft_result_cache_limit innodb_ft_min_token_size "
        "innodb_ft_max_token_size innodb_ft_enable_stopword innodb_ft_num_word_optimize ft_min_word_len "
        "ft_max_word_len ft_query_expansion_limit"
    ),
    "figures about tables, and the plans that come of them": (
        "innodb_stats_auto_recalc innodb_stats_persistent innodb_stats_persistent_sample_pages "
        "innodb_stats_transient_sample_pages innodb_stats_method innodb_stats_on_metadata histogram_size "
        "histogram_type use_stat_tables analyze_sample_percentage eq_range_index_dive_limit expensive_subquery_limit "
        "in_predicate_conversion_threshold optimizer_prune_level optimizer_search_depth optimizer_switch "
        "optimizer_selectivity_sampling_limit optimizer_use_condition_selectivity max_seeks_for_key "
        "optimizer_disk_read_cost optimizer_disk_read_ratio optimizer_where_cost optimizer_scan_setup_cost"
    ),
    "what is written to the log, and what is counted": (
        "log_slow_query log_slow_query_time log_slow_min_examined_row_limit log_slow_rate_limit log_slow_verbosity "
        "log_slow_filter log_slow_admin_statements log_queries_not_using_indexes performance_schema userstat"
    ),
}
NARROWER = {"max_connections": {"min": 20}}
"""Where the server takes more than it is well with: the agent and backups come in as well."""

ASK = (
    "SELECT JSON_ARRAYAGG(JSON_OBJECT('name', LOWER(VARIABLE_NAME), 'type', VARIABLE_TYPE, 'default', DEFAULT_VALUE, "
    "'min', NUMERIC_MIN_VALUE, 'max', NUMERIC_MAX_VALUE, 'choices', ENUM_VALUE_LIST, 'fixed', READ_ONLY)) "
    "FROM information_schema.SYSTEM_VARIABLES"
)


def main(version: str) -> None:
    with server(
        f"coffer/mariadb:{version}", data="/var/lib/mysql",
        environment=("MARIADB_ROOT_PASSWORD=unused", "MARIADB_INITDB_SKIP_TZINFO=1"),
        client_environment=("MYSQL_PWD=unused",),
        client=("mariadb", "-h", "127.0.0.1", "-u", "root", "--skip-ssl", "--batch", "--raw", "-Ne"),
    ) as one:
        found = {variable["name"]: variable for variable in json.loads(one.ask(ASK))}
    names = [name for group in OFFERED.values() for name in group.split()]
    if gone := set(names) - found.keys():
        raise SystemExit(f"MariaDB {version} does not know what is offered: {', '.join(sorted(gone))}")
    offered = [parameter(found[name]) | NARROWER.get(name, {}) for name in sorted(names)]
    write("mariadb", version, offered)
    print(f"{len(offered)} of {len(found)} variables of MariaDB {version} are offered.")


def parameter(variable: dict[str, Any]) -> dict[str, Any]:
    kind = type_of(variable)
    found = {"name": variable["name"], "type": kind, "restart_required": variable["fixed"] == "YES"}
    for end in ("min", "max"):
        if kind in {"integer", "float"} and (number := value(kind, variable[end])) is not None:
            found[end] = number
    if variable["type"] == "ENUM" and variable["choices"] and kind == "string":
        found["choices"] = variable["choices"].split(",")
    if (default := value(kind, variable["default"])) is not None:
        found["default"] = default
    return found


def type_of(variable: dict[str, Any]) -> str:
    if variable["type"] == "BOOLEAN":
        return "boolean"
    if variable["type"] == "DOUBLE":
        return "float"
    return "integer" if "INT" in variable["type"] else "string"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(sys.argv[1])
