#!/usr/bin/env bash
# Lints the Python and shell scripts of .ci and scripts, and runs the --help of every script.
set -euo pipefail

fail() {
    echo "check-scripts: $1" >&2
    exit 1
}

# By interpreter, because the commands have no suffix.
mapfile -t python < <(grep --directories=skip -lE '^#!.*\bpython3$' .ci/* scripts/*)
python+=(.ci/gate/*.py)
mapfile -t shell < <(grep --directories=skip -lE '^#!.*\b(bash|sh)$' .ci/* scripts/*)

echo "check-scripts: ruff, ${#python[@]} files"
ruff check --no-cache --quiet --config .ci/ruff.toml "${python[@]}"
ruff format --no-cache --check --quiet --diff --config .ci/ruff.toml "${python[@]}"

echo "check-scripts: shellcheck, ${#shell[@]} files"
shellcheck "${shell[@]}"

echo 'check-scripts: --help'
for script in .ci/run scripts/*; do
    [ -x "$script" ] || fail "$script is not executable"
    [[ $("$script" --help </dev/null) == *[Uu]sage:* ]] || fail "$script --help prints no usage"
done
