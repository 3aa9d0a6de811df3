#!/bin/sh
# pip as every stage uses it: no configuration but what stands here, with the index and the extra
# certificates that come as secrets, if any. The first argument is the interpreter to install for.
set -eu
python=$1
shift
bundle=/dev/shm/pip-ca.pem
cat /etc/ssl/certs/ca-certificates.crt > "$bundle"
if [ -s /run/secrets/extra_ca ]; then cat /run/secrets/extra_ca >> "$bundle"; fi
if [ -s /run/secrets/pip_index ]; then
    PIP_INDEX_URL=$(cat /run/secrets/pip_index)
    export PIP_INDEX_URL
fi
export PIP_CONFIG_FILE=/dev/null PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
export PIP_PROGRESS_BAR=off
exec /opt/tools/bin/pip --python "$python" --cert "$bundle" --no-input --retries 5 --timeout 60 "$@"
