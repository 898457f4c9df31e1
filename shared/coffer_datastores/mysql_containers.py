"""What the images of the MySQL family have in common: where things are in their containers, and who runs there."""

from __future__ import annotations

from coffer_shared.datastore import ContainerSpec, File, Order

UID = 999
"""Of the server in its container, and of its group; `mysql` by name."""
SOCKETS = "/run/mysqld"
"""The directory of the server's socket, as containers see it."""
VOLUME = "/var/lib/mysql"
"""The volume, as containers see it."""
DATA = f"{VOLUME}/data"
CONFIG = "/etc/mysql/conf.d"
"""Where the container sees `order.config`."""


def of_server(order: Order, files: tuple[File, ...], *, words: str) -> ContainerSpec:
    """`words`: what the names of the image's variables begin with."""
    return ContainerSpec(
        image=order.image,
        command=(),
        environment={
            # The image wants some first password for a root of its own: a random one, read from the kernel once,
            # that nobody has seen. `after_first_start` takes that root away.
            f"{words}_ROOT_PASSWORD_FILE": "/proc/sys/kernel/random/uuid",
            f"{words}_ROOT_HOST": "localhost",
        },
        binds=((order.data, VOLUME, "rw"), (order.run, SOCKETS, "rw"), (order.config, CONFIG, "ro")),
        tmpfs=("/tmp",),  # noqa: S108 - the container's own
        uid=UID,
        gid=UID,
        stop_signal="SIGTERM",
        stop_seconds=60,
        files=files,
    )


def of_backup(image: str, *, binds: tuple[tuple[str, str, str], ...]) -> ContainerSpec:
    """And of a restore."""
    return ContainerSpec(
        image=image,
        command=(),
        environment={"LC_ALL": "C"},
        binds=binds,
        tmpfs=("/tmp",),  # noqa: S108 - the container's own
        uid=UID,
        gid=UID,
        stop_signal="SIGTERM",
        stop_seconds=5,
    )
