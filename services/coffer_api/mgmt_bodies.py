"""The bodies of requests under /mgmt, for administrators."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_validator

from coffer_api.bodies import Body, Exact, Nes, Uuid
from coffer_db.datastore_versions import REPOSITORY, TAG
from coffer_db.usage import MOST, UNLIMITED


def _unique(value: list[str]) -> list[str]:
    if len(set(value)) != len(value):
        raise ValueError("must not hold the same item twice")
    return value


def _plain(value: str) -> str:
    """Packages are shown to other clients as one text, divided by commas."""
    if "," in value:
        raise ValueError("must not hold a comma")
    return value


def _tag(value: str) -> str:
    if not TAG.fullmatch(value):
        raise ValueError("must be fit for the tag of an image: letters, digits, '_', '.' and '-'")
    return value


def _repository(value: str) -> str:
    if not REPOSITORY.fullmatch(value):
        raise ValueError("must be a repository of images in this installation's registry, such as team/postgres")
    return value


Limit = Annotated[int, Field(ge=UNLIMITED, le=MOST)]
Tags = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=20)]], Field(max_length=5), AfterValidator(_unique),
]
Packages = Annotated[
    list[Annotated[Nes, AfterValidator(_plain)]], Field(max_length=100), AfterValidator(_unique),
]
Number = Annotated[Nes, AfterValidator(_tag)]
Repository = Annotated[Nes, AfterValidator(_repository)]


class SetQuotas(Body):
    """By resource: instances, ram (MiB), volumes (GiB) or backups; -1: no limit; null: as it is."""

    quotas: dict[str, Limit | None] = Field(max_length=100)


class Recorded(Exact):
    """What is recorded with a version as given. Null is as if it were not there."""

    image: Uuid | None = None
    image_tags: Tags | None = None
    packages: Packages | None = None
    repl_strategy: Nes | None = None
    registry_ext: Repository | None = None
    """The repository of the version's image, in place of its manager's."""

    @model_validator(mode="before")
    @classmethod
    def _nulls(cls, given: Any) -> Any:
        return {k: v for k, v in given.items() if v is not None} if isinstance(given, dict) else given

    def traits(self) -> dict[str, Any]:
        names = set(Recorded.model_fields) & self.model_fields_set
        return {name: getattr(self, name) for name in sorted(names)}


class VersionSpec(Recorded):
    name: Nes
    datastore_name: Nes
    datastore_manager: Nes
    active: bool
    default: bool = False
    version: Number | None = None


class AddVersion(Exact):
    version: VersionSpec


class ChangeVersion(Recorded):
    name: Nes | None = None
    datastore_manager: Nes | None = None
    active: bool | None = None
    default: bool | None = None
