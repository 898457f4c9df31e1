"""The bodies of replies under /mgmt, for the OpenAPI document only."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from coffer_api.documents import Access, Address, DatastoreRef, Fault, FlavorRef, Link, Page


class ManagedServer(BaseModel):
    id: str
    name: str
    status: str = Field(description="As far as its agent tells: BUILD, ACTIVE or UNKNOWN")
    tenant_id: str
    host: str | None
    addresses: dict[str, list[dict[str, Any]]] | None = Field(None, description="By network; of one instance only")


class Managed(BaseModel):
    """An instance with what stands behind it."""

    id: str
    name: str
    status: str
    operating_status: str
    links: list[Link]
    flavor: FlavorRef
    datastore: DatastoreRef
    region: str
    access: Access
    tenant_id: str
    ip: list[str] | None = None
    addresses: list[Address] | None = None
    created: str
    updated: str
    service_status_updated: str
    locality: str | None = None
    fault: Fault | None = None
    server_id: str | None
    volume_id: str | None
    encrypted_rpc_messaging: bool
    server: ManagedServer | None
    service_status: str
    deleted: bool
    deleted_at: str | None
    task_description: str


class ManagedSize(BaseModel):
    size: int = Field(description="GiB")


class ManagedInstance(Managed):
    """As the list shows it."""

    volume: ManagedSize


class ManagedVolume(BaseModel):
    id: str
    size: int = Field(description="GiB")
    status: str
    attachments: list[dict[str, Any]]
    availability_zone: str | None
    created_at: str
    used: float | None = Field(description="GiB, as the agent last said")
    total: float | None = Field(description="GiB of the file system, as the agent last said")


class GuestState(BaseModel):
    state_description: str


class ManagedInstanceDetail(Managed):
    """As it is shown alone."""

    volume: ManagedVolume | None
    guest_status: GuestState
    root_enabled: str | None = None
    root_enabled_by: str | None = None


class ManagedInstances(Page):
    instances: list[ManagedInstance]
    instances_links: list[Link] | None = None


class ManagedInstanceReply(BaseModel):
    instance: ManagedInstanceDetail


class RootHistory(BaseModel):
    id: str
    enabled: str = Field(description="When it was last enabled, or Never")
    user: str = Field(description="By whom, or Nobody")


class RootHistoryReply(BaseModel):
    root_history: RootHistory


class Quota(BaseModel):
    resource: str
    in_use: int
    reserved: int = Field(description="Of what is being made")
    limit: int = Field(description="-1: none")


class Quotas(BaseModel):
    quotas: list[Quota]


class QuotasSet(BaseModel):
    quotas: dict[str, int]


class ManagedVersion(BaseModel):
    id: str
    name: str
    version: str
    datastore_id: str
    datastore_name: str
    datastore_manager: str
    image: str | None
    image_tags: list[str]
    packages: list[str]
    active: bool
    registry_ext: str | None
    repl_strategy: str | None
    default: bool
    container_image: str = Field(description="What its guests run")
    container_digest: str | None = Field(description="By which they pull it; null: none can be created yet")
    backup_image: str | None = Field(description="What its backups run; null: it has none")
    backup_digest: str | None


class ManagedVersionReply(BaseModel):
    version: ManagedVersion


class ManagedVersions(BaseModel):
    versions: list[ManagedVersion]
