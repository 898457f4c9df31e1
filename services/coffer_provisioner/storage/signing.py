"""Grants for Swift: TempURL signatures for one method, every name below a prefix, until a time. No network here."""

from __future__ import annotations

import hashlib
import hmac
from urllib.parse import quote, urlencode

from coffer_shared.backups import Grant

METHODS = ("GET", "PUT")


def new_grant(*, kind: str, url: str, path: str, method: str, until: float, key: str) -> Grant:
    """`path`: /v1/ACCOUNT/CONTAINER/PREFIX/ as it is, not encoded; `url`: the store's, as guests reach it.

    It expires at the last whole second that is not after `until`.
    """
    prefix = path.split("/", 4)[4]
    if method not in METHODS:
        raise ValueError(f"a grant is for GET or PUT, not for {method}")
    if not prefix.endswith("/") or prefix.startswith("/"):
        raise ValueError("a grant is for what is below a prefix that ends with a slash")
    expires = int(until)
    query = {
        "temp_url_sig": signature(key, method, path, expires),
        "temp_url_expires": str(expires),
        "temp_url_prefix": prefix,
    }
    return Grant(
        kind=kind,
        url=url.rstrip("/") + quote(path),
        query=urlencode(query, quote_via=quote, safe=""),
        method=method,
        expires_at=float(expires),
    )


def signature(key: str, method: str, path: str, expires: int) -> str:
    if not key:
        raise ValueError("no key to sign with")
    return hmac.new(key.encode(), f"{method}\n{expires}\nprefix:{path}".encode(), hashlib.sha256).hexdigest()
