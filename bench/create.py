"""From the HTTP request to ACTIVE and HEALTHY, on the running stack: every engine with the seed volume, one with a full
pull."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent.parent / "tests")]

from machine import line, spread

import coffer_datastores
from support.stack import Api, Stack

RUNS = int(os.environ.get("COFFER_BENCH_RUNS", "5"))


def seconds(api: Api, engine: str = "postgresql") -> float:
    began = time.monotonic()
    made = api.create("bench", flavorRef="2", datastore={"type": engine})
    while api.states(made) != ("ACTIVE", "HEALTHY"):
        time.sleep(0.05)
        if time.monotonic() - began > 120:
            raise SystemExit(f"not healthy after 120 s: {api.instance(made)}")
    took = time.monotonic() - began
    api.delete(made)
    return took


def main() -> None:
    stack = Stack.find()
    api = stack.api()
    for engine in sorted(coffer_datastores.specs()):
        seconds(api, engine)  # the first one warms the page cache
        found = spread([seconds(api, engine) for _ in range(RUNS)], "s")
        line(f"create {engine} to ACTIVE and HEALTHY, with the seed volume", found)
    os.environ["COFFER_SEED_VOLUME"] = ""
    try:
        stack.compose("up", "-d", "--wait", "provisioner")
        line("the same with a full pull", spread([seconds(api) for _ in range(RUNS)], "s"))
    finally:
        del os.environ["COFFER_SEED_VOLUME"]
        stack.compose("up", "-d", "--wait", "provisioner")


if __name__ == "__main__":
    main()
