#!/bin/sh
# Makes the locks again from their .in files (needs uv). Hashes, no index addresses.
#   torch.txt    PyTorch: the stage that gsplat is compiled against
#   build.txt    tools that compiling gsplat needs
#   runtime.txt  everything that is installed in the image, except gsplat itself (gsplat.txt)
set -eu
cd "$(dirname "$0")"

compile() {
    uv pip compile --quiet --no-config --generate-hashes --no-annotate --python-version 3.13 \
        --python-platform x86_64-manylinux_2_28 --custom-compile-command "image/requirements/lock.sh" "$@"
}

compile --only-binary :all: torch.in -o torch.txt
compile --only-binary :all: --no-binary gsplat --no-emit-package gsplat -c torch.txt runtime.in -o runtime.txt
compile --only-binary :all: -c runtime.txt build.in -o build.txt
