"""The bodies of replies, for the OpenAPI document only: replies are made from rows in `views`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field, RootModel


class Link(BaseModel):
    rel: str
    href: str


class ProblemText(BaseModel):
    code: int = Field(ge=400, le=599)
    message: str
    details: str | None = Field(None, description="Of too many requests: which limit it was")
    retryAfter: str | None = Field(None, description="Seconds")  # noqa: N815 - Trove's name


ProblemName = Literal[
    "badRequest", "unauthorized", "forbidden", "itemNotFound", "badMethod", "notAcceptable", "conflict", "overLimit",
    "badMediaType", "unprocessableEntity", "instanceFault", "notImplemented", "serviceUnavailable",
]


class Problem(RootModel[Annotated[dict[ProblemName, ProblemText], Field(min_length=1, max_length=1)]]):
    """Every error: one key that names its kind."""

    model_config = {"json_schema_extra": {"example": {"itemNotFound": {"code": 404, "message": "..."}}}}


class Page(BaseModel):
    """On a page that is not the last, `links`, and the same under `<collection>_links`, say where the next one is."""

    links: list[Link] | None = None


class FlavorRef(BaseModel):
    id: str
    links: list[Link]


class DatastoreRef(BaseModel):
    type: str
    version: str
    version_number: str | None = None


class Access(BaseModel):
    is_public: bool
    allowed_cidrs: list[str] | None = None


class Volume(BaseModel):
    size: int = Field(description="GiB")
    used: float | None = Field(None, description="GiB")
    used_percent: float | None = None


class Address(BaseModel):
    address: str
    type: str = Field(description="private or public")
    network: str | None = None


class Fault(BaseModel):
    message: str
    created: str
    details: str | None


class ConfigurationRef(BaseModel):
    id: str
    name: str
    links: list[Link]


class Instance(BaseModel):
    id: str
    name: str
    status: str
    operating_status: str
    links: list[Link]
    flavor: FlavorRef
    datastore: DatastoreRef
    region: str
    access: Access
    volume: Volume
    tenant_id: str
    ip: list[str] | None = None
    addresses: list[Address] | None = None
    created: str | None = None
    updated: str | None = None
    service_status_updated: str | None = None
    configuration: ConfigurationRef | None = None
    restart_required: list[str] | None = Field(None, description="Settings that act only once it is restarted")
    locality: str | None = None
    fault: Fault | None = None
    server_id: str | None = Field(None, description="As the two below, for administrators only")
    volume_id: str | None = None
    encrypted_rpc_messaging: bool | None = None


class Instances(Page):
    instances: list[Instance]
    instances_links: list[Link] | None = None


class InstanceReply(BaseModel):
    instance: Instance


class BackupDatastore(BaseModel):
    type: str
    version: str
    version_id: str


class Backup(BaseModel):
    id: str
    name: str
    description: str | None
    locationRef: str | None = Field(  # noqa: N815 - Trove's name
        description="The address of the object that lists the others, once it is stored.",
    )
    instance_id: str
    created: str
    updated: str
    size: float | None = Field(description="GiB of the engine's data; null until that is known")
    status: str = Field(description="NEW, BUILDING, SAVING, COMPLETED or FAILED")
    parent_id: str | None
    project_id: str
    datastore: BackupDatastore
    stored_size: float | None = Field(description="GiB as stored")
    storage: str
    container: str
    operation_id: str = Field(description="The operation that makes it")
    fault: Fault | None = None


class Backups(Page):
    backups: list[Backup]
    backups_links: list[Link] | None = None


class BackupReply(BaseModel):
    backup: Backup


class BackupStrategy(BaseModel):
    project_id: str
    instance_id: str = Field(description="Empty: the project's default")
    backend: str
    swift_container: str


class BackupStrategyReply(BaseModel):
    backup_strategy: BackupStrategy


class BackupStrategies(BaseModel):
    backup_strategies: list[BackupStrategy]


class Database(BaseModel):
    name: str


class Databases(Page):
    databases: list[Database]
    databases_links: list[Link] | None = None


class User(BaseModel):
    name: str
    host: str | None = None
    databases: list[Database] | None = None
    password: str | None = Field(None, description="Only where root is enabled.")


class Users(Page):
    users: list[User]
    users_links: list[Link] | None = None


class UserReply(BaseModel):
    user: User


class RootStateReply(BaseModel):
    rootEnabled: bool  # noqa: N815 - Trove's name


class Version(BaseModel):
    id: str
    name: str
    version: str
    links: list[Link]
    datastore: str | None = Field(None, description="Its id; not inside of a datastore")
    active: bool | None = Field(None, description="For administrators, as those below")
    packages: str | None = Field(None, description="With commas between them")
    image: str | None = None
    image_tags: list[str] | None = None
    registry_ext: str | None = None
    repl_strategy: str | None = None


class VersionReply(BaseModel):
    version: Version


class Versions(BaseModel):
    versions: list[Version]


class Datastore(BaseModel):
    id: str
    name: str
    links: list[Link]
    versions: list[Version]
    default_version: str | None = None


class DatastoreReply(BaseModel):
    datastore: Datastore


class Datastores(BaseModel):
    datastores: list[Datastore]


class Flavor(BaseModel):
    id: int | None = Field(description="null when the id is not a number")
    str_id: str
    name: str
    ram: int
    vcpus: float
    disk: int
    ephemeral: int
    links: list[Link]


class FlavorReply(BaseModel):
    flavor: Flavor


class Flavors(BaseModel):
    flavors: list[Flavor]


class VolumeType(BaseModel):
    id: str
    name: str
    is_public: bool
    description: str | None


class VolumeTypes(BaseModel):
    volume_types: list[VolumeType]


class AbsoluteLimits(BaseModel):
    verb: Literal["ABSOLUTE"]
    max_instances: int = Field(description="As the others below, -1: no limit")
    max_ram: int = Field(description="MiB in all")
    max_volumes: int = Field(description="GiB in all")
    max_backups: int


class RateLimit(BaseModel):
    verb: Literal["GET", "POST", "PUT", "DELETE"]
    value: int
    remaining: int
    unit: Literal["MINUTE"]
    uri: str
    regex: str
    nextAvailable: str = Field(description="When one more request may be made")  # noqa: N815 - Trove's name


class Limits(BaseModel):
    limits: list[AbsoluteLimits | RateLimit] = Field(description="The absolute ones first")


class Failure(BaseModel):
    code: str
    message: str | None
    step: str | None


class Event(BaseModel):
    n: int
    kind: str
    percent: int
    text: str
    at: str


class Operation(BaseModel):
    id: str
    instance_id: str
    kind: str
    state: str = Field(description="pending, running, waiting, undoing, succeeded, failed or cancelled")
    step: str
    progress: int = Field(ge=0, le=100)
    progress_text: str
    attempts: int
    cancel_requested: bool
    user_id: str
    request_id: str
    created: str
    updated: str
    deadline: str
    links: list[Link]
    finished: str | None = None
    failure: Failure | None = None
    events: list[Event] | None = None


class OperationReply(BaseModel):
    operation: Operation


class Operations(Page):
    operations: list[Operation]
    operations_links: list[Link] | None = None
