"""A site that is up, and its tenant; `tests/on_openstack/run.sh` starts it and says what the clouds are called."""

from __future__ import annotations

from support.cloud_tenant import admin, databases, network, tenant, times

__all__ = ["admin", "databases", "network", "tenant", "times"]
