"""One file for each kind of operation; the tuples at the end of each file are the order it happens in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from types import MappingProxyType

from coffer_provisioner.plan import Plan
from coffer_provisioner.plans.clear_backup import CLEAR_BACKUP
from coffer_provisioner.plans.configure_instance import CONFIGURE_INSTANCE
from coffer_provisioner.plans.create_backup import CREATE_BACKUP
from coffer_provisioner.plans.create_instance import CREATE_INSTANCE
from coffer_provisioner.plans.create_snapshot import CREATE_SNAPSHOT
from coffer_provisioner.plans.delete_backup import DELETE_BACKUP
from coffer_provisioner.plans.delete_instance import DELETE_INSTANCE
from coffer_provisioner.plans.enable_root import ENABLE_ROOT
from coffer_provisioner.plans.guest_commands import guest_command
from coffer_provisioner.plans.reboot_instance import REBOOT_INSTANCE
from coffer_provisioner.plans.rebuild_instance import REBUILD_INSTANCE
from coffer_provisioner.plans.recover_instance import RECOVER_INSTANCE
from coffer_provisioner.plans.resize_flavor import FIT_ENGINE, RESIZE_FLAVOR
from coffer_provisioner.plans.resize_volume import GROW_FILE_SYSTEM, RESIZE_VOLUME
from coffer_provisioner.plans.restart_instance import RESTART_INSTANCE
from coffer_provisioner.plans.stop_instance import STOP_INSTANCE
from coffer_provisioner.plans.update_access import UPDATE_ACCESS
from coffer_provisioner.plans.upgrade_instance import UPGRADE_INSTANCE

DATA_COMMANDS = (
    "create_databases", "drop_database", "create_users", "drop_user", "set_passwords", "change_user", "grant",
    "revoke", "disable_root",
)
"""Operations that are one guest command each and need no cloud."""

PLANS: Mapping[str, Plan] = MappingProxyType({
    plan.kind: plan
    for plan in (
        CREATE_INSTANCE,
        DELETE_INSTANCE,
        RESTART_INSTANCE,
        RECOVER_INSTANCE,
        REBOOT_INSTANCE,
        STOP_INSTANCE,
        UPDATE_ACCESS,
        RESIZE_VOLUME,
        GROW_FILE_SYSTEM,
        RESIZE_FLAVOR,
        FIT_ENGINE,
        REBUILD_INSTANCE,
        UPGRADE_INSTANCE,
        ENABLE_ROOT,
        CONFIGURE_INSTANCE,
        CREATE_BACKUP,
        CREATE_SNAPSHOT,
        DELETE_BACKUP,
        CLEAR_BACKUP,
        *(guest_command(kind, within=timedelta(seconds=60)) for kind in DATA_COMMANDS),
    )
})


def patient(plans: Mapping[str, Plan], factor: float) -> dict[str, Plan]:
    """For a cloud that is slower than most: all that a plan gives time to gets so many times more."""
    return {
        kind: replace(plan, within=plan.within * factor, step_limit=plan.step_limit * factor)
        for kind, plan in plans.items()
    }
