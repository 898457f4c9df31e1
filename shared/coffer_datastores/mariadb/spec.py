"""Facts about MariaDB for the control plane."""

from __future__ import annotations

import re

from coffer_datastores.mariadb import template
from coffer_shared.datastore import Datastore, Feature

# Names of tenants: any printable characters of the first plane of Unicode, which is all that the server's names know,
# and no space at the ends. A slash cannot travel in the API's paths.
_NAME = r"(?!\s)[^\x00-\x1f\x7f-\x9f\ud800-\udfff/\\\U00010000-\U0010ffff]+(?<!\s)"
_DATABASES = frozenset({"mysql", "information_schema", "performance_schema", "sys"})
_USERS = frozenset({"root", "mariadb.sys", "mysql", "public", "none", "current_user", "current_role"})

UID = 999
"""Of the server in its container, and of its group; `mysql` by name."""
SOCKETS = "/run/mysqld"
"""The directory of the server's socket, as containers see it."""
VOLUME = "/var/lib/mysql"
"""The volume, as containers see it."""
DATA = f"{VOLUME}/data"

DATASTORE = Datastore(
    name="mariadb",
    port=3306,
    default_version="11.8",
    versions=("11.8",),
    features=frozenset({Feature.DATABASES, Feature.USERS, Feature.ROOT, Feature.BACKUP, Feature.CONFIGURATION}),
    reserved_users=_USERS,
    reserved_databases=_DATABASES,
    max_user_length=80,
    max_database_length=64,
    root_user="root",
    # the server takes quotes around a name off when somebody logs in, and "#mysql50#" before one for a directory's name
    user_pattern=re.compile(r"(?!coffer_|'.*'$)" + _NAME),
    database_pattern=re.compile(rf"(?!#mysql50#|(?i:{'|'.join(sorted(_DATABASES))})$)" + _NAME),
    has_hosts=True,
    defaults=template.defaults,
    # beyond them the server wants its own tables to be changed by a program of its
    upgrades_within=2,
    image="coffer/mariadb",
    backup_image="coffer/mariadb-backup",
)
