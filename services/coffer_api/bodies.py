"""The bodies of requests: Trove's shapes and rules, plus the spellings that other clients use.

What depends on the datastore (names, lengths, reserved words) is in `names`.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

_UUID = r"^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$"
_CIDR = re.compile(r"([0-9]{1,3}\.){3}[0-9]{1,3}(/([0-9]|[1-2][0-9]|3[0-2]))?")
_CIDR_6 = re.compile(r"[0-9a-fA-F:.]{2,45}(/([0-9]|[1-9][0-9]|1[01][0-9]|12[0-8]))?")
_HOST = re.compile(r"[%]?[\w(\-).]*[%]?", re.ASCII)


def _text(value: str) -> str:
    if any(ord(char) < 32 or ord(char) == 127 for char in value):
        raise ValueError("must not hold control characters")
    if not any(char.isascii() and char.isalnum() for char in value):
        raise ValueError("must hold a letter or a digit")
    return value


def _clean(value: str) -> str:
    if any(ord(char) < 32 or ord(char) == 127 for char in value):
        raise ValueError("must not hold control characters")
    return value


def _cidr(value: str) -> str:
    """In the form that the same range always has."""
    if not _CIDR.fullmatch(value) and not (":" in value and _CIDR_6.fullmatch(value)):
        raise ValueError("is not an address range")
    return str(ipaddress.ip_network(value, strict=False))


def _ipv4(value: str) -> str:
    return str(ipaddress.IPv4Address(value))


def _host(value: str) -> str:
    if not _HOST.fullmatch(value) or len(value) > 255:
        raise ValueError("is not a host name, address or pattern")
    return value or "%"


def _unique(value: list[Any]) -> list[Any]:
    if len({repr(item) for item in value}) != len(value):
        raise ValueError("must not hold the same item twice")
    return value


def _size(value: Any) -> Any:
    return int(value) if isinstance(value, str) and re.fullmatch(r"[0-9]{1,9}", value) else value


def _reference(value: Any) -> Any:
    """A flavor by number, by id, by address (the last part counts), or as the object that an SDK sends."""
    if isinstance(value, dict):
        value = value.get("id")
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value) if abs(value) < 10**18 else None
    return _last_part(value)


def _last_part(value: Any) -> Any:
    return value.rstrip("/").rsplit("/", 1)[-1] if isinstance(value, str) else value


def _bit(value: Any) -> Any:
    if value is None:
        return False
    return bool(value) if type(value) is int and value in {0, 1} else value


Nes = Annotated[str, Field(min_length=1, max_length=255), AfterValidator(_text)]
"""Trove's "non-empty string": a letter or digit somewhere in it."""
Name = Annotated[str, Field(min_length=1, max_length=255), AfterValidator(_clean)]
"""A name in an engine; its datastore says what is allowed."""
Password = Annotated[str, Field(min_length=1, max_length=255, json_schema_extra={"format": "password"}),
                     AfterValidator(_clean)]
Uuid = Annotated[str, Field(pattern=_UUID), AfterValidator(str.lower)]
Host = Annotated[str, AfterValidator(_host)]
Cidr = Annotated[str, AfterValidator(_cidr)]
FlavorRef = Annotated[
    str, Field(min_length=1, max_length=255), BeforeValidator(_reference), AfterValidator(_clean),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "integer"}]}),
]


class Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", hide_input_in_errors=True)


class Exact(Body):
    model_config = ConfigDict(strict=True, extra="forbid", hide_input_in_errors=True)


class VolumeSpec(Body):
    size: Annotated[int, Field(ge=1, le=1_000_000), BeforeValidator(_size),
                    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1}, {"type": "string"}]})]
    type: Nes | None = None


class DatastoreSpec(Exact):
    type: Nes | None = None
    version: Nes | None = None
    version_number: Nes | None = None


class NicSpec(Exact):
    net_id: Uuid | None = Field(None, alias="net-id")
    network_id: Uuid | None = None
    subnet_id: Uuid | None = None
    ip_address: Annotated[str, AfterValidator(_ipv4)] | None = None

    @model_validator(mode="after")
    def _whole(self) -> NicSpec:
        if self.ip_address is not None and self.subnet_id is None:
            raise ValueError("Instance subnet needs to be specified.")
        if self.net_id is None and self.network_id is None and self.subnet_id is None:
            raise ValueError("a network or a subnet needs to be specified")
        return self

    def stored(self) -> dict[str, str]:
        found = {
            "network": self.net_id or self.network_id, "subnet": self.subnet_id, "address": self.ip_address,
        }
        return {key: value for key, value in found.items() if value is not None}


class AccessSpec(Exact):
    is_public: bool = False
    allowed_cidrs: Annotated[list[Cidr], Field(max_length=256), AfterValidator(_unique)] = []


class DatabaseSpec(Body):
    name: Name
    character_set: Nes | None = None
    collate: Nes | None = None


class DatabaseRef(Body):
    name: Name


class UserSpec(Body):
    name: Name
    password: Password = Field(repr=False)
    host: Host | None = None
    databases: Annotated[list[DatabaseRef], Field(max_length=1000), AfterValidator(_unique)] = []


class RestorePoint(Body):
    backup_ref: Annotated[Uuid, BeforeValidator(_last_part)] = Field(alias="backupRef")
    """By id or by address."""


