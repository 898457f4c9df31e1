"""An OpenStack in a few hundred lines, in this process: as much of Keystone, Swift, Neutron and Nova as Coffer asks
with tenants' tokens. What Swift answers to whom is what a real one answers (`tests/on_openstack/test_tenant.py`).
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from aiohttp import web
from multidict import CIMultiDict

OPERATORS = {"admin", "member", "swiftoperator"}
_OWNERS_ONLY = frozenset({
    "x-container-read", "x-container-write", "x-container-meta-temp-url-key", "x-container-meta-temp-url-key-2",
})


@dataclass(frozen=True)
class Person:
    id: str
    project: str
    roles: tuple[str, ...] = ("member",)
    password: str = "pass-word-of-a-person"


@dataclass
class Kept:
    """A container."""

    headers: CIMultiDict[str] = field(default_factory=CIMultiDict)
    objects: dict[str, bytes] = field(default_factory=dict)


class FakeOpenStack:
    """`faults` by service ("identity", "network", "compute", "object-store"): a status for every answer, or 0 for none.
    `before` is awaited before each answer is made, `after` before it is sent."""

    def __init__(self) -> None:
        self.url = ""
        self.people: dict[str, Person] = {}
        self.tokens: dict[str, Person] = {}
        self.containers: dict[tuple[str, str], Kept] = {}
        self.networks: dict[str, dict[str, Any]] = {}
        self.subnets: dict[str, dict[str, Any]] = {}
        self.flavors: dict[str, dict[str, Any]] = {}
        self.asked: list[tuple[str, str, str]] = []
        """Service, method, path."""
        self.faults: dict[str, int] = {}
        self.before: Callable[[web.Request], Awaitable[None]] | None = None
        self.after: Callable[[web.Request], Awaitable[None]] | None = None
        self.service = self.person(project="service", roles=("service",))
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application(client_max_size=2**26)
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    # --- what people do to it ---
    def person(self, project: str = "", roles: tuple[str, ...] = ("member",)) -> Person:
        made = Person(uuid.uuid4().hex, project or uuid.uuid4().hex, roles)
        self.people[made.id] = made
        return made

    def token(self, person: Person) -> str:
        made = f"token-{uuid.uuid4().hex}"
        self.tokens[made] = person
        return made

    def clouds(self, directory: Path, person: Person | None = None) -> str:
        """Path of a clouds.yaml with that user, else the service's, as the cloud `coffer`."""
        who = person or self.service
        path = directory / f"clouds-{who.id}.yaml"
        auth = {"auth_url": f"{self.url}/v3", "user_id": who.id, "password": who.password, "project_id": who.project}
        path.write_text(json.dumps({"clouds": {"coffer": {
            "auth": auth, "identity_api_version": 3, "region_name": "RegionOne",
        }}}))
        return str(path)

    def network(self, project: str, cidr: str = "10.5.0.0/24", **more: Any) -> tuple[str, str]:
        """With one subnet; the ids of both."""
        network, subnet = str(uuid.uuid4()), str(uuid.uuid4())
        self.networks[network] = {"id": network, "tenant_id": project, "shared": False, "subnets": [subnet], **more}
        gateway = cidr.rpartition(".")[0] + ".1"
        self.subnets[subnet] = {"id": subnet, "network_id": network, "cidr": cidr, "gateway_ip": gateway}
        return network, subnet

    def kept(self, project: str, name: str) -> Kept:
        return self.containers[f"AUTH_{project}", name]

    # --- answers ---
    async def _answer(self, request: web.Request) -> web.StreamResponse:
        service, answer = self._service(request.path)
        self.asked.append((service, request.method, request.path))
        if self.before is not None:
            await self.before(request)
        if service in self.faults:
            if not self.faults[service]:
                await asyncio.Event().wait()
            return web.Response(status=self.faults[service], headers={"Location": "http://elsewhere.invalid/"})
        if service == "identity":
            return await answer(request)
        person = self.tokens.get(request.headers.get("X-Auth-Token", ""))
        if person is None and "temp_url_sig" not in request.query:
            return web.Response(status=401)
        made = await answer(request, person)
        if self.after is not None:
            await self.after(request)
        return made

    def _service(self, path: str) -> tuple[str, Callable[..., Awaitable[web.StreamResponse]]]:
        for start, service, answer in (
            ("/v3", "identity", self._identity), ("/v2.0/", "network", self._network),
            ("/v2.1/", "compute", self._compute), ("/v1/", "object-store", self._store),
        ):
            if path.startswith(start):
                return service, answer
        raise AssertionError(path)

    async def _identity(self, request: web.Request) -> web.StreamResponse:
        if request.path.rstrip("/") == "/v3":
            links = [{"rel": "self", "href": f"{self.url}/v3/"}]
            return web.json_response({"version": {"id": "v3.14", "status": "stable", "links": links}})
        if request.method == "POST":
            given = (await request.json())["auth"]["identity"]["password"]["user"]
            person = self.people.get(given["id"])
            if person is None or person.password != given["password"]:
                return web.json_response({}, status=401)
            token = self.token(person)
            return web.json_response(
                {"token": self._described(person)}, status=201, headers={"X-Subject-Token": token},
            )
        if request.headers.get("X-Auth-Token", "") not in self.tokens:
            return web.json_response({}, status=401)
        if "OS-REVOKE" in request.path:
            return web.json_response({"events": []})
        person = self.tokens.get(request.headers["X-Subject-Token"])
        return web.json_response({"token": self._described(person)} if person else {}, status=200 if person else 404)

    def _described(self, person: Person) -> dict[str, Any]:
        now = datetime.now(UTC)
        places = {
            "network": "", "compute": "/v2.1", "object-store": f"/v1/AUTH_{person.project}", "identity": "/v3",
        }
        return {
            "methods": ["password"], "user": {"id": person.id, "name": person.id, "domain": {"id": "default"}},
            "project": {"id": person.project, "name": person.project, "domain": {"id": "default"}},
            "roles": [{"id": role, "name": role} for role in person.roles],
            "issued_at": now.isoformat(), "expires_at": (now + timedelta(hours=1)).isoformat(),
            "catalog": [
                {"type": kind, "name": kind, "id": kind, "endpoints": [
                    {"id": kind, "interface": "public", "region": "RegionOne", "region_id": "RegionOne",
                     "url": self.url + path},
                ]}
                for kind, path in places.items()
            ],
        }

    async def _network(self, request: web.Request, person: Person) -> web.StreamResponse:
        _, _, kind, wanted = request.path.split("/")
        found = (self.networks if kind == "networks" else self.subnets).get(wanted)
        network = found if kind == "networks" else found and self.networks[found["network_id"]]
        shown = network is not None and (
            network["tenant_id"] == person.project or network["shared"] or network.get("router:external")
            or "admin" in person.roles
        )
        return web.json_response({kind[:-1]: found} if shown else {}, status=200 if shown else 404)

    async def _compute(self, request: web.Request, person: Person) -> web.StreamResponse:
        seen = [
            {"id": id_, **flavor} for id_, flavor in self.flavors.items()
            if person.project in flavor.get("only", (person.project,)) or "admin" in person.roles
        ]
        wanted = unquote(request.path).removeprefix("/v2.1/flavors").strip("/")
        if wanted not in {"", "detail"}:
            found = [flavor for flavor in seen if flavor["id"] == wanted]
            return web.json_response({"flavor": found[0]} if found else {}, status=200 if found else 404)
        marker = request.query.get("marker")
        after = next((n + 1 for n, flavor in enumerate(seen) if flavor["id"] == marker), 0)
        page = seen[after : after + 2]
        more = {"flavors_links": [{"rel": "next", "href": "x"}]} if after + 2 < len(seen) else {}
        return web.json_response({"flavors": page, **more})

    async def _store(self, request: web.Request, person: Person | None) -> web.StreamResponse:
        _, _, account, name, *rest = unquote(request.path).split("/", 4)
        kept, item = self.containers.get((account, name)), rest[0] if rest else ""
        owner = person is not None and account == f"AUTH_{person.project}" and bool(OPERATORS & set(person.roles))
        if person is None:
            if kept is None or not _is_granted(request, kept):
                return web.Response(status=401)
        elif not owner and not _is_let_in(request.method, item, kept, person):
            return web.Response(status=403)
        if item:
            return await self._object(request, kept, item)
        if request.method in {"PUT", "POST"}:
            if kept is None and request.method == "POST":
                return web.Response(status=404)
            self.containers.setdefault((account, name), Kept())
            _set(self.containers[account, name], request)
            return web.Response(status={"POST": 204}.get(request.method, 201 if kept is None else 202))
        if kept is None:
            return web.Response(status=404)
        shown = {k: v for k, v in kept.headers.items() if owner or k.lower() not in _OWNERS_ONLY}
        if request.method == "GET":
            start, marker = request.query.get("prefix", ""), request.query.get("marker", "")
            listed = [
                {"name": key, "bytes": len(data), "hash": hashlib.md5(data).hexdigest()}
                for key, data in sorted(kept.objects.items()) if key.startswith(start) and key > marker
            ]
            return web.json_response(listed[:1000], headers=shown)
        return web.Response(status=204, headers=shown)

    async def _object(self, request: web.Request, kept: Kept | None, item: str) -> web.StreamResponse:
        if request.method == "PUT" and kept is not None:
            kept.objects[item] = await request.read()
            return web.Response(status=201)
        if kept is None or item not in kept.objects:
            return web.Response(status=404)
        if request.method == "DELETE":
            del kept.objects[item]
        status = {"DELETE": 204, "POST": 202}.get(request.method, 200)
        return web.Response(status=status, body=kept.objects.get(item) if request.method == "GET" else None)


