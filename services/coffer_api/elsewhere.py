"""The parts of the Trove API that this release does not have.

What clients probe on their way to something else is answered truthfully (there are none); the rest is 501, never a
success that is none.
"""

from __future__ import annotations

import re

from starlette.responses import Response

from coffer_api.call import Call, Handler, Routes, reply
from coffer_api.identity import MANAGEMENT
from coffer_api.problems import not_found, not_in_this_release

ROUTES = Routes("not in this release")

_ABSENT = (
    # what, methods, paths
    ("Modules", "GET POST", ("/instances/{id}/modules",)),
    ("Modules", "DELETE", ("/instances/{id}/modules/{module}",)),
    ("Modules", "POST", ("/modules",)),
    ("Clusters", "POST", ("/clusters",)),
    ("Management of instances", "POST", ("/mgmt/instances/{id}/upgrade",)),
    ("Management of instances", "GET", ("/mgmt/instances/{id}/hwinfo", "/mgmt/instances/{id}/diagnostics")),
)
_RULES = {
    ("GET", "/instances/{id}/modules"): "instance:module_list",
    ("POST", "/instances/{id}/modules"): "instance:module_apply",
    ("DELETE", "/instances/{id}/modules/{module}"): "instance:module_remove",
    ("POST", "/modules"): "module:create",
    ("POST", "/clusters"): "cluster:create",
}
_EMPTY = (("clusters", "cluster:index"), ("modules", "module:index"), ("mgmt/clusters", MANAGEMENT))
_NONE_OF = (
    # the sentence, the path of one item, then methods and paths below it
    (
        "Cluster '{}' cannot be found.", "/clusters/{id}",
        (("DELETE", ""), ("POST", ""), ("GET", "/root"), ("POST", "/root"), ("GET", "/instances/{instance}")),
    ),
    ("Cluster '{}' cannot be found.", "/mgmt/clusters/{id}", (("POST", "/action"),)),
    (
        "Module {} cannot be found.", "/modules/{id}",
        (("DELETE", ""), ("PUT", ""), ("GET", "/instances"), ("PUT", "/instances")),
    ),
)


def _absent(what: str) -> Handler:
    async def not_in_this_release_yet(_call: Call) -> Response:
        raise not_in_this_release(what)

    return not_in_this_release_yet


def _empty(key: str) -> Handler:
    async def nothing(_call: Call) -> Response:
        return reply({key: []})

    return nothing


def _none(sentence: str, path: str) -> Handler:
    part = path.split("/").index("{id}") - 1

    async def not_there(call: Call) -> Response:
        raise not_found(sentence.format(call.part(part)[:255]))

    return not_there


def _declare() -> None:
    for key, rule in _EMPTY:
        ROUTES.add("GET", f"/{key}", rule=rule, name=f"list_{key.replace('/', '_')}")(_empty(key.rpartition("/")[2]))
    for sentence, path, below in _NONE_OF:
        for method, rest in (("GET", ""), *below):
            where = path + rest
            ROUTES.add(method, where, rule=_rule(where), status=404, name=_name(method, where))(_none(sentence, path))
    for what, methods, paths in _ABSENT:
        for path in paths:
            for method in methods.split():
                needed = _RULES.get((method, path)) or _rule(path)
                ROUTES.add(method, path, rule=needed, status=501, name=_name(method, path))(_absent(what))


def _rule(path: str) -> str | None:
    return MANAGEMENT if path.startswith("/mgmt/") else None


def _name(method: str, path: str) -> str:
    return "_".join(re.findall(r"[a-z]+", f"{method.lower()} {path}"))


_declare()
