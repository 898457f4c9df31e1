"""Every test here uses a stack that is up (`deploy/up.sh`) through programs and libraries that exist."""

from __future__ import annotations

from support.tenants import api, other, shop, stack

__all__ = ["api", "other", "shop", "stack"]