def _set(kept: Kept, request: web.Request) -> None:
    for key, value in request.headers.items():
        if key.lower().startswith("x-container-"):
            kept.headers.pop(key, None)
            if value:
                kept.headers[key] = value


def _is_let_in(method: str, item: str, kept: Kept | None, person: Person) -> bool:
    """By the container's ACL, which says nothing of the container itself but that it may be looked at."""
    if kept is None or (not item and method not in {"HEAD", "GET"}):
        return False
    acl = kept.headers.get("X-Container-Read" if method in {"HEAD", "GET"} else "X-Container-Write", "")
    return f"{person.project}:{person.id}" in [entry.strip() for entry in acl.split(",")]


def _is_granted(request: web.Request, kept: Kept) -> bool:
    prefix, expires = request.query["temp_url_prefix"], int(request.query["temp_url_expires"])
    _, version, account, name, item = unquote(request.path).split("/", 4)
    if expires < time.time() or not item.startswith(prefix):
        return False
    methods = ("GET", "PUT") if request.method == "HEAD" else (request.method,)
    keys = [kept.headers.get(f"X-Container-Meta-Temp-URL-Key{n}", "") for n in ("", "-2")]
    told = [
        hmac.new(key.encode(), f"{method}\n{expires}\nprefix:/{version}/{account}/{name}/{prefix}".encode(), "sha256")
        for key in keys if key for method in methods
    ]
    return any(each.hexdigest() == request.query["temp_url_sig"] for each in told)
