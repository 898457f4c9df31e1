#!/usr/bin/env python3
"""Writes the list of parameters that tenants of MySQL may choose, from what a server of the image says itself.

    deploy/parameters/mysql.py 9.7        (needs Docker and coffer/mysql:9.7)

What a variable is comes from the server's performance_schema, and from trying: whether it changes while the server
runs, and which words it takes, is not told anywhere. Which of them are offered is said here. Of its six hundred, most
are about replication, files, keys and the server's own workings; so one that a new version brings is not offered until
it is named here. One that cannot stand in a file, such as sql_safe_updates, must not be: the server would not start.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from image_server import Server, server, value, write

OFFERED = {
    "connections and their limits": (
        "max_connections max_user_connections max_connect_errors max_allowed_packet net_buffer_length net_read_timeout "
        "net_write_timeout net_retry_count connect_timeout wait_timeout interactive_timeout max_execution_time "
        "max_prepared_stmt_count thread_cache_size require_secure_transport connection_memory_limit "
        "global_connection_memory_limit global_connection_memory_tracking"
    ),
    "what statements mean where a session does not say": (
        "sql_mode autocommit completion_type character_set_server collation_server time_zone default_week_format "
        "transaction_isolation explicit_defaults_for_timestamp auto_increment_increment auto_increment_offset "
        "group_concat_max_len div_precision_increment lc_time_names sql_require_primary_key "
        "sql_generate_invisible_primary_key max_join_size updatable_views_with_limit low_priority_updates "
        "event_scheduler local_infile log_bin_trust_function_creators cte_max_recursion_depth regexp_stack_limit "
        "regexp_time_limit max_sp_recursion_depth block_encryption_mode default_table_encryption innodb_strict_mode "
        "innodb_default_row_format innodb_autoinc_lock_mode print_identified_with_as_hex"
    ),
    "memory, for all or for each session": (
        "innodb_buffer_pool_size innodb_log_buffer_size innodb_sort_buffer_size key_buffer_size "
        "myisam_sort_buffer_size bulk_insert_buffer_size sort_buffer_size join_buffer_size read_buffer_size "
        "read_rnd_buffer_size tmp_table_size temptable_max_ram temptable_max_mmap max_heap_table_size "
        "max_sort_length max_length_for_sort_data parser_max_mem_size range_optimizer_max_mem_size "
        "set_operations_buffer_size table_open_cache table_definition_cache stored_program_cache "
        "histogram_generation_max_mem_size internal_tmp_mem_storage_engine"
    ),
    "how InnoDB writes, reads, locks and cleans up": (
        "innodb_redo_log_capacity innodb_flush_log_at_trx_commit innodb_flush_log_at_timeout innodb_io_capacity "
        "innodb_io_capacity_max innodb_flush_neighbors innodb_adaptive_flushing innodb_adaptive_flushing_lwm "
        "innodb_max_dirty_pages_pct innodb_max_dirty_pages_pct_lwm innodb_lru_scan_depth innodb_read_io_threads "
        "innodb_write_io_threads innodb_read_ahead_threshold innodb_random_read_ahead innodb_old_blocks_pct "
        "innodb_old_blocks_time innodb_adaptive_hash_index innodb_change_buffering innodb_change_buffer_max_size "
        "innodb_lock_wait_timeout innodb_rollback_on_timeout innodb_deadlock_detect innodb_print_all_deadlocks "
        "innodb_purge_threads innodb_purge_batch_size innodb_max_purge_lag innodb_max_purge_lag_delay "
        "innodb_max_undo_log_size innodb_undo_log_truncate innodb_online_alter_log_max_size "
        "innodb_autoextend_increment innodb_fill_factor innodb_buffer_pool_dump_at_shutdown "
        "innodb_buffer_pool_dump_pct innodb_buffer_pool_load_at_startup innodb_ddl_threads innodb_ddl_buffer_size "
        "innodb_parallel_read_threads innodb_thread_concurrency innodb_concurrency_tickets innodb_sync_spin_loops "
        "innodb_spin_wait_delay innodb_table_locks lock_wait_timeout concurrent_insert delay_key_write"
    ),
    "words to search for": (
        "innodb_ft_cache_size innodb_ft_total_cache_size innodb_ft_result_cache_limit innodb_ft_min_token_size "
        "innodb_ft_max_token_size innodb_ft_enable_stopword innodb_ft_num_word_optimize innodb_ft_sort_pll_degree "
        "ngram_token_size ft_min_word_len ft_max_word_len ft_query_expansion_limit"
    ),
    "figures about tables, and the plans that come of them": (
        "innodb_stats_auto_recalc innodb_stats_persistent innodb_stats_persistent_sample_pages "
        "innodb_stats_transient_sample_pages innodb_stats_method innodb_stats_on_metadata "
        "information_schema_stats_expiry eq_range_index_dive_limit optimizer_prune_level optimizer_search_depth "
        "optimizer_switch max_seeks_for_key"
    ),
    "what is written to the log, and what is counted": (
        "slow_query_log long_query_time min_examined_row_limit log_slow_extra log_slow_admin_statements "
        "log_queries_not_using_indexes log_throttle_queries_not_using_indexes log_error_verbosity performance_schema"
    ),
}
NARROWER: dict[str, dict[str, Any]] = {"max_connections": {"min": 20}, "long_query_time": {"max": 31536000.0}}
"""Where the server takes more than it is well with, since the agent comes in as well, or than it says: of a time in
seconds it tells microseconds."""
MOST_WORDS = 40

ASK = (
    "SELECT JSON_ARRAYAGG(JSON_OBJECT('name', m.VARIABLE_NAME, 'type', m.DATA_TYPE, 'min', m.MIN_VALUE, "
    "'max', m.MAX_VALUE, 'value', v.VARIABLE_VALUE)) FROM performance_schema.variables_metadata m "
    "JOIN performance_schema.global_variables v USING (VARIABLE_NAME)"
)


def main(version: str) -> None:
    with server(
        f"coffer/mysql:{version}", data="/var/lib/mysql",
        environment=("MYSQL_ROOT_PASSWORD=unused", "MYSQL_INITDB_SKIP_TZINFO=1"),
        client_environment=("MYSQL_PWD=unused",),
        client=("mysql", "-h", "127.0.0.1", "-u", "root", "--batch", "--raw", "-Ne"),
    ) as one:
        found = {variable["name"]: variable for variable in json.loads(one.ask(ASK))}
        names = sorted(name for group in OFFERED.values() for name in group.split())
        if gone := set(names) - found.keys():
            raise SystemExit(f"MySQL {version} does not know what is offered: {', '.join(sorted(gone))}")
        offered = [parameter(one, found[name]) | NARROWER.get(name, {}) for name in names]
    write("mysql", version, offered)
    print(f"{len(offered)} of {len(found)} variables of MySQL {version} are offered.")


def parameter(one: Server, variable: dict[str, Any]) -> dict[str, Any]:
    name, kind = variable["name"], type_of(variable)
    changes = one.takes(f"SET GLOBAL {name} = @@GLOBAL.{name}")
    found = {"name": name, "type": kind, "restart_required": not changes}
    for end in ("min", "max"):
        if kind in {"integer", "float"} and (number := value(kind, variable[end])) is not None:
            found[end] = number
    if changes and variable["type"] == "Enumeration" and kind == "string":
        found["choices"] = words(one, name)
    if (default := value(kind, variable["value"])) is not None:
        found["default"] = default
    return found


def words(one: Server, name: str) -> list[str]:
    """The server takes a word by its number, too."""
    found = []
    for number in range(MOST_WORDS):
        if not one.takes(f"SET GLOBAL {name} = {number}"):
            break
        found.append(one.ask(f"SELECT @@GLOBAL.{name}").strip())
    one.ask(f"SET GLOBAL {name} = DEFAULT")
    return found


def type_of(variable: dict[str, Any]) -> str:
    if variable["type"] == "Boolean" or variable["value"] in {"ON", "OFF"}:
        return "boolean"
    return {"Integer": "integer", "Numeric": "float"}.get(variable["type"], "string")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(sys.argv[1])
