"""What agents and services of other releases read and write when a volume is snapshotted or adopted."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from coffer_shared import messages
from coffer_shared.commands import COMMANDS, Prepare, Snapshot, Snapshotted
from coffer_shared.messages import Copied, Frozen

OP = "0a0a0a0a-0000-4000-8000-000000000001"


def test_the_question_whether_the_copy_is_made() -> None:
    wire = b'{"t":"frozen","op":"%s"}' % OP.encode()
    assert messages.encode(Frozen(op=OP)) == wire
    assert messages.decode_request(wire[:-1] + b',"newer":1}') == Frozen(op=OP)


@pytest.mark.parametrize(("done", "text"), [(True, b"true"), (False, b"false")])
def test_its_answer(done: bool, text: bytes) -> None:
    wire = b'{"t":"copied","done":%s}' % text
    assert messages.encode(Copied(done=done)) == wire
    assert messages.decode_request_answer(wire[:-1] + b',"newer":1}') == Copied(done=done)


def test_the_commands() -> None:
    assert COMMANDS["snapshot"] is Snapshot
    assert COMMANDS["adopt"] is Prepare
    assert msgspec.convert({"seconds": 120, "newer": 1}, Snapshot) == Snapshot(120.0)
    assert msgspec.to_builtins(Snapshotted(4096)) == {"used_bytes": 4096}
    assert msgspec.convert({"used_bytes": 4096, "newer": 1}, Snapshotted) == Snapshotted(4096)


@pytest.mark.parametrize("args", [{}, {"seconds": 0}, {"seconds": 601}, {"seconds": "60"}])
def test_a_snapshot_has_a_time(args: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(args, Snapshot)
