"""Runs inside a backup container: one command line under bash, its wall time and the processor time of all of it.

    stage.py COMMAND      prints one line of JSON
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time


def main() -> None:
    began = time.monotonic()
    command = ["bash", "-c", f"set -o pipefail; {sys.argv[1]}"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    seconds = time.monotonic() - began
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(json.dumps({
        "status": done.returncode, "seconds": seconds, "cpu": used.ru_utime + used.ru_stime, "out": done.stdout.strip(),
        "said": done.stderr.strip()[-300:] if done.returncode else "",
    }))


main()
