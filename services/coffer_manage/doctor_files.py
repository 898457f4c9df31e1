"""The part of the doctor that looks at the files of keys: there, private, agreeing, and not about to expire."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from coffer_db.secrets import MasterKey
from coffer_manage import foundation, keys
from coffer_manage.finding import Finding, ok, problem, warning
from coffer_manage.foundation import SERVICE_UID, UIDS, Foundation

DAY = 86_400
SOON = 30 * DAY
_AGAIN = "run `coffer-manage init` again, then restart the services"


def findings(state: Path, now: float) -> list[Finding]:
    try:
        found = foundation.load(state)
    except (foundation.FoundationError, OSError) as error:
        return [problem("keys", f"operator/foundation.json: {error}", "put back the copy that is kept elsewhere")]
    return [*_files(state, found), *_master(state, found), *_expiries(state, now)]


def _files(state: Path, found: Foundation) -> list[Finding]:
    bad = []
    wanted = foundation.expected(found)
    for service, names in sorted(wanted.items()):
        for name in sorted(names):
            trouble = _trouble(state / service / name, UIDS.get(service, SERVICE_UID))
            if trouble:
                bad.append(problem("files", f"{service}/{name} {trouble}", _AGAIN))
    return bad or [ok("files", f"{sum(map(len, wanted.values()))} are there, each for its one owner")]


def _trouble(path: Path, uid: int) -> str:
    try:
        seen = path.stat()
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if seen.st_mode & 0o077:
        return f"can be read by others (mode {stat.S_IMODE(seen.st_mode):o})"
    return f"belongs to {seen.st_uid}, not to {uid}" if os.geteuid() == 0 and seen.st_uid != uid else ""


def _master(state: Path, found: Foundation) -> list[Finding]:
    """Of three places that must hold one key."""
    own = MasterKey(bytes.fromhex(found.master))
    try:
        held = MasterKey(bytes.fromhex((state / "provisioner" / "master.key").read_text().strip()))
        public = (state / "api" / "master.pub").read_text().strip()
    except (OSError, ValueError) as error:
        return [problem("master key", f"a service's copy cannot be read: {error}", _AGAIN)]
    if held.public.fingerprint != own.public.fingerprint or public != bytes(own.public).hex():
        return [problem("master key", "the services hold another one than operator/foundation.json", _AGAIN)]
    return [ok("master key", own.public.fingerprint)]


def _expiries(state: Path, now: float) -> list[Finding]:
    bad, first = [], float("inf")
    for name, read in keys.expiring(state):
        try:
            known = read()
        except (OSError, ValueError) as error:
            bad.append(problem("expiries", f"{name}: {error}", _AGAIN))
            continue
        for one in known:
            left = float("inf") if one.expires is None else one.expires - now
            first = min(first, left)
            if left <= 0:
                bad.append(problem("expiries", f"{one.what} has expired", _AGAIN))
            elif left < SOON:
                bad.append(warning("expiries", f"{one.what} expires in {left / DAY:.0f} days", _AGAIN))
    return bad or [ok("expiries", f"nothing expires within {first / DAY:.0f} days")]
