"""One request as the handlers see it, and how a handler is declared: method, path, rule, body, reply in one place.

A handler takes a `Call` and returns a response. Routes are FastAPI's, so the OpenAPI document describes them all, but
they hand the request over directly: bodies are decoded and checked here, replies encoded with msgspec.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar
from urllib.parse import urlencode

import msgspec
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from coffer_api.identity import Identity, allowed
from coffer_api.problems import Problem, bad_request
from coffer_api.settings import Settings

if TYPE_CHECKING:
    from coffer_api.reach import Reach

PROJECT = "/v1.0/{project}"
MAX_BODY = 256 * 1024
_MODEL = TypeVar("_MODEL", bound=BaseModel)
_PARAMETER = re.compile(r"{(\w+)}")
_ERRORS = (400, 401, 403, 404, 413, 500, 503)
"""Bad parameters; no or wrong credentials; not allowed; the project or item is not there; too many requests; a fault of
ours; the database is away."""
_BODY_ERRORS = (415,)
_HEADERS = {"X-Openstack-Request-Id": {"$ref": "#/components/headers/X-Openstack-Request-Id"}}
_EXTENSION = "*Extension: not in Trove's API.* "
_IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key", "in": "header", "schema": {"type": "string", "minLength": 1, "maxLength": 255},
    "description": "The same request again under the same key answers with what it did the first time.",
}
_encode = msgspec.json.Encoder().encode


class Call:
    """A request by a known caller."""

    __slots__ = ("_decoded", "api", "identity", "request")

    def __init__(self, request: Request, identity: Identity, api: Reach) -> None:
        self.request = request
        self.identity = identity
        self.api = api
        self._decoded: tuple[Any] | None = None

    @property
    def request_id(self) -> str:
        value: str = self.request.scope["request_id"]
        return value

    @property
    def token(self) -> str:
        """Keystone's, that the caller came with; empty where callers sign in otherwise. It goes to the tenant's own
        services and nowhere else: into no row, log or message."""
        given: str = self.request.headers.get("x-auth-token", "")
        return given if self.api.settings.auth_strategy == "keystone" else ""

    @property
    def project(self) -> str:
        return self.identity.project

    def part(self, number: int) -> str:
        """A decoded part of the path after the project, from 0; unlike a path parameter it may hold a slash."""
        value: str = self.request.scope["segments"][number + 2]
        return value

    def base(self) -> str:
        return base_url(self.api.settings, self.request)

    def limit(self) -> int:
        """Items on a page: as asked, but not more than the setting allows."""
        settings = self.api.settings
        text = self.request.query_params.get("limit")
        if text is None:
            return settings.page_size
        if not re.fullmatch(r"0*[1-9][0-9]{0,99}", text):
            raise bad_request("Validation error: limit must be an integer of at least 1.")
        return min(int(text), settings.max_page_size)

    def marker(self) -> str | None:
        text = self.request.query_params.get("marker")
        if text is not None and ("\0" in text or len(text) > 512):
            raise bad_request("Validation error: marker is not the id of an item.")
        return text

    def query(self, name: str) -> str | None:
        """A parameter of the query, None where it is not given or says nothing."""
        text = self.request.query_params.get(name)
        if text is not None and ("\0" in text or len(text) > 512):
            raise bad_request(f"Validation error: {name} is not the name or id of anything.")
        return text or None

    def next_links(self, collection: str, path: str, limit: int, marker: str) -> dict[str, Any]:
        """The keys that announce a further page, under Trove's name and under the one that gophercloud reads."""
        kept = [(k, v) for k, v in self.request.query_params.multi_items() if k not in {"limit", "marker"}]
        query = urlencode([*kept, ("limit", limit), ("marker", marker)])
        links = [{"rel": "next", "href": f"{self.base()}/v1.0/{self.project}/{path}?{query}"}]
        return {"links": links, f"{collection}_links": links}

    async def body(self, model: type[_MODEL]) -> _MODEL:
        """The body, decoded and checked. 400, 413 or 415 with the reason when it is not what the model says."""
        found = await self.json()
        if found is None:
            raise bad_request("The request has no body.")
        if not isinstance(found, dict):
            raise bad_request("Malformed request body: a JSON object is expected.")
        try:
            return model.model_validate(found)
        except ValidationError as error:
            raise bad_request(f"Validation error: {explain(error)}") from None

    async def json(self) -> Any:
        """The decoded body, None if there is none."""
        if self._decoded is None:
            self._decoded = (await self._decode(),)
        return self._decoded[0]

    async def _decode(self) -> Any:
        data = await self._read()
        if not data.strip():
            return None
        kind = self.request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
        if kind != "application/json" and not kind.endswith("+json"):
            raise Problem(415, f"Unsupported content type: {kind[:100]!r}; application/json is expected.")
        try:
            return msgspec.json.decode(data)
        except (msgspec.DecodeError, ValueError, RecursionError):
            raise bad_request("Malformed request body: it is not valid JSON.") from None

    async def _read(self) -> bytes:
        chunks: list[bytes] = []
        size = 0
        try:
            async for chunk in self.request.stream():
                size += len(chunk)
                if size > MAX_BODY:
                    raise Problem(413, f"The request body is larger than {MAX_BODY} bytes.", {"Connection": "close"})
                chunks.append(chunk)
        except ClientDisconnect:
            raise bad_request("The request body ended early.") from None
        return b"".join(chunks)


