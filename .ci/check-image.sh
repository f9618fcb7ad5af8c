#!/usr/bin/env bash
# Checks the Dockerfile and .dockerignore without building the image.
set -euo pipefail

fail() {
    echo "check-image: $1" >&2
    exit 1
}

echo 'check-image: hadolint, Dockerfile'
hadolint Dockerfile

# hadolint does not resolve arguments and does not require a USER.
echo 'check-image: base images pinned by digest, numeric user, excluded directories'
! grep -nE '^FROM ' Dockerfile | grep -vE 'FROM \$\{(RUST|RUNTIME)_IMAGE\}' ||
    fail 'every base must be one of the arguments RUST_IMAGE and RUNTIME_IMAGE'
for argument in RUST_IMAGE RUNTIME_IMAGE; do
    grep -qE "^ARG $argument=[a-z0-9./-]+:[^@ ]+@sha256:[0-9a-f]{64}$" Dockerfile ||
        fail "$argument must be pinned: name:tag@sha256:<64 hex digits>"
    ! grep -qE "^ARG $argument=.*:latest@" Dockerfile || fail "$argument must name a version, not latest"
done
[ "$(grep -E '^USER ' Dockerfile | tail -1)" = 'USER 65532:65532' ] || fail 'the last USER must be 65532:65532'
for directory in .git target data; do
    grep -qxF "/$directory" .dockerignore || fail ".dockerignore must exclude /$directory"
done
