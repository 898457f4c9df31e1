"""Signing in to an OpenStack as the user that a clouds.yaml describes. Here it is read; no talk with Keystone yet."""

from __future__ import annotations

import ssl
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coffer_shared.settings import BadSettings

if TYPE_CHECKING:
    from keystoneauth1.session import Session
    from openstack.config.cloud_region import CloudRegion


def described(file: str, cloud: str, *, why: str, **options: Any) -> CloudRegion:
    """What the entry `cloud` of `file` says; without them, as clients find theirs (OS_CLOUD, OS_* variables,
    clouds.yaml). `why`: what an error begins with; `options` take the place of what is found.

    BadSettings, whose text holds nothing that is secret."""
    # Imported here, since these are large, and most programs sign in nowhere.
    import yaml  # noqa: PLC0415
    from keystoneauth1.exceptions import ClientException  # noqa: PLC0415
    from openstack.config.loader import OpenStackConfig  # noqa: PLC0415
    from openstack.exceptions import ConfigException  # noqa: PLC0415

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its own, of what it gives to itself
            config = OpenStackConfig(config_files=[file]) if file else OpenStackConfig()
            return config.get_one(cloud=cloud or None, **options)
    except yaml.YAMLError:
        # its text quotes the file
        raise BadSettings(f"{file or 'clouds.yaml'} is not valid YAML") from None
    except (ConfigException, ClientException) as error:
        raise BadSettings(f"{why}: {error}") from None


def sign_in(file: str, cloud: str, deadline: float, *, program: str, why: str) -> tuple[Session, str]:
    """A session of the user who is `described` so, and Keystone's address. `deadline`: seconds for one answer.

    BadSettings, as `described`."""
    from keystoneauth1.exceptions import ClientException  # noqa: PLC0415
    from keystoneauth1.session import Session  # noqa: PLC0415
    from openstack.exceptions import ConfigException  # noqa: PLC0415

    found = described(file, cloud, why=why)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            auth = found.get_auth()
            verify, cert = found.get_requests_verify_args()
    except (ConfigException, ClientException) as error:
        raise BadSettings(f"{why}: {error}") from None
    address = str(found.config.get("auth", {}).get("auth_url") or "").rstrip("/")
    if not address or auth is None:
        raise BadSettings(f"{why}: auth_url is not set")
    return Session(auth=auth, verify=verify, cert=cert, timeout=deadline, user_agent=program), address


def tls_of(session: Session) -> ssl.SSLContext | bool:
    """How the session knows that it talks to the cloud, as aiohttp takes it: by the system's authorities (True), by
    those in a file or directory, or not at all (False). BadSettings."""
    if not isinstance(session.verify, str):
        return bool(session.verify)
    found = Path(session.verify)
    try:
        if found.is_dir():
            return ssl.create_default_context(capath=found)
        return ssl.create_default_context(cafile=found)
    except OSError as error:
        raise BadSettings(f"the authorities in {found} cannot be used: {error}") from None
