"""From the HTTP request to ACTIVE and HEALTHY, on the running stack: with the seed volume, and with a full pull."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent.parent / "tests")]

from machine import line, spread

from support.stack import Api, Stack

RUNS = int(os.environ.get("COFFER_BENCH_RUNS", "5"))


def seconds(api: Api) -> float:
    began = time.monotonic()
    made = api.create("bench", flavorRef="2")
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
    seconds(api)  # the first one warms the page cache
    line("create to ACTIVE and HEALTHY, with the seed volume", spread([seconds(api) for _ in range(RUNS)], "s"))
    os.environ["COFFER_SEED_VOLUME"] = ""
    try:
        stack.compose("up", "-d", "--wait", "provisioner")
        line("the same with a full pull", spread([seconds(api) for _ in range(RUNS)], "s"))
    finally:
        del os.environ["COFFER_SEED_VOLUME"]
        stack.compose("up", "-d", "--wait", "provisioner")


if __name__ == "__main__":
    main()
