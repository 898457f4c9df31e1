#!/usr/bin/env python3
"""Writes the list of parameters that tenants of PostgreSQL may choose, from what a server of the image says itself.

    deploy/parameters/postgresql.py 17        (needs Docker and coffer/postgres:17)

What a setting is comes from the server's pg_settings; which of them are left out, and why, is said here. A setting that
a new version brings is offered unless it is named here, so the difference of the written file wants reading.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from image_server import server, write

LEFT_OUT = {
    "where the server keeps and finds its things": "data_directory hba_file ident_file config_file external_pid_file",
    "how the agent and tenants reach it": (
        "listen_addresses port unix_socket_directories unix_socket_group unix_socket_permissions bonjour "
        "bonjour_name cluster_name"
    ),
    "connections for the agent when tenants have taken all others, and for a role that tenants cannot have": (
        "superuser_reserved_connections reserved_connections"
    ),
    "certificates are Coffer's": (
        "ssl ssl_ca_file ssl_cert_file ssl_ciphers ssl_crl_dir ssl_crl_file ssl_dh_params_file ssl_ecdh_curve "
        "ssl_key_file ssl_max_protocol_version ssl_min_protocol_version ssl_passphrase_command "
        "ssl_passphrase_command_supports_reload ssl_prefer_server_ciphers"
    ),
    "how users prove who they are, and what may be read without a right to it": (
        "password_encryption scram_iterations krb_caseins_users krb_server_keyfile gss_accept_delegation "
        "lo_compat_privileges createrole_self_grant restrict_nonsystem_relation_kind"
    ),
    "they load code or run programs in the server": (
        "shared_preload_libraries session_preload_libraries local_preload_libraries dynamic_library_path "
        "extension_destdir jit_provider archive_library archive_command archive_cleanup_command restore_command "
        "recovery_end_command output_plugin_libraries"
    ),
    "backups, archive and recovery hang on them": (
        "archive_mode archive_timeout wal_level max_wal_senders max_replication_slots max_slot_wal_keep_size "
        "wal_keep_size wal_sender_timeout summarize_wal wal_summary_keep_time recovery_target "
        "recovery_target_action recovery_target_inclusive recovery_target_lsn recovery_target_name "
        "recovery_target_time recovery_target_timeline recovery_target_xid recovery_init_sync_method"
    ),
    "replication is Coffer's; a name among these that never answers stops every commit": (
        "hot_standby primary_conninfo primary_slot_name recovery_min_apply_delay synchronous_standby_names "
        "synchronized_standby_slots sync_replication_slots wal_receiver_create_temp_slot "
        "wal_receiver_status_interval wal_receiver_timeout wal_retrieve_retry_interval"
    ),
    "they lose or damage data when the machine stops, or keep the server down": (
        "fsync full_page_writes wal_sync_method data_sync_retry restart_after_crash exit_on_error"
    ),
    "it turns off foreign keys for everybody; a session that needs it sets it": "session_replication_role",
    "the machine and its container decide": (
        "huge_pages huge_page_size shared_memory_type dynamic_shared_memory_type min_dynamic_shared_memory "
        "max_files_per_process max_stack_depth file_extend_method wal_init_zero wal_recycle event_source"
    ),
    "where the log goes and how it is read": (
        "log_destination logging_collector log_directory log_filename log_file_mode log_rotation_age "
        "log_rotation_size log_truncate_on_rotation log_line_prefix log_timezone log_hostname syslog_facility "
        "syslog_ident syslog_sequence_numbers syslog_split_messages update_process_title"
    ),
    "the agent's figures, and autovacuum, need them": "track_activities track_counts",
    "Coffer writes settings to files, and nobody around it": "allow_alter_system",
    # a search path for everybody would also hold for the superuser's sessions, and so would ways to read a string
    "what statements mean to every session": "search_path standard_conforming_strings backslash_quote client_encoding",
    "what they name is not there: tablespaces, locales, table access methods": (
        "default_tablespace temp_tablespaces default_table_access_method lc_messages lc_monetary lc_numeric "
        "lc_time timezone_abbreviations"
    ),
    "of one session or transaction only": (
        "application_name transaction_deferrable transaction_isolation transaction_read_only"
    ),
}
NARROWER = {"max_connections": {"min": 10}}
"""Where the server takes more than it starts with: some connections are reserved."""
DEVELOPERS = "Developer Options"
"""This category is left out as a whole: its settings damage data, or say what only developers of the server read."""
LARGEST_FLOAT = 1.79e308
"""A bound as large as this is none."""

TYPES = {"bool": "boolean", "integer": "integer", "real": "float", "string": "string", "enum": "string"}
ASK = (
    "SELECT json_agg(s) FROM (SELECT name, vartype, context, category, unit, min_val, max_val, enumvals, boot_val "
    "FROM pg_settings WHERE context NOT IN ('internal', 'backend')) s"
)


def main(version: str) -> None:
    with server(
        f"coffer/postgres:{version}", data="/var/lib/postgresql/data", environment=("POSTGRES_PASSWORD=unused",),
        client_environment=("PGPASSWORD=unused",),
        client=("psql", "-h", "127.0.0.1", "-U", "postgres", "-XAtc"),
    ) as one:
        found = json.loads(one.ask(ASK))
    gone = {name for names in LEFT_OUT.values() for name in names.split()} - {setting["name"] for setting in found}
    if gone:
        raise SystemExit(f"PostgreSQL {version} does not know what is left out: {', '.join(sorted(gone))}")
    offered = [parameter(setting) | NARROWER.get(setting["name"], {}) for setting in found if is_offered(setting)]
    offered.sort(key=lambda item: item["name"].lower())
    write("postgresql", version, offered)
    print(f"{len(offered)} of {len(found)} settings of PostgreSQL {version} are offered.")


def is_offered(setting: dict[str, Any]) -> bool:
    name = setting["name"]
    return setting["category"] != DEVELOPERS and not any(name in names.split() for names in LEFT_OUT.values())


def parameter(setting: dict[str, Any]) -> dict[str, Any]:
    kind = TYPES[setting["vartype"]]
    found = {"name": setting["name"], "type": kind, "restart_required": setting["context"] == "postmaster"}
    for key, column in (("min", "min_val"), ("max", "max_val")):
        if (number := value(kind, setting[column])) is not None and abs(number) < LARGEST_FLOAT:
            found[key] = number
    if setting["enumvals"]:
        found["choices"] = setting["enumvals"]
    if setting["unit"]:
        found["unit"] = setting["unit"]
    if (default := value(kind, setting["boot_val"])) is not None:
        found["default"] = default
    return found


def value(kind: str, text: str | None) -> Any:
    if text is None or kind == "string":
        return text
    if kind == "boolean":
        return text == "on"
    return int(text) if kind == "integer" else float(text)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(sys.argv[1])
