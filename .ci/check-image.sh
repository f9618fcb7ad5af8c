#!/usr/bin/env bash
# Checks the Dockerfile, .dockerignore and compose.yaml without building an image.
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
! grep -E '^USER ' Dockerfile | grep -vxF 'USER 65532:65532' || fail 'every USER must be 65532:65532'
for directory in .git target data; do
    grep -qxF "/$directory" .dockerignore || fail ".dockerignore must exclude /$directory"
done

echo "check-image: compose.yaml, the Compose schema; ports on loopback; the target"
check-jsonschema --quiet --builtin-schema vendor.compose-spec compose.yaml
python3 - <<'PYTHON'
import pathlib, re, yaml

services = yaml.safe_load(pathlib.Path("compose.yaml").read_text())["services"]
for name, service in services.items():
    for port in service.get("ports", []):
        assert port.startswith("127.0.0.1:"), f"check-image: {name} publishes {port} beyond loopback"
target = services["movies-r-us"]["build"]["target"]
stage = re.search(rf"^FROM \S+ AS {target}\n(.*?)^FROM ", pathlib.Path("Dockerfile").read_text(), re.M | re.S)
assert stage, f"check-image: the Dockerfile has no stage {target}"
for port in services["movies-r-us"]["ports"]:
    assert f'"0.0.0.0:{port.split(":")[-1]}"' in stage[1], f"check-image: {target} does not listen on {port}"
PYTHON
