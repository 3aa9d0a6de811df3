#!/bin/bash
# What has to be set for the trainer, then the trainer in this process's place.
set -euo pipefail
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-2}
cd /app
exec python3 -u train.py "$@"
