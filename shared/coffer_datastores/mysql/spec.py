"""Facts about MySQL for the control plane."""

from __future__ import annotations

import re

from coffer_datastores.mysql import template
from coffer_datastores.mysql_names import DATABASE_PATTERN, DATABASES, NAME
from coffer_shared.datastore import Datastore, Feature

_USERS = frozenset({"root", "mysql", "mysql.infoschema", "mysql.session", "mysql.sys", "event_scheduler"})

DATASTORE = Datastore(
    name="mysql",
    port=3306,
    default_version="9.7",
    versions=("9.7",),
    features=frozenset({Feature.DATABASES, Feature.USERS, Feature.ROOT, Feature.BACKUP, Feature.CONFIGURATION}),
    reserved_users=_USERS,
    reserved_databases=DATABASES,
    max_user_length=32,
    max_database_length=64,
    root_user="root",
    # the server takes quotes around a name off when somebody logs in
    user_pattern=re.compile(r"(?!coffer_|mysql\.|'.*'$)" + NAME),
    database_pattern=DATABASE_PATTERN,
    has_hosts=True,
    defaults=template.defaults,
    image="coffer/mysql",
    backup_image="coffer/mysql-backup",
)