def base_url(settings: Settings, request: Request) -> str:
    """Scheme and authority under which the caller reaches this service."""
    if settings.public_endpoint:
        return settings.public_endpoint.rstrip("/")
    host = next((value for name, value in request.scope["headers"] if name == b"host"), b"localhost")
    return f"{request.scope['scheme']}://{host.decode('latin-1')}"


Handler: TypeAlias = Callable[[Call], Awaitable[Response]]


def reply(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(_encode(content), status, headers=headers, media_type="application/json")


def empty(status: int = 202, headers: dict[str, str] | None = None) -> Response:
    return Response(b"", status, headers=headers, media_type="application/json")


def explain(error: ValidationError, within: str = "body") -> str:
    """The failures as Trove words them: where, then what. Never the value, which may be a password. `within` names what
    was looked at, where a failure is of the whole of it."""
    found = []
    for item in error.errors(include_url=False, include_context=False, include_input=False):
        path, *rest = (str(part) if isinstance(part, str) else part for part in item["loc"] or (within,))
        where = str(path) + "".join(f"[{part!r}]" for part in rest)
        found.append(f"{where} {item['msg'][:1].lower()}{item['msg'][1:]}")
    return "; ".join(found[:10])


class DirectRoute(APIRoute):
    """A documented route whose endpoint gets the request itself."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler: Callable[[Request], Coroutine[Any, Any, Response]] = self.endpoint
        return handler


@dataclass(frozen=True, slots=True)
class Declared:
    method: str
    path: str
    handler: Handler
    rule: str | None
    name: str
    about: str
    status: int
    document: dict[str, Any]


class Routes:
    """Collects the declarations of one module; `build` binds them to what handlers may reach."""

    def __init__(self, tag: str) -> None:
        self._tag = tag
        self._declared: list[Declared] = []
        self.models: set[type[BaseModel]] = set()

    def add(
        self,
        method: str,
        path: str,
        *,
        rule: str | None,
        body: type[BaseModel] | None = None,
        body_required: bool = True,
        reply: type[BaseModel] | None = None,
        status: int = 200,
        paged: bool = False,
        query: tuple[str, ...] = (),
        errors: tuple[int, ...] = (),
        repeatable: bool = False,
        extension: bool = False,
        name: str = "",
    ) -> Callable[[Handler], Handler]:
        """`path` is below the project. `rule` None: any caller of the project. The rest documents; `query`: optional
        parameters beside those of paging; `errors`: statuses beside those that every call, or every call with a body,
        may be answered with; `repeatable`: it takes an Idempotency-Key; `extension`: Trove has no such call; the name
        of the operation is the handler's, where no other is given."""
        models = {m for m in (body, reply) if m is not None}
        self.models |= models
        extra: dict[str, Any] = {"parameters": _parameters(PROJECT + path, query, paged=paged)}
        if repeatable:
            extra["parameters"].append(_IDEMPOTENCY_KEY)
            errors = (*errors, 422)
        if body is not None:
            extra["requestBody"] = {"required": body_required, "content": _content(body, null=not body_required)}
        answer: dict[str, Any] = {"description": "Done" if status != 202 else "Accepted", "headers": dict(_HEADERS)}
        if method != "GET":
            answer["headers"]["X-Coffer-Operation"] = {"$ref": "#/components/headers/X-Coffer-Operation"}
        if reply is not None:
            answer["content"] = _content(reply)
        found = {*_ERRORS, *errors, *(_BODY_ERRORS if body is not None else ())} - {status}
        problem = {"$ref": "#/components/responses/Problem"}
        extra["responses"] = {str(status): answer, **{str(code): problem for code in sorted(found)}}
        if extension:
            extra["x-coffer-extension"] = True

        def declare(handler: Handler) -> Handler:
            about = (_EXTENSION if extension else "") + (handler.__doc__ or "").strip()
            self._declared.append(Declared(method, path, handler, rule, name or handler.__name__, about, status, extra))
            return handler

        return declare

    def build(self, api: Reach) -> list[APIRoute]:
        return [self._route(api, declared) for declared in self._declared]

    def _route(self, api: Reach, of: Declared) -> APIRoute:
        rule, handler = of.rule, of.handler

        async def endpoint(request: Request) -> Response:
            identity = request.scope["identity"] if rule is None else allowed(request, rule)
            return await handler(Call(request, identity, api))

        return DirectRoute(
            PROJECT + of.path, endpoint, methods=[of.method], name=of.name, operation_id=of.name, tags=[self._tag],
            summary=of.name.replace("_", " ").capitalize(), description=of.about, status_code=of.status,
            openapi_extra=of.document, response_model=None, response_class=Response,
        )


def _parameters(path: str, query: tuple[str, ...], *, paged: bool) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in _PARAMETER.findall(path)
    ]
    found += [{"name": name, "in": "query", "schema": {"type": "string"}} for name in query]
    if paged:
        found += [
            {"name": "limit", "in": "query", "schema": {"type": "integer", "minimum": 1}},
            {"name": "marker", "in": "query", "schema": {"type": "string"}},
        ]
    return found


def _content(model: type[BaseModel], *, null: bool = False) -> dict[str, Any]:
    """`null`: that says nothing, like no body."""
    schema: dict[str, Any] = {"$ref": f"#/components/schemas/{model.__name__}"}
    return {"application/json": {"schema": {"anyOf": [schema, {"type": "null"}]} if null else schema}}
