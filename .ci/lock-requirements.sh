#!/usr/bin/env bash
# Writes .ci/requirements/*.txt: every package that the .in beside it needs, with the digests of its files. Writes the
# package-lock.json of the tests' JavaScript likewise. pip and npm refuse other files. Run it after a change of a .in or a
# package.json; --upgrade also raises what a .in does not pin.
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
cd ../../rest-api/tests/it
for directory in oidc page tls; do
    npm install --prefix "$directory" --package-lock-only --omit-lockfile-registry-resolved --no-audit --no-fund
done
