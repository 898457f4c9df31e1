"""The API's settings, each from COFFER_<NAME> (or COFFER_<NAME>_FILE, whose content is then the value)."""

from __future__ import annotations

import ipaddress
import re
import shlex
from typing import Literal

from coffer_db.database import DatabaseSettings
from coffer_shared.settings import BadSettings, Patience


class Settings(DatabaseSettings, frozen=True, kw_only=True):
    state_dir: str
    """Holds master.pub and, as far as they are used: htpasswd, ca.pem, key, keyset, root.pub, guests.creds,
    control.creds."""
    host: str = "127.0.0.1"
    port: int = 8779
    metrics_host: str = "0.0.0.0"
    metrics_port: int = 9101
    """`/metrics`, `/healthz` and `/readyz`, where neither guests nor tenants reach."""
    public_endpoint: str = ""
    """What links begin with, such as https://databases.example.org; empty: as the caller addressed the service."""
    trusted_proxies: tuple[str, ...] = ()
    """Addresses whose X-Forwarded-For and X-Forwarded-Proto are believed."""
    log_level: str = "info"
    region: str = "RegionOne"

    auth_strategy: Literal["http_basic", "keystone", "noauth"] = "http_basic"
    htpasswd: str = ""
    """Path of a file with lines of user:bcrypt:project:role1,role2; empty: the one in `state_dir`."""
    policy_file: str = ""
    """Path of a YAML file of rules that take the place of the defaults (`coffer_api.policy`); read again when it
    changes."""
    allow_noauth_remote: bool = False
    """Let `noauth` listen on an address that others can reach."""
    keystone_clouds: str = ""
    """Path of the clouds.yaml with the user that asks Keystone; empty: where OpenStack's clients look."""
    keystone_cloud: str = ""
    """Its name there; empty: OS_CLOUD or the OS_* variables say."""
    keystone_uri: str = ""
    """Where callers get a token, for the challenge of a 401; empty: the address in clouds.yaml."""
    keystone_timeout: float = 10.0
    """Seconds that Keystone has for an answer."""
    keystone_remember: float = 60.0
    """Seconds that a validated token is remembered."""
    keystone_poll: float = 5.0
    """Seconds between looks at what was revoked."""

    cloud: Literal["docker", "openstack"] = "docker"
    """What instances run on. With `openstack`, networks and flavors are looked at with the tenant's own token."""
    cloud_interface: Literal["public", "internal", "admin"] = "public"
    """Which of the addresses in Keystone's catalogue the API uses; those of `region`."""
    cloud_timeout: float = 10.0
    """Seconds that Neutron, Nova and Swift have for an answer."""
    cloud_without_tokens: bool = False
    """Let `openstack` go with another way to sign in than `keystone`: whoever may create an instance may then put it on
    any network that the provisioner's user can use."""
    object_store: Literal["service", "tenant"] = "service"
    """Who makes the containers of backups: the provisioner, in an object store with users of its own; or the tenant, by
    the token of a request, in their own account."""
    storage_user: str = ""
    """PROJECT_ID:USER_ID of the provisioner's user in the object store, for whom tenants' containers are opened;
    empty: the user that asks Keystone."""

    nats_urls: tuple[str, ...] = ()
    """Without any, users, databases and root cannot be read, and the provisioner finds operations when it looks."""
    page_size: int = 20
    max_page_size: int = 100
    default_datastore: str = ""
    max_volume_gib: int = 10
    quota_instances: int = 10
    """Per project, as the three below; -1: no limit."""
    quota_volumes: int = 40
    """GiB in all."""
    quota_ram: int = -1
    """MiB in all."""
    quota_backups: int = 50
    http_get_rate: int = 200
    """Requests per minute of a project, over all replicas, as the three below; 0: no limit."""
    http_post_rate: int = 200
    http_put_rate: int = 200
    """PATCH counts with PUT."""
    http_delete_rate: int = 200
    backup_container: str = "database_backups"
    """Where backups go when neither the request nor a strategy says."""
    heartbeat_expiry: float = 90.0
    operation_wait: float = 10.0
    """Seconds that an answer waits for the result of a change of users, databases or root."""
    patience: Patience = 1.0
    """Every operation is given so many times longer: for a cloud that is slower than most. As the provisioner's."""
    cancel_wait: float = 50.0
    """Seconds that the deletion of an instance waits for the end of what is in its way. A backup that is cancelled
    takes as long as the guest's leave to write lives: 30 s."""
    guest_wait: float = 3.0
    """Seconds that a guest has to answer a question."""

    def check(self) -> None:
        """BadSettings for what no single field can tell."""
        if self.auth_strategy == "noauth" and not self.allow_noauth_remote and not _is_loopback(self.host):
            raise BadSettings(
                "COFFER_HOST is not a loopback address: with noauth everybody who reaches it is an administrator; "
                "COFFER_ALLOW_NOAUTH_REMOTE=true says that this is meant",
            )
        if min(self.keystone_timeout, self.keystone_poll) < 0.1 or not 0 <= self.keystone_remember <= 3600:
            raise BadSettings("COFFER_KEYSTONE_TIMEOUT and _POLL are 0.1 or more, _REMEMBER is 0 to 3600 seconds")
        if set(self.keystone_uri) & set('"\\\r\n'):
            raise BadSettings("COFFER_KEYSTONE_URI is not an address")
        tokens = self.auth_strategy == "keystone"
        if self.cloud == "openstack" and not tokens and not self.cloud_without_tokens:
            raise BadSettings(
                "COFFER_CLOUD=openstack needs COFFER_AUTH_STRATEGY=keystone: only with a token is it known which "
                "networks are a tenant's; COFFER_CLOUD_WITHOUT_TOKENS=true says that all may be used by all",
            )
        if self.object_store == "tenant" and not tokens:
            raise BadSettings("COFFER_OBJECT_STORE=tenant needs COFFER_AUTH_STRATEGY=keystone")
        if not 0.1 <= self.cloud_timeout <= 300:
            raise BadSettings("COFFER_CLOUD_TIMEOUT is 0.1 to 300 seconds")
        if self.storage_user and not re.fullmatch(r"[\w-]+:[\w-]+", self.storage_user, re.ASCII):
            raise BadSettings("COFFER_STORAGE_USER is not PROJECT_ID:USER_ID")
        if not is_container_name(self.backup_container):
            raise BadSettings("COFFER_BACKUP_CONTAINER is not the name of a container")

    def __repr__(self) -> str:
        return f"Settings({self.host}:{self.port}, {self.auth_strategy}, {self.database_user}@{self.database_host})"


def is_container_name(name: str) -> bool:
    """One that Swift takes, and that is a single plain word in a shell."""
    return 1 <= len(name) <= 255 and "/" not in name and name not in {".", ".."} and shlex.quote(name) == name


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
