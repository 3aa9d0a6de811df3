#!/bin/sh
# Compiles gsplat's wheel into /opt/wheels with the torch of /opt/venv, for the compute capabilities in
# CUDA_ARCHS. What it installs into /opt/venv is for the compilation only.
set -eu
# -g0: Debian's Python asks for debugging symbols, which the linker then strips.
export CC=gcc-13 CXX=g++-13 CFLAGS=-g0 TORCH_CUDA_ARCH_LIST="$CUDA_ARCHS" PATH="/opt/venv/bin:$PATH"
# Colour, depth, and both at once: what gsplat's rasterization() draws. The trainer draws colour.
CHANNELS="1|3|4"

# One nvcc of this source takes up to 3 GB. Worked out here, since as a build argument it would make
# another machine's cache useless.
by_memory=$(awk '/^MemAvailable:/ {print int($2 / 3000000)}' /proc/meminfo)
MAX_JOBS=$(nproc)
if [ "$by_memory" -lt "$MAX_JOBS" ]; then MAX_JOBS=$by_memory; fi
if [ "$MAX_JOBS" -lt 1 ]; then MAX_JOBS=1; fi
export MAX_JOBS
echo "gsplat for $CUDA_ARCHS, $MAX_JOBS compilers at a time"

pip_locked() { /opt/tools/bin/pip-locked /opt/venv/bin/python "$@"; }
pip_locked install --require-hashes --only-binary :all: -r /mnt/build.txt

# The archive, by its hash; asked for its name and requirements, it need not find a compiler.
work=$(mktemp -d)
BUILD_NO_CUDA=1 pip_locked download --require-hashes --no-deps --no-build-isolation --use-pep517 \
    --no-binary gsplat --dest "$work" -r /mnt/gsplat.txt
tar -C "$work" -xzf "$work"/gsplat-*.tar.gz

# Four minutes on two cores become one, and the kernels that are left are the same code. gsplat compiles
# each for 19 numbers of channels, up to 513, and has no switch for it: others than CHANNELS are refused
# when called ("Unsupported number of channels"). And it has thirty files, each of which reads all of
# PyTorch's headers: here they are three.
cd "$work"/gsplat-*/gsplat/cuda/csrc
left_out='^([[:space:]]*)(__(INS|LAUNCH_KERNEL)__\([0-9]+\))[[:space:]]*$'
sed -E -i "/__\((${CHANNELS})\)/!s@${left_out}@\1// left out by splatgate: \2@" -- *.cu *.cpp
if [ "$(grep -lE 'left out by splatgate: __INS__' -- *.cu | wc -l)" -ne 6 ]; then
    echo "gsplat: its kernels are not instantiated as in 1.5.3; look at gsplat-wheel.sh" >&2
    exit 1
fi
unit=0
for file in *.cu; do
    mv "$file" "$file.part"
    echo "#include \"$file.part\"" >> "unit$unit.cu"
    unit=$((1 - unit))
done
echo >> ../ext.cpp
for file in *.cpp; do
    mv "$file" "$file.part"
    echo "#include \"csrc/$file.part\"" >> ../ext.cpp
done

# Without --verbose: pip shows the compiler's output when it fails, and its hundreds of remarks on other
# people's sources would hide a warning of our own.
pip_locked wheel --no-index --no-deps --no-build-isolation --use-pep517 --no-cache-dir \
    --wheel-dir /opt/wheels "$work"/gsplat-*/
rm -rf "$work"
