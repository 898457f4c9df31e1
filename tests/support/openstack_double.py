"""A small OpenStack in memory, behind real HTTP: as much of Keystone, Nova, Cinder, Neutron and Glance as the driver
asks for. It keeps their rules of what may be done when, since those decide races; the contract suite holds it to them.

Neutron is in openstack_double_network, Cinder in openstack_double_volumes.
"""

from __future__ import annotations

import asyncio
import base64
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from aiohttp import web

from support.faulty_proxy import version_of
from support.openstack_double_network import Network, Refusal, matching
from support.openstack_double_volumes import BlockStorage, Thing, found, now, paged

PASSWORD = "a-password"
FLAVORS = {"small": (256, 1), "medium": (512, 1), "large": (1024, 1)}
TOO_LARGE = 1_000_000


@dataclass
class Double:
    """`delay` is how many seconds each thing takes that the real services do by and by."""

    delay: float = 0.02
    network: Network = field(default_factory=lambda: Network("service-project"))
    servers: dict[str, Thing] = field(default_factory=dict)
    user_data: dict[str, bytes] = field(default_factory=dict)
    """By server: what Nova shows to nobody but the machine."""
    actions: dict[str, list[Thing]] = field(default_factory=dict)
    groups: dict[str, Thing] = field(default_factory=dict)
    flavors: dict[str, Thing] = field(default_factory=dict)
    images: dict[str, Thing] = field(default_factory=dict)
    tokens: set[str] = field(default_factory=set)
    page: int = 1000
    """How many things a listing of servers, volumes or snapshots shows at once."""
    port: int = 0
    _runner: web.AppRunner | None = None
    _before: dict[str, Thing] = field(default_factory=dict)
    """By server: its flavor before a resize that is not confirmed."""

    def __post_init__(self) -> None:
        self.storage = BlockStorage(self._later)
        for name, (ram, vcpus) in FLAVORS.items():
            self.add_flavor(name, ram, vcpus)
        image = str(uuid.uuid4())
        self.images[image] = {"id": image, "name": "guest", "status": "active", "created_at": now()}

    def add_flavor(self, name: str, ram: int, vcpus: int = 1) -> None:
        identity = str(uuid.uuid4())
        self.flavors[identity] = {"id": identity, "name": name, "ram": ram, "vcpus": vcpus, "disk": 4}

    async def start(self) -> None:
        app = web.Application(client_max_size=1 << 22)
        app.router.add_route("*", "/{service}{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    def bases(self) -> dict[str, str]:
        names = ("identity", "compute", "network", "block_storage", "image")
        return {name: f"http://127.0.0.1:{self.port}/{name}" for name in names}

    def clouds(self, directory: Path) -> str:
        bases = self.bases()
        entry: Thing = {
            "auth_type": "v3password", "region_name": "one",
            "auth": {
                "auth_url": f"{bases.pop('identity')}/v3", "username": "dbaas", "password": PASSWORD,
                "project_name": "service", "user_domain_name": "Default", "project_domain_name": "Default",
            },
            **{f"{name}_endpoint_override": url for name, url in bases.items()},
        }
        path = directory / "double.yaml"
        path.write_text(yaml.safe_dump({"clouds": {"double": entry}}), encoding="utf-8")
        return str(path)

    def stop_server(self, server: str) -> None:
        self.servers[server].update({"status": "SHUTOFF", "OS-EXT-STS:task_state": None})

    # --- HTTP ---

    async def _handle(self, request: web.Request) -> web.Response:
        service, path = request.match_info["service"], request.match_info["path"].strip("/")
        if service == "identity":
            return self._sign_in(await request.json())
        if not path:
            return web.json_response(version_of(service, str(request.url)))
        if request.headers.get("X-Auth-Token") not in self.tokens:
            return web.json_response({"error": {"message": "The request requires authentication."}}, status=401)
        body = await request.json() if request.can_read_body else {}
        parts = tuple(path.split("/"))
        try:
            answer = getattr(self, f"_{service}")(request, parts, body)
        except Refusal as refusal:
            return web.json_response(refusal.body, status=refusal.status)
        if answer is None:
            return web.Response(status=204)
        status = {"POST": 202 if service == "compute" else 201}.get(request.method, 200)
        return web.json_response(answer, status=status)

    def _sign_in(self, body: Thing) -> web.Response:
        if body["auth"]["identity"]["password"]["user"]["password"] != PASSWORD:
            return web.json_response({"error": {"message": "unauthorized", "code": 401}}, status=401)
        token = uuid.uuid4().hex
        self.tokens.add(token)
        shown = {
            "methods": ["password"], "expires_at": "2099-01-01T00:00:00.000000Z", "issued_at": now() + "Z",
            "user": {"id": "u", "name": "dbaas", "domain": {"id": "default", "name": "Default"}},
            "project": {"id": "service-project", "name": "service", "domain": {"id": "default", "name": "Default"}},
            "roles": [{"id": "r", "name": "admin"}], "catalog": [],
        }
        return web.json_response({"token": shown}, status=201, headers={"X-Subject-Token": token})

    def _network(self, request: web.Request, parts: tuple[str, ...], body: Thing) -> Thing | None:
        return self.network.answer(request, parts, body)

    def _block_storage(self, request: web.Request, parts: tuple[str, ...], body: Thing) -> Thing | None:
        return self.storage.answer(request, parts, body, self.page)

    def _image(self, request: web.Request, parts: tuple[str, ...], _body: Thing) -> Thing:
        if len(parts) == 2:
            return found(self.images, parts[1])
        return {"images": matching(self.images.values(), request.query, ignored={"sort", "limit"})}

    # --- Nova ---

    def _compute(self, request: web.Request, parts: tuple[str, ...], body: Thing) -> Thing | None:
        if request.headers.get("OpenStack-API-Version", "") not in {"compute 2.71", "compute 2.93"}:
            raise Refusal(400, "this double knows no other version")
        match (request.method, *parts):
            case "GET", "flavors", "detail":
                return {"flavors": list(self.flavors.values())}
            case "GET", "flavors", identity:
                return {"flavor": found(self.flavors, identity)}
            case "GET", "servers", "detail":
                wanted = set(request.query.get("tags", "").split(",")) - {""}
                shown = [self._shown(s) for s in self.servers.values() if wanted <= set(s["tags"])]
                for server in shown:
                    del server["server_groups"]  # as in the real one's listings
                return paged("servers", request, shown, self.page)
            case "POST", "servers":
                return {"server": {"id": self._make_server(body)}}
            case "GET", "servers", identity:
                return {"server": self._shown(found(self.servers, identity))}
            case "DELETE", "servers", identity:
                self._delete_server(found(self.servers, identity))
                return None
            case "POST", "servers", identity, "metadata":
                found(self.servers, identity)["metadata"] |= body["metadata"]
                return body
            case "POST", "servers", identity, "action":
                (name, given), *_ = body.items()
                return self._act(found(self.servers, identity), name, given)
            case "GET", "servers", identity, "os-instance-actions":
                return {"instanceActions": self.actions[found(self.servers, identity)["id"]]}
            case "GET", "servers", identity, "os-instance-actions", asked:
                return {"instanceAction": next(one for one in self.actions[identity] if one["request_id"] == asked)}
            case "GET", "os-server-groups":
                return {"server_groups": list(self.groups.values())[int(request.query.get("offset", 0)):]}
            case "POST", "os-server-groups":
                group = {"id": str(uuid.uuid4()), "members": [], **body["server_group"]}
                self.groups[group["id"]] = group
                return {"server_group": group}
            case "GET", "os-server-groups", identity:
                return {"server_group": found(self.groups, identity)}
            case "DELETE", "os-server-groups", identity:
                self.groups.pop(found(self.groups, identity)["id"])
                return None
        raise Refusal(404, f"no {parts}")

    def _make_server(self, body: Thing) -> str:
        wanted = body["server"]
        flavor = self.flavors.get(wanted["flavorRef"])
        if flavor is None:
            raise Refusal(400, "Flavor could not be found.")
        disks = wanted["block_device_mapping_v2"]
        if disks[0]["uuid"] not in self.images:
            raise Refusal(400, "Image could not be found.")
        ports = [found(self.network.things["ports"], one["port"]) for one in wanted["networks"]]
        if any(port["device_id"] for port in ports):
            raise Refusal(409, "Port is still in use.")
        volume = self.storage.volumes.get(disks[1]["uuid"])
        if volume is None or volume["status"] != "available":
            raise Refusal(400, "Invalid volume: status must be available")
        group = body.get("os:scheduler_hints", {}).get("group")
        if group is not None and group not in self.groups:
            raise Refusal(400, f"Instance group {group} could not be found.")
        identity = str(uuid.uuid4())
        server: Thing = {
            "id": identity, "name": wanted["name"], "created": now()[:19] + "Z", "status": "BUILD",
            "OS-EXT-STS:task_state": "spawning", "OS-EXT-STS:power_state": 1, "metadata": dict(wanted["metadata"]),
            "tags": list(wanted["tags"]), "flavor": {"original_name": flavor["name"]}, "server_groups": [],
            "os-extended-volumes:volumes_attached": [{"id": volume["id"]}],
        }
        if group is not None:
            self.groups[group]["members"].append(identity)
            server["server_groups"] = [group]
        self.servers[identity], self.actions[identity] = server, []
        self.user_data[identity] = base64.b64decode(wanted["user_data"])
        self._note(server, "create")
        volume["status"] = "reserved"
        for port in ports:
            port["device_id"] = identity

        def end() -> None:
            if flavor["ram"] >= TOO_LARGE:
                self._becomes(server, "ERROR")
                told = {"message": "No valid host was found. There are not enough hosts available."}
                self._later(lambda: server.update(fault=told))
            else:
                volume.update(status="in-use", attachments=[{"server_id": identity}])
                self._becomes(server, "ACTIVE")

        self._later(end)
        return identity

    def _delete_server(self, server: Thing) -> None:
        if server["OS-EXT-STS:task_state"] == "deleting":
            return
        server["OS-EXT-STS:task_state"] = "deleting"

        def end() -> None:
            self.servers.pop(server["id"], None)
            for port in self.network.things["ports"].values():
                if port["device_id"] == server["id"]:
                    port["device_id"] = ""
            for one in server["os-extended-volumes:volumes_attached"]:
                self.storage.volumes[one["id"]].update(status="available", attachments=[])
            for group in self.groups.values():
                group["members"] = [member for member in group["members"] if member != server["id"]]

        self._later(end)

    def _act(self, server: Thing, name: str, given: Any) -> Thing | None:
        allowed = {
            "os-start": {"SHUTOFF"}, "os-stop": {"ACTIVE", "ERROR"}, "reboot": {"ACTIVE", "SHUTOFF", "ERROR"},
            "resize": {"ACTIVE", "SHUTOFF"}, "confirmResize": {"VERIFY_RESIZE"}, "revertResize": {"VERIFY_RESIZE"},
            "rebuild": {"ACTIVE", "SHUTOFF", "ERROR"}, "os-getConsoleOutput": {"ACTIVE", "SHUTOFF"},
        }[name]
        if server["status"] not in allowed or server["OS-EXT-STS:task_state"]:
            raise Refusal(409, f"Cannot '{name}' instance while it is in vm_state {server['status']}")
        if name == "os-getConsoleOutput":
            return {"output": "one\ntwo\n"}
        if name in {"confirmResize", "revertResize"} and server["id"] not in self._before:
            raise Refusal(400, "Instance has not been resized.")
        noted = self._note(server, name.removeprefix("os-"))
        before = server["status"]
        doing: Mapping[str, tuple[str, str, str]] = {
            "os-start": (before, "powering-on", "ACTIVE"), "os-stop": (before, "powering-off", "SHUTOFF"),
            "reboot": ("REBOOT", "rebooting", "ACTIVE"), "resize": ("RESIZE", "resize_prep", "VERIFY_RESIZE"),
            "confirmResize": (before, "", "ACTIVE"), "revertResize": ("REVERT_RESIZE", "resize_reverting", "ACTIVE"),
            "rebuild": ("REBUILD", "rebuilding", "SHUTOFF" if before == "SHUTOFF" else "ACTIVE"),
        }
        status, task, after = doing[name]
        flavor: Thing = {}
        if name == "resize":
            flavor = self.flavors[given["flavorRef"]]
            if flavor["ram"] >= TOO_LARGE:
                after = before
                noted["events"] = [{"traceback": "nova.exception.NoValidHost: No valid host was found."}]
            else:
                self._before[server["id"]] = dict(server["flavor"])
        if name == "rebuild":
            server["metadata"] = dict(given["metadata"])
            self.user_data[server["id"]] = base64.b64decode(given["user_data"])
        server.update({"status": status, "OS-EXT-STS:task_state": task or None})

        def end() -> None:
            if name == "resize" and after == "VERIFY_RESIZE":
                server["flavor"] = {"original_name": flavor["name"]}
            if name == "revertResize":
                server["flavor"] = former
            self._becomes(server, after)

        former = self._before.pop(server["id"]) if name in {"confirmResize", "revertResize"} else {}
        self._later(end)
        return None

    def _note(self, server: Thing, action: str) -> Thing:
        noted: Thing = {"action": action, "request_id": f"req-{uuid.uuid4()}", "start_time": now()}
        self.actions[server["id"]].insert(0, noted)
        return noted

    def _shown(self, server: Thing) -> Thing:
        return {key: value for key, value in server.items() if key != "fault" or server["status"] == "ERROR"}

    @staticmethod
    def _becomes(server: Thing, status: str) -> None:
        if server["OS-EXT-STS:task_state"] != "deleting":
            server.update({"status": status, "OS-EXT-STS:task_state": None})

    def _later(self, end: Callable[[], object]) -> None:
        asyncio.get_running_loop().call_later(self.delay, end)
