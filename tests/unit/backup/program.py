"""The real entry point with a tool made of shell scripts: `python program.py SOURCE_SCRIPT [UNPACK_SCRIPT]`."""

from __future__ import annotations

import sys

import coffer_datastores
from coffer_backup.main import main
from unit.backup.fakes import ScriptTool

if __name__ == "__main__":
    tool = ScriptTool(*sys.argv[1:])
    coffer_datastores.tool = lambda name: tool if name == "scripted" else coffer_datastores.driver(name)  # type: ignore[assignment]
    main()
