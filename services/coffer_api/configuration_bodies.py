"""The bodies of requests about configuration groups and parameters. What values may be is in `configuration_values`."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from coffer_api.bodies import Body, DatastoreSpec, Nes
from coffer_shared.parameters import MAX_NAME, NUMERIC, ParameterType, is_name

_INT = 2**63
Values = Annotated[dict[str, Any], Field(max_length=1000)]


def _bit(value: Any) -> Any:
    return bool(value) if type(value) is int and value in {0, 1} else value


def _number(value: Any) -> Any:
    """Trove takes sizes as text, too."""
    return int(value) if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 19 else value


def _name(value: str) -> str:
    if not is_name(value):
        raise ValueError("is not the name of a parameter")
    return value


Bit = Annotated[bool, BeforeValidator(_bit), WithJsonSchema({
    "anyOf": [{"type": "integer", "minimum": 0, "maximum": 1}, {"type": "boolean"}],
})]
Size = Annotated[
    Annotated[int, Field(ge=-_INT, lt=_INT)] | Annotated[float, Field(allow_inf_nan=False)], BeforeValidator(_number),
    WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "string"}]}),
]


class ConfigurationSpec(Body):
    name: Nes
    values: Values
    description: Nes | None = None
    datastore: DatastoreSpec | None = None


class CreateConfiguration(Body):
    configuration: ConfigurationSpec


class ConfigurationChange(Body):
    """What is not given stays as it is; `values` replaces all of them."""

    name: Nes | None = None
    values: Values | None = None
    description: Nes | None = None


class ChangeConfiguration(Body):
    configuration: ConfigurationChange


class ConfigurationMerge(Body):
    values: Values


class MergeConfiguration(Body):
    configuration: ConfigurationMerge


class ParameterSpec(Body):
    """`max_size` and `min_size` are required of an integer, and say nothing of text and booleans."""

    name: Annotated[str, Field(min_length=1, max_length=MAX_NAME), AfterValidator(_name)]
    data_type: Annotated[ParameterType, Field(strict=False)]
    restart_required: Bit
    max_size: Size | None = None
    min_size: Size | None = None

    @model_validator(mode="after")
    def _range(self) -> ParameterSpec:
        for field, size in (("max_size", self.max_size), ("min_size", self.min_size)):
            if self.data_type is ParameterType.INTEGER and size is None:
                raise ValueError(f"{field} is required for integer data type.")
            if self.data_type is ParameterType.INTEGER and isinstance(size, float):
                raise ValueError(f"{field} must be an integer.")
        if self.max_size is not None and self.min_size is not None and self.max_size < self.min_size:
            raise ValueError("max_size must be greater than or equal to min_size.")
        return self

    def ends(self) -> dict[str, int | float]:
        given = {"min": self.min_size, "max": self.max_size} if self.data_type in NUMERIC else {}
        return {name: size for name, size in given.items() if size is not None}


class SetParameter(Body):
    parameter: ParameterSpec = Field(alias="configuration-parameter")
