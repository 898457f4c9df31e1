"""Users of the machine, by number: images of engines and the machine's own rules agree on them."""

from __future__ import annotations

ENGINE_UID = 999
"""Every engine's, in its container and outside."""
