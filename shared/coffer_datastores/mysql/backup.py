"""What the agent does for a backup of MySQL, and the containers that do the rest. Their programs are in `tool`.

The container reads a copy of the files, in which the server stands still in the middle of whatever it did; it does not
reach the server itself. To a server that starts on them, they are what a crash leaves.
"""

from __future__ import annotations

from coffer_datastores.mysql_containers import of_backup
from coffer_shared.datastore import ContainerSpec, Engine, Order

_COPIES = "/copies"
"""As the container sees them."""


class Backups:
    """Implements HasBackup."""

    def backup_container(self, order: Order, image: str) -> ContainerSpec:
        return of_backup(image, binds=((_copies(order), _COPIES, "ro"),))

    async def before_backup(self, engine: Engine, backup: str) -> None:
        """There is room for one copy, in the worst case: those of others go."""
        order = engine.order
        await engine.discard(_copies(order))
        await engine.copy_still(f"{order.data}/data", f"{_copies(order)}/{backup}")

    async def after_backup(self, engine: Engine, backup: str) -> None:
        await engine.discard(f"{_copies(engine.order)}/{backup}")

    def restore_container(self, order: Order, image: str, target: str) -> ContainerSpec:
        del order
        return of_backup(image, binds=((target, target, "rw"),))


def _copies(order: Order) -> str:
    """Beside the engine's directory, never in it: there its user could lead astray whoever makes and removes them."""
    return f"{order.data}.copies"
