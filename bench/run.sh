#!/bin/bash
# Every figure of docs/BENCHMARKS.md, on the running stack (started if it is not). Nothing here passes or fails.
set -eu
cd "$(dirname "$0")/.."
deploy/up.sh > /dev/null
python=.venv/bin/python
$python -c 'import sys; sys.path.insert(0, "bench"); import machine; print(machine.describe())'
for name in idle api query create heartbeats backups; do
    printf '\n--- %s\n' "$name"
    (cd bench && "../$python" "$name.py")
done
