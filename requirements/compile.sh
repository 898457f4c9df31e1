#!/bin/sh
# Write the hashed requirement files anew from the three distributions, backup.in and dev.in; --upgrade takes the newest versions.
# They name no index: pip takes that from the settings of the machine it runs on.
set -eu
cd "$(dirname "$0")/.."
uv=${UV:-.venv/bin/uv}
compile() {
    out=$1; shift
    "$uv" pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
        --no-annotate --custom-compile-command requirements/compile.sh \
        --no-emit-package coffer-shared --no-emit-package coffer-services --no-emit-package coffer-guest \
        -o "requirements/$out" "$@"
}
compile services.txt "$@" services/pyproject.toml
compile guest.txt "$@" guest/pyproject.toml
compile backup.txt "$@" requirements/backup.in -c requirements/guest.txt
compile dev.txt "$@" services/pyproject.toml guest/pyproject.toml requirements/dev.in
