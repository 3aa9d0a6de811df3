#!/bin/sh
# Makes the hash-locked sets from pyproject.toml, for every platform at once. Needs uv.
set -eu
cd "$(dirname "$0")/.."
lock() { uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate "$@"; }
lock --extra dev pyproject.toml -o requirements/suite.txt
lock --extra gpu pyproject.toml -o requirements/gpu.txt
printf 'tox\n' | lock - -o requirements/tox.txt
