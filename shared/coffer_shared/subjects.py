"""The NATS subject of every message, and the checks that no server does for us.

An instance id enters a subject only through `instance_id`, because an id such as `*` would widen a permission, and an
answer goes only to a reply subject that `reply_allowed` passed, because the server never checks reply subjects.
"""

from __future__ import annotations

import re

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")

HEARTBEATS = "g.*.hb"
EVENTS = "g.*.ev"
REQUESTS = "g.*.req"
ENROLMENTS = "e.*.enrol"
WAKES = "ctl.*.wake"


def instance_id(text: str) -> str:
    """The id itself if it is a lower-case UUID; ValueError otherwise."""
    if not _UUID.fullmatch(text):
        raise ValueError("not an instance id")
    return text


def command(instance: str) -> str:
    return f"g.{instance_id(instance)}.cmd"


def heartbeat(instance: str) -> str:
    return f"g.{instance_id(instance)}.hb"


def event(instance: str) -> str:
    return f"g.{instance_id(instance)}.ev"


def request(instance: str) -> str:
    return f"g.{instance_id(instance)}.req"


def guest_inbox(instance: str) -> str:
    """Prefix, without the last dot, of the subjects on which a guest receives answers."""
    return f"g.{instance_id(instance)}.in"


def enrol(instance: str) -> str:
    return f"e.{instance_id(instance)}.enrol"


def enrol_inbox(instance: str) -> str:
    return f"e.{instance_id(instance)}.in"


def wake(instance: str) -> str:
    return f"ctl.{instance_id(instance)}.wake"


def instance_of(subject: str) -> str:
    """The instance id in a received subject; ValueError if it has none."""
    parts = subject.split(".")
    if len(parts) < 3:
        raise ValueError("no instance id in the subject")
    return instance_id(parts[1])


def reply_allowed(subject: str, reply: str) -> bool:
    """Whether `reply` lies in the inbox of the guest that sent on `subject`."""
    first, instance, *_ = subject.split(".")
    prefix = f"{first}.{instance}.in."
    return reply.startswith(prefix) and len(reply) > len(prefix) and "*" not in reply and ">" not in reply