class InstanceSpec(Body):
    """What is asked for; the last four are of later releases and refused when they say something."""

    name: Nes
    flavor_ref: FlavorRef | None = Field(None, alias="flavorRef")
    flavor: FlavorRef | None = None
    volume: VolumeSpec | None = None
    datastore: DatastoreSpec | None = None
    databases: list[DatabaseSpec] = Field([], max_length=1000)
    users: list[UserSpec] = Field([], max_length=1000)
    nics: list[NicSpec] = Field([], max_length=1)
    access: AccessSpec | None = None
    availability_zone: Nes | None = None
    region_name: Nes | None = None
    locality: Literal["affinity", "anti-affinity", "soft-affinity", "soft-anti-affinity"] | None = None
    replica_count: int | None = Field(None, ge=1, le=3)
    restore_point: RestorePoint | None = Field(None, alias="restorePoint")
    replica_of: Any = None
    slave_of: Any = None
    configuration: Any = None
    modules: Any = None

    @model_validator(mode="before")
    @classmethod
    def _nulls(cls, given: Any) -> Any:
        """Clients send null for lists that they leave empty."""
        lists = {"databases", "users", "nics"}
        return {k: v for k, v in given.items() if v is not None or k not in lists} if isinstance(given, dict) else given


class CreateInstance(Body):
    instance: InstanceSpec


class AccessChange(Exact):
    """What is left out stays as it is. No range at all: everybody."""

    is_public: bool = False
    allowed_cidrs: Annotated[list[Cidr], Field(max_length=256), AfterValidator(_unique)] = []


class InstanceEdit(Exact):
    """Replicas cannot be changed in this release. `datastore_version`, by name or id, upgrades the database."""

    name: Nes | None = None
    replica_of: Any = None
    slave_of: Any = None
    configuration: Any = None
    datastore_version: Any = None


class InstanceChange(InstanceEdit):
    """Of the others than the name, one at a time."""

    access: AccessChange = AccessChange()


class UpdateInstance(Exact):
    instance: InstanceChange


class EditInstance(Exact):
    instance: InstanceEdit


class Action(Body):
    """Exactly one key says what to do."""

    model_config = ConfigDict(
        strict=True, extra="allow", hide_input_in_errors=True,
        json_schema_extra={"example": {"restart": {}}, "minProperties": 1, "maxProperties": 1},
    )


def _new_size(value: Any) -> Any:
    return {"size": value} if isinstance(value, int | str) else value


class NewSize(Exact):
    size: Annotated[int, Field(ge=1, le=1_000_000), BeforeValidator(_size)]


class Resize(Exact):
    """One of the two. openstacksdk sends the size as a number."""

    volume: Annotated[NewSize | None, BeforeValidator(_new_size)] = None
    flavor_ref: FlavorRef | None = Field(None, alias="flavorRef")

    @model_validator(mode="after")
    def _one(self) -> Resize:
        if (self.volume is None) == (self.flavor_ref is None):
            raise ValueError("one of volume and flavorRef is needed")
        return self


class ResetStatus(Exact):
    force_delete: Any = None


class Migrate(Exact):
    host: Nes | None = None


class Rebuild(Exact):
    image_id: Uuid


class Nothing(Exact):
    """Of an action that takes no arguments."""


class RemoteBackup(Exact):
    remote_location: Nes
    local_datastore_version_id: Uuid
    size: Annotated[float, Field(gt=0, le=1_000_000, allow_inf_nan=False)]
    """GiB"""


class BackupSpec(Body):
    """The instance goes by either name. What says incremental or `restore_from` is of later releases."""

    name: Nes
    instance: Uuid | None = None
    instance_id: Uuid | None = None
    description: Nes | None = None
    swift_container: Nes | None = None
    storage_driver: Literal["swift", "cinder"] | None = None
    incremental: Annotated[bool, BeforeValidator(_bit), WithJsonSchema({
        "anyOf": [{"type": "integer", "minimum": 0, "maximum": 1}, {"type": "boolean"}, {"type": "null"}],
    })] = False
    parent_id: Uuid | None = None
    restore_from: RemoteBackup | None = None


class CreateBackup(Body):
    backup: BackupSpec


class StrategySpec(Exact):
    swift_container: Nes
    instance_id: Uuid | None = None


class SetStrategy(Exact):
    backup_strategy: StrategySpec


class CreateDatabases(Body):
    databases: list[DatabaseSpec] = Field(max_length=1000)

    @model_validator(mode="before")
    @classmethod
    def _singular(cls, given: Any) -> Any:
        if isinstance(given, dict) and "databases" not in given and "database" in given:
            return {**given, "databases": [given["database"]]}
        return given


class CreateUsers(Body):
    users: list[UserSpec] = Field(max_length=1000)


class CreateUser(Body):
    """One user, under the key for several: openstacksdk's form."""

    users: UserSpec


class NewPassword(Body):
    name: Name
    password: Password = Field(repr=False)
    host: Host | None = None


class SetPasswords(Body):
    users: list[NewPassword] = Field(min_length=1, max_length=1000)


class UserChange(Body):
    name: Name | None = None
    password: Password | None = Field(None, repr=False)
    host: Host | None = None

    @model_validator(mode="after")
    def _something(self) -> UserChange:
        if self.name is None and self.password is None and self.host is None:
            raise ValueError("one of name, password and host is needed")
        return self


class ChangeUser(Body):
    user: UserChange


class GrantAccess(Body):
    databases: list[DatabaseRef] = Field(max_length=1000)


class EnableRoot(Body):
    password: Password | None = Field(None, repr=False)
