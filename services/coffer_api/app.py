"""The application put together: routes, the answers to errors, the OpenAPI document, and the layers around them."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi_offline import FastAPIOffline
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from coffer_api import (
    backup_strategies,
    backups,
    configurations,
    databases,
    discovery,
    documents,
    elsewhere,
    followed,
    instance_actions,
    instance_configuration,
    instances,
    later,
    limits,
    mgmt_actions,
    mgmt_instances,
    mgmt_parameters,
    mgmt_quotas,
    mgmt_versions,
    offers,
    parameters,
    root,
    users,
)
from coffer_api.auth import Auth, Strategy
from coffer_api.discovery import Ready
from coffer_api.edge import Edge
from coffer_api.filing import GUEST_TIMEOUT
from coffer_api.policy import Policy
from coffer_api.problems import RETRY, Problem, bad_request, envelope, internal_error, not_found, unprocessable
from coffer_api.rates import Rates, limits_of
from coffer_api.reach import Reach
from coffer_shared.errors import GuestSilent, Refused, TryAgain
from coffer_shared.messages import Failure

_MODULES = (
    instances.ROUTES, instance_actions.ROUTES, instance_configuration.ROUTES, databases.ROUTES, users.ROUTES,
    root.ROUTES, backups.ROUTES, backup_strategies.ROUTES, configurations.ROUTES, parameters.ROUTES, followed.ROUTES,
    offers.ROUTES, offers.FLAVORS, limits.ROUTES, mgmt_instances.ROUTES, mgmt_actions.ROUTES, mgmt_quotas.ROUTES,
    mgmt_versions.ROUTES, mgmt_parameters.ROUTES, later.ROUTES, elsewhere.ROUTES,
)
_DESCRIPTION = """\
Database instances on demand: the OpenStack Trove v1.0 API, with operations that can be followed.

What changes an instance answers at once with the id of its operation in `X-Coffer-Operation`;
`GET /v1.0/{project}/operations/{id}` tells how it goes on. A call marked as an *extension* is not in Trove's API.
Errors are `{"<name>": {"code": <status>, "message": "<text>"}}`, and every answer has an `X-Openstack-Request-Id`.
"""


def build(api: Reach, strategy: Strategy, policy: Policy, ready: Ready) -> ASGIApp:
    app = FastAPIOffline(
        title="Coffer", version="v1.0", docs_url=None, redoc_url="/docs", static_url="/docs/static",
        openapi_url="/openapi.json", redirect_slashes=False, description=_DESCRIPTION,
    )
    app.router.routes.extend(discovery.routes(api.settings, ready))
    for module in _MODULES:
        app.router.routes.extend(module.build(api))
    for kind, handler in _ANSWERS.items():
        app.add_exception_handler(kind, handler)
    app.openapi = lambda: _document(app, api.settings.auth_strategy)  # type: ignore[method-assign]
    limited = Rates(app, api.reads, limits_of(api.settings))
    return Edge(Auth(limited, strategy, policy), api.metrics)


async def _problem(_request: Request, error: Any) -> Response:
    return envelope(error)


async def _http(_request: Request, error: Any) -> Response:
    """Of the framework: a path or a method that is not routed is, as in Trove, simply not there."""
    return envelope(not_found() if error.status_code in {404, 405} else Problem(error.status_code, str(error.detail)))


async def _silent(_request: Request, _error: Any) -> Response:
    return envelope(bad_request(GUEST_TIMEOUT))


async def _unavailable(_request: Request, error: Any) -> Response:
    return envelope(Problem(503, str(error), {RETRY: "2"}))


async def _refused(_request: Request, error: Any) -> Response:
    if error.code == Failure.NOT_FOUND:
        return envelope(not_found(error.text))
    if error.code in {Failure.NOT_READY, Failure.BUSY}:
        return envelope(unprocessable(error.text))
    return envelope(bad_request(f"An error occurred communicating with the guest: {error.text}"))


async def _broken(request: Request, _error: Any) -> Response:
    """The layer around logs the reason under the same id."""
    return envelope(internal_error(request.scope["request_id"]))


_ANSWERS: dict[Any, Any] = {
    Problem: _problem,
    HTTPException: _http,
    GuestSilent: _silent,
    TryAgain: _unavailable,
    Refused: _refused,
    Exception: _broken,
}


_SCHEMES: dict[str, dict[str, Any]] = {
    "http_basic": {"basic": {"type": "http", "scheme": "basic"}},
    "keystone": {"token": {"type": "apiKey", "in": "header", "name": "X-Auth-Token"}},
    "noauth": {},
}
"""How a caller is known, by strategy."""


def _document(app: FastAPI, strategy: str) -> dict[str, Any]:
    """FastAPI's document with the models that routes only name. Made once."""
    if app.openapi_schema:
        return app.openapi_schema
    found = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    models = {model for module in _MODULES for model in module.models} | {documents.Problem}
    _, schemas = models_json_schema(
        [(model, "validation") for model in sorted(models, key=lambda model: model.__name__)],
        ref_template="#/components/schemas/{model}",
    )
    parts = found.setdefault("components", {})
    parts.setdefault("schemas", {}).update(schemas["$defs"])
    parts["headers"] = {
        "X-Openstack-Request-Id": {
            "description": "What the logs call this request", "schema": {"type": "string"}, "required": True,
        },
        "X-Coffer-Operation": {
            "description": "The id of the operation that was filed, if one was", "schema": {"type": "string"},
        },
    }
    parts["responses"] = {
        "Problem": {
            "description": "An error",
            "headers": {"X-Openstack-Request-Id": {"$ref": "#/components/headers/X-Openstack-Request-Id"}},
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
        },
    }
    parts["securitySchemes"] = _SCHEMES[strategy]
    for path, operations in found["paths"].items():
        for operation in operations.values():
            if path.startswith("/v1.0/"):
                operation["security"] = [{name: []} for name in _SCHEMES[strategy]]
    app.openapi_schema = found
    return found
