"""Every message between the services and a guest, as versioned structs.

A field may be added with a default; none is removed or changes its meaning within one release, so an agent one
release older or newer still understands what it needs (`tests/contract/messages` holds this down). Decoding ignores
unknown fields. What travels here is always inside a sealed envelope: see `seal`.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, TypeAlias

import msgspec

from coffer_shared.backups import Grant

VERSION = 1


class Message(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="t"):
    """Base of all messages; `t` tells them apart on the wire."""


# --- commands: a service to a guest, on g.<instance>.cmd ---


class Start(Message, tag="start", kw_only=True, frozen=True):
    """Run a command once. `op` is the operation id and idempotency key: the same id never runs twice."""

    op: str
    kind: str
    """One of the guest's command kinds: prepare, restart, stop, start, create_users, ... (`coffer_guest.commands`)."""
    args: dict[str, Any] = {}
    deadline: float
    """Unix seconds; the guest ends the work itself when it passes."""
    trace: str = ""


class Cancel(Message, tag="cancel", kw_only=True, frozen=True):
    """End a running command; it then reports `cancelled`."""

    op: str


class Query(Message, tag="query", kw_only=True, frozen=True):
    """Ask for live data; read only and not journaled. The only command that the API's key may send."""

    name: str
    args: dict[str, Any] = {}
    deadline: float
    trace: str = ""


class Probe(Message, tag="probe", kw_only=True, frozen=True):
    """Desired state changed: fetch it now (`Sync`) instead of at the next interval."""


Command: TypeAlias = Start | Cancel | Query | Probe


class Accepted(Message, tag="accepted", kw_only=True, frozen=True):
    """The command is in the journal (or was already): a terminal event will follow."""


class Answer(Message, tag="answer", kw_only=True, frozen=True):
    """What a query found."""

    result: Any = None


class Refused(Message, tag="refused", kw_only=True, frozen=True):
    """The command will not run. `code` is one of `Failure`."""

    code: str
    text: str = ""


CommandAnswer: TypeAlias = Accepted | Answer | Refused


class Failure(StrEnum):
    """Why a command failed or was refused, as codes that cross the wire. Texts are for people."""

    BUSY = "busy"
    """Another command runs; the text says which."""
    DEADLINE = "deadline"
    INTERRUPTED = "interrupted"
    """The agent restarted while a command ran that cannot be resumed."""
    CANCELLED = "cancelled"
    UNKNOWN_KIND = "unknown_kind"
    FORBIDDEN = "forbidden"
    """The sender's key may not send this kind."""
    INVALID = "invalid"
    """The arguments are refused, by the agent or by the engine."""
    EXISTS = "exists"
    NOT_FOUND = "not_found"
    NOT_READY = "not_ready"
    """The database does not answer now."""
    IMAGE = "image"
    """The engine's image could not be pulled."""
    VOLUME = "volume"
    """The data volume is not what the control plane recorded."""
    ENGINE = "engine"
    """The engine failed or did not become healthy."""
    STORAGE = "storage"
    """The object store refused, or did not answer for as long as it was tried."""
    DAMAGED = "damaged"
    """A stored backup is not what was written; the text names the segment."""
    INTERNAL = "internal"


# --- events: a guest to the status-collector, on g.<instance>.ev; each is acknowledged with `Noted` ---


class Progress(Message, tag="progress", kw_only=True, frozen=True):
    """Something happened in a running command. `n` counts the events of one operation from 0 without a gap."""

    op: str
    n: int
    percent: int = 0
    text: str = ""
    at: float


class Finished(Message, tag="finished", kw_only=True, frozen=True):
    """The one terminal event of a command."""

    op: str
    n: int
    state: str
    """done, failed or cancelled."""
    result: dict[str, Any] = {}
    code: str = ""
    text: str = ""
    at: float


Event: TypeAlias = Progress | Finished


class Noted(Message, tag="noted", kw_only=True, frozen=True):
    """The event is stored; the guest may forget it."""


# --- heartbeat: a guest to the status-collector, on g.<instance>.hb; unacknowledged, the newest wins ---


class Engine(StrEnum):
    """What the agent saw of the database, each a fact."""

    ABSENT = "absent"
    """There is no database container (not prepared yet)."""
    STARTING = "starting"
    RUNNING = "running"
    """The container runs; its last health query has not succeeded yet."""
    HEALTHY = "healthy"
    """A query was answered at `checked_at`."""
    UNHEALTHY = "unhealthy"
    """The container runs but queries fail or hang."""
    STOPPED = "stopped"
    """Stopped on purpose."""
    CRASHED = "crashed"
    """The container is not running and nobody stopped it."""


