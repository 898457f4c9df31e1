"""The bodies of replies about configuration groups and parameters, as `documents` has those of the rest."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from coffer_api.documents import Link, Page

_VALUE = bool | int | float | str


class ConfigurationItem(BaseModel):
    id: str
    name: str
    description: str | None
    created: str
    updated: str
    datastore_version_id: str
    datastore_name: str
    datastore_version_name: str
    datastore_version_number: str
    instance_count: int
    project_id: str


class Configurations(Page):
    configurations: list[ConfigurationItem]
    configurations_links: list[Link] | None = None


class Configuration(ConfigurationItem):
    values: dict[str, _VALUE]


class ConfigurationReply(BaseModel):
    configuration: Configuration


class ConfiguredInstance(BaseModel):
    id: str
    name: str


class ConfiguredInstances(Page):
    instances: list[ConfiguredInstance]
    instances_links: list[Link] | None = None


class ConfigurationParameter(BaseModel):
    name: str
    datastore_version_id: str
    restart_required: bool
    type: str = Field(description="integer, float, string or boolean")
    min: float | None = None
    max: float | None = None
    choices: list[str] | None = Field(None, description="Of a string; without, it may be any")
    unit: str | None = Field(None, description="What numbers count; text such as 64MB is taken too")
    default: _VALUE | None = Field(None, description="The engine's own, where the instance's size does not say another")
    description: str | None = None


class ConfigurationParameters(BaseModel):
    parameters: list[ConfigurationParameter] = Field(alias="configuration-parameters")


class ManagedParameter(BaseModel):
    name: str
    datastore_version_id: str
    restart_required: bool
    type: str = Field(description="integer, float, string or boolean")
    min_size: float | None = None
    max_size: float | None = None


class ManagedParameters(BaseModel):
    parameters: list[ManagedParameter] = Field(alias="configuration-parameters")


class Defaults(BaseModel):
    configuration: dict[str, Any] = Field(description="Values by the name of the setting")


class InstanceDefaults(BaseModel):
    instance: Defaults
