"""Facts about MariaDB for the control plane."""

from __future__ import annotations

import re

from coffer_datastores.mariadb import template
from coffer_datastores.mysql_names import DATABASE_PATTERN, DATABASES, NAME
from coffer_shared.datastore import Datastore, Feature

_USERS = frozenset({"root", "mariadb.sys", "mysql", "public", "none", "current_user", "current_role"})

DATASTORE = Datastore(
    name="mariadb",
    port=3306,
    default_version="11.8",
    versions=("11.8",),
    features=frozenset({Feature.DATABASES, Feature.USERS, Feature.ROOT, Feature.BACKUP, Feature.CONFIGURATION}),
    reserved_users=_USERS,
    reserved_databases=DATABASES,
    max_user_length=80,
    max_database_length=64,
    root_user="root",
    # the server takes quotes around a name off when somebody logs in
    user_pattern=re.compile(r"(?!coffer_|'.*'$)" + NAME),
    database_pattern=DATABASE_PATTERN,
    has_hosts=True,
    defaults=template.defaults,
    # beyond them the server wants its own tables to be changed by a program of its
    upgrades_within=2,
    image="coffer/mariadb",
    backup_image="coffer/mariadb-backup",
)
