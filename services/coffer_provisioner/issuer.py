"""Issuing NATS users: the bootstrap credential in user data, a guest's own JWT, and the services' credentials."""

from __future__ import annotations

import time
from collections.abc import Callable

from coffer_provisioner.account import INSTANCE_TAG
from coffer_shared import jwt
from coffer_shared.identity import Credentials, user_nkey
from coffer_shared.nkeys import Kind, NKey
from coffer_shared.subjects import instance_id

GUEST_LIFETIME = 30 * 24 * 3600
BOOT_LIFETIME = 15 * 60


class Issuer:
    """Makes users of the GUESTS account that are confined to one instance.

    The instance id becomes part of the permissions on the server, which accepts `*` there: it is checked each time.
    """

    def __init__(
        self,
        guest_signing_key: NKey,
        boot_signing_key: NKey,
        account: str,
        *,
        guest_lifetime: int = GUEST_LIFETIME,
        boot_lifetime: int = BOOT_LIFETIME,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._guest_key = guest_signing_key
        self._boot_key = boot_signing_key
        self._account = account
        self._guest_lifetime = guest_lifetime
        self._boot_lifetime = boot_lifetime
        self._clock = clock

    def bootstrap(
        self, instance: str, ttl: int | None = None, *, raw: bytes | None = None,
    ) -> tuple[Credentials, int]:
        """A credential that can only enrol that instance, and the unix second at which it ends. `raw`: the 32 bytes of
        its key; a fresh one without."""
        user = NKey.generate(Kind.USER) if raw is None else NKey(Kind.USER, raw)
        expires_at = int(self._clock()) + (self._boot_lifetime if ttl is None else ttl)
        return Credentials(self._user(self._boot_key, instance, user.public, expires_at), user.seed), expires_at

    def guest(self, instance: str, nkey_public: str, ttl: int | None = None) -> str:
        """The JWT of a guest for the key that it made itself; ValueError if that is not a user's public nkey."""
        expires_at = int(self._clock()) + (self._guest_lifetime if ttl is None else ttl)
        return self._user(self._guest_key, instance, user_nkey(nkey_public), expires_at)

    def _user(self, signer: NKey, instance: str, public: str, expires_at: int) -> str:
        iid = instance_id(instance)
        return jwt.user(
            public,
            signer,
            name=iid,
            account=self._account,
            tags=(f"{INSTANCE_TAG}:{iid}",),
            expires_at=expires_at,
            iat=int(self._clock()),
        )


def service_credentials(service: str, signing_key: NKey, account: str, *, expires_at: int = 0) -> Credentials:
    """A user of the role that `signing_key` stands for in that account. One serves all replicas of a service."""
    user = NKey.generate(Kind.USER)
    return Credentials(
        jwt.user(user.public, signing_key, name=service, account=account, expires_at=expires_at), user.seed
    )
