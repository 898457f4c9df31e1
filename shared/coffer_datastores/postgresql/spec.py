"""Facts about PostgreSQL for the control plane."""

from __future__ import annotations

import re

from coffer_datastores.postgresql import template
from coffer_shared.datastore import Datastore, Feature

# Names of tenants: any printable characters, no space at the ends, none of the prefixes that the server (pg_) and
# Coffer's own roles (coffer_) use. A slash cannot travel in the API's paths.
_NAME = r"(?!\s)[^\x00-\x1f\x7f-\x9f\ud800-\udfff/\\]+(?<!\s)"

UID = 999
"""Of the server in its container, and of its group."""
SOCKET = "/var/run/postgresql"
"""The directory of the server's socket, as containers see it."""

DATASTORE = Datastore(
    name="postgresql",
    port=5432,
    default_version="17",
    versions=("17",),
    features=frozenset({
        Feature.DATABASES, Feature.USERS, Feature.ROOT, Feature.BACKUP, Feature.SNAPSHOT, Feature.CONFIGURATION,
    }),
    reserved_users=frozenset({"postgres", "root", "public", "none", "current_user", "session_user", "current_role"}),
    reserved_databases=frozenset({"postgres", "template0", "template1"}),
    max_user_length=63,
    max_database_length=63,
    root_user="root",
    user_pattern=re.compile(r"(?!pg_|coffer_)" + _NAME),
    database_pattern=re.compile(_NAME),
    has_hosts=False,
    defaults=template.defaults,
    units=template.UNITS,
    upgrades_within=1,
    image="coffer/postgres",
    backup_image="coffer/postgres-backup",
)
