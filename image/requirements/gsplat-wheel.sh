#!/bin/sh
# Compiles gsplat's wheel into /opt/wheels with the torch of /opt/venv, for the compute capabilities in
# CUDA_ARCHS. What it installs into /opt/venv is for the compilation only.
set -eu
export CC=gcc-13 CXX=g++-13 TORCH_CUDA_ARCH_LIST="$CUDA_ARCHS" PATH="/opt/venv/bin:$PATH"

# One nvcc of this source takes up to 3 GB. Worked out here, since as a build argument it would make
# another machine's cache useless.
by_memory=$(awk '/^MemAvailable:/ {print int($2 / 3000000)}' /proc/meminfo)
MAX_JOBS=$(nproc)
if [ "$by_memory" -lt "$MAX_JOBS" ]; then MAX_JOBS=$by_memory; fi
if [ "$MAX_JOBS" -lt 1 ]; then MAX_JOBS=1; fi
export MAX_JOBS
echo "gsplat for $CUDA_ARCHS, $MAX_JOBS compilers at a time"

pip_locked() { /opt/tools/bin/pip-locked /opt/venv/bin/python "$@"; }
# Without --verbose: pip shows the compiler's output when it fails, and its hundreds of remarks on other
# people's sources would hide a warning of our own.
pip_locked install --require-hashes --only-binary :all: -r /mnt/build.txt

# pip keeps wheels that it built by the source's hash alone and would hand out one for other GPUs.
# Here each set of what decides the machine code has a cache of its own.
key=$({
    echo "$CUDA_ARCHS"
    cat /mnt/gsplat.txt
    /opt/venv/bin/python -c 'import sys; from importlib.metadata import version as v
print(sys.version, v("torch"), v("setuptools"))'
    nvcc --version
    $CXX --version
} | sha256sum | cut -c1-16)
PIP_CACHE_DIR=$PIP_CACHE_DIR/gsplat/$key
echo "wheels compiled before, if any: $PIP_CACHE_DIR"
pip_locked wheel --require-hashes --no-deps --no-build-isolation --no-binary gsplat \
    --wheel-dir /opt/wheels -r /mnt/gsplat.txt
