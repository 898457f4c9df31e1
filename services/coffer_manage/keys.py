"""What of an installation's keys may be told: what each is known by, and when it expires."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from coffer_manage import foundation
from coffer_shared import identity, jwt, keyset


@dataclass(frozen=True, slots=True)
class Known:
    what: str
    fingerprint: str
    expires: float | None
    """Seconds since 1970; None: never."""


Source: TypeAlias = Callable[[], list[Known]]


def told(state: Path) -> str:
    found = [*lasting(state), *(one for _, each in expiring(state) for one in each())]
    width = max(len(one.what) for one in found)
    return "".join(f"{one.what.ljust(width)}  {_until(one.expires)}  {one.fingerprint}\n" for one in found)


def lasting(state: Path) -> list[Known]:
    return [
        Known("master key", foundation.master_key(state).public.fingerprint, None),
        Known("root of the key set", (state / "api" / "root.pub").read_text().strip(), None),
    ]


def expiring(state: Path) -> Iterator[tuple[str, Source]]:
    """Of each file its name, and what reads it: OSError or ValueError if that cannot be done."""
    yield "api/keyset", lambda: _keyset(state)
    for path in sorted(state.glob("*/*.creds")):
        yield _name(path), lambda path=path: [_credential(path)]  # type: ignore[misc]
    for path in (state / "api" / "ca.pem", *sorted(state.glob("*/server.pem"))):
        yield _name(path), lambda path=path: [_certificate(path)]  # type: ignore[misc]


def _keyset(state: Path) -> list[Known]:
    signed, root = ((state / "api" / name).read_text().strip() for name in ("keyset", "root.pub"))
    return [
        Known(f"key of {key.service}", f"{key.id:08x}", key.not_after) for key in keyset.verify(signed, root).keys
    ]


def _credential(path: Path) -> Known:
    claims = jwt.decode(identity.load(path).jwt)
    return Known(f"NATS user {_name(path)}", claims.subject, float(claims.expires_at) if claims.expires_at else None)


def _certificate(path: Path) -> Known:
    found = x509.load_pem_x509_certificate(path.read_bytes())
    return Known(
        f"certificate {_name(path)}", found.fingerprint(hashes.SHA256()).hex(), found.not_valid_after_utc.timestamp(),
    )


def _name(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def _until(expires: float | None) -> str:
    return "does not expire " if expires is None else f"until {datetime.fromtimestamp(expires, UTC):%Y-%m-%d}"