class VolumeFacts(msgspec.Struct, frozen=True, omit_defaults=True):
    total_bytes: int = 0
    used_bytes: int = 0
    fs_uuid: str = ""


class Heartbeat(Message, tag="heartbeat", kw_only=True, frozen=True):
    """The agent's facts at `at` (guest clock, unix seconds)."""

    at: float
    version: str
    """The agent's version."""
    engine: Engine
    checked_at: float = 0.0
    detail: str = ""
    """Why the engine is not healthy, in one sentence."""
    engine_version: str = ""
    started_at: float = 0.0
    """When the database container was started."""
    running: list[str] = []
    """Operation ids of commands now running."""
    volume: VolumeFacts = VolumeFacts()
    restart_required: list[str] = []
    metrics: dict[str, float] = {}
    """Series under the stock exporters' names, without the instance label."""
    boot: str = ""
    """Random per agent start."""


# --- requests: a guest to the provisioner, on g.<instance>.req ---


class Sync(Message, tag="sync", kw_only=True, frozen=True):
    """On connect, on `Probe` and every five minutes: what should be so?"""

    version: str


class Renew(Message, tag="renew", kw_only=True, frozen=True):
    """A new NATS user JWT for the present nkey."""


class Rotate(Message, tag="rotate", kw_only=True, frozen=True):
    """New guest keys, sealed with the old ones. Public parts only."""

    xpub: str
    """X25519 public key, hex."""
    nkey: str


class RenewGrant(Message, tag="renew-grant", kw_only=True, frozen=True):
    """The storage grant of a running command expires soon."""

    op: str


class Frozen(Message, tag="frozen", kw_only=True, frozen=True):
    """The data volume stands still for this operation, so that it can be copied: is the copy made? Asked again and
    again while it stands still."""

    op: str


Request: TypeAlias = Sync | Renew | Rotate | RenewGrant | Frozen


class Desired(Message, tag="desired", kw_only=True, frozen=True):
    """Answer to `Sync`: what the agent needs that no command carries."""

    now: float
    allowed_cidrs: list[str] = []
    keyset: str = ""
    jwt_expires_at: float = 0.0


class Credential(Message, tag="credential", kw_only=True, frozen=True):
    """Answer to `Renew`, `Rotate` and enrolment: a user JWT, the service's time, the signed key set."""

    jwt: str
    now: float
    keyset: str = ""


class Granted(Message, tag="granted", kw_only=True, frozen=True):
    """Answer to `RenewGrant`."""

    grant: Grant


class Copied(Message, tag="copied", kw_only=True, frozen=True):
    """Answer to `Frozen`."""

    done: bool
    """The copy is made, and the volume may be written to again."""


class Denied(Message, tag="denied", kw_only=True, frozen=True):
    """The request is refused for good."""

    code: str
    text: str = ""


RequestAnswer: TypeAlias = Desired | Credential | Granted | Copied | Denied


class Enrol(Message, tag="enrol", kw_only=True, frozen=True):
    """First contact, on e.<instance>.enrol, under the one-time bootstrap credential."""

    secret: str
    """The one-time secret from user data, hex."""
    xpub: str
    nkey: str
    version: str = ""


# --- between services, on ctl.<instance>.wake ---


class Wake(Message, tag="wake", kw_only=True, frozen=True):
    """Look at the database now: an operation of this instance changed. Carries nothing that is not in the database."""

    op: str = ""


def encode(message: Message) -> bytes:
    return _encoder.encode(message)


_encoder = msgspec.json.Encoder()
decode_command = msgspec.json.Decoder(Command).decode
decode_command_answer = msgspec.json.Decoder(CommandAnswer).decode
decode_event = msgspec.json.Decoder(Event).decode
decode_noted = msgspec.json.Decoder(Noted).decode
decode_heartbeat = msgspec.json.Decoder(Heartbeat).decode
decode_request = msgspec.json.Decoder(Request).decode
decode_request_answer = msgspec.json.Decoder(RequestAnswer).decode
decode_enrol = msgspec.json.Decoder(Enrol).decode
decode_wake = msgspec.json.Decoder(Wake).decode
