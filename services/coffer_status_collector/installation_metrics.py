"""What is to be known of the installation as a whole, from facts that somebody confirmed."""

from __future__ import annotations

from coffer_db import marks
from coffer_status_collector.store import OwnConnection

_NAME = "coffer_master_key_export_confirmed"


class InstallationMetrics:
    def __init__(self, connection: OwnConnection) -> None:
        self._connection = connection

    async def render(self) -> str:
        rows = await self._connection.fetch(_CONFIRMED, marks.MASTER_KEY, marks.EXPORTED)
        return (
            f"# HELP {_NAME} Whether an export of the present master key was opened and compared\n"
            f"# TYPE {_NAME} gauge\n{_NAME} {int(rows[0][0])}\n"
        )


_CONFIRMED = """
SELECT EXISTS (
    SELECT FROM marks own JOIN marks exported ON exported.value = own.value WHERE own.name = $1 AND exported.name = $2
)
"""
