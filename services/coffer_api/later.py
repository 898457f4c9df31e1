"""Logs and certificates of an instance, which are of a later release. What is wrong in itself is refused as ever: a
caller who may not, an instance that is not there, a body that says nothing."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator
from starlette.responses import Response

from coffer_api import instance_rows
from coffer_api.bodies import Body, Nes
from coffer_api.call import Call, Routes
from coffer_api.problems import not_in_this_release

ROUTES = Routes("not in this release")
_LOG = "/instances/{id}/log"
_SSL = "/instances/{id}/ssl"


def _flag(value: Any) -> Any:
    return bool(value) if value is None or (type(value) is int and value in {0, 1}) else value


Bit = Annotated[bool, BeforeValidator(_flag, json_schema_input_type=int)]


class LogAction(Body):
    """Flat, as Trove has it; without a flag it asks to show the log."""

    name: Nes
    enable: Bit = False
    disable: Bit = False
    publish: Bit = False
    discard: Bit = False

    @model_validator(mode="after")
    def _one_way(self) -> LogAction:
        if self.enable and self.disable:
            raise ValueError("enable and disable exclude one another")
        return self


class Certificate(Body):
    enable: bool = False
    disable: bool = False
    rollback: bool = False
    mode: Literal["basic", "enforced", "mtls"] = "basic"
    container_ref: str | None = Field(None, max_length=1000)
    password_ref: str | None = Field(None, max_length=1000)

    @model_validator(mode="after")
    def _one_thing(self) -> Certificate:
        if self.enable + self.disable + self.rollback != 1:
            raise ValueError("exactly one of enable, disable and rollback is expected")
        if self.enable and not self.container_ref:
            raise ValueError("enable needs a container_ref")
        return self


class SetCertificate(Body):
    ssl: Certificate


@ROUTES.add("GET", _LOG, rule="instance:guest_log_list", status=501)
async def list_logs(call: Call) -> Response:
    return await _later(call, "Listing logs")


@ROUTES.add("POST", _LOG, rule="instance:update", body=LogAction, status=501)
async def act_on_log(call: Call) -> Response:
    await call.body(LogAction)
    return await _later(call, "Reading logs")


@ROUTES.add("GET", _SSL, rule="instance:show", status=501)
async def show_certificate(call: Call) -> Response:
    return await _later(call, "Showing the certificate")


@ROUTES.add("POST", _SSL, rule="instance:update", body=SetCertificate, status=501)
async def set_certificate(call: Call) -> Response:
    await call.body(SetCertificate)
    return await _later(call, "Setting a certificate")


async def _later(call: Call, what: str) -> Response:
    await instance_rows.load(call)
    raise not_in_this_release(what)
