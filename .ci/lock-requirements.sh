#!/usr/bin/env bash
# Writes .ci/requirements/*.txt: every package that the .in beside it needs, with the digests of its files.
# pip refuses other files. Run it after a change of a .in; --upgrade also raises what the .in does not pin.
set -euo pipefail
cd "$(dirname "$0")/requirements"

environment=$(mktemp -d)
trap 'rm -r "$environment"' EXIT
python3 -m venv "$environment"
"$environment/bin/pip" --quiet --disable-pip-version-check install uv
for input in *.in; do
    "$environment/bin/uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
        --custom-compile-command .ci/lock-requirements.sh --output-file "${input%.in}.txt" "$@" "$input"
done
