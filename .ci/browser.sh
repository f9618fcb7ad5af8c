#!/usr/bin/env bash
# Installs the browser of the tests of the page, unless there is one: Chromium from Debian or Ubuntu.
set -euo pipefail
for browser in chromium chromium-browser google-chrome google-chrome-stable; do
    command -v "$browser" >/dev/null && exit
done
if ! command -v apt-get >/dev/null; then
    echo 'browser: install Chromium or Chrome; the tests of the page use it' >&2
    exit 1
fi
as_root=()
[ "$(id -u)" -eq 0 ] || as_root=(sudo)
"${as_root[@]}" apt-get update --quiet --quiet
DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install --quiet --quiet --yes --no-install-recommends chromium
