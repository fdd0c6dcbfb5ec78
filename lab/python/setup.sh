#!/bin/sh
# Makes a Python environment with the original's API client, unmodified, and prints its interpreter.
#
#   lab/python/setup.sh [DIRECTORY]      default: target/python
#
# The client's package declares requirements that do not build on current Pythons and that it does not
# import, so they are left out and the three it needs are named here.
set -eu
here=$(cd "$(dirname "$0")/../.." && pwd)
env=${1:-${CARGO_TARGET_DIR:-$here/target}/python}
mark=$env/.contrail-api-client-2005
if [ ! -e "$mark" ]; then
    mkdir -p "$(dirname "$env")"
    # Two tests may come here at once.
    exec 9>"$env.lock"
    flock 9
    if [ ! -e "$mark" ]; then
        echo "Fetching the Python client for the tests, once." >&2
        rm -rf "$env"
        if ! python3 -m venv "$env" >&2; then
            echo "python3 cannot make a virtual environment: apt-get install python3 python3-venv python3-pip" >&2
            exit 1
        fi
        "$env/bin/pip" install --quiet --no-deps 'contrail-api-client==2005' >&2
        "$env/bin/pip" install --quiet 'requests>=2.31' 'future>=1.0' 'six>=1.17' >&2
        "$env/bin/python" -c 'import vnc_api.vnc_api' >&2
        touch "$mark"
    fi
fi
echo "$env/bin/python"
