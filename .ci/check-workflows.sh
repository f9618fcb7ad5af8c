#!/usr/bin/env bash
# Checks the GitHub workflows and Dependabot's configuration, offline.
set -euo pipefail

echo 'check-workflows: actionlint, with shellcheck for the scripts in the workflows'
actionlint -shellcheck shellcheck .github/workflows/*.yml

echo 'check-workflows: zizmor, pedantic'
zizmor --offline --no-progress --quiet --persona pedantic --strict-collection .github

# zizmor requires the commit, but neither a version comment nor one version everywhere.
echo 'check-workflows: every action pinned by commit and version, one version per repository'
uses=$(grep -rhoE 'uses: [^./][^@]*@.*' .github/workflows | sort -u)
if malformed=$(grep -vE '^uses: [A-Za-z0-9_./-]+@[0-9a-f]{40} # v[0-9]+\.[0-9]+\.[0-9]+$' <<< "$uses"); then
    printf 'check-workflows: not of the form owner/action@<40 hex digits> # vX.Y.Z:\n%s\n' "$malformed" >&2
    exit 1
fi
if several=$(sed -E 's#^(uses: [^/]+/[^/@]+)[^@]*#\1#' <<< "$uses" | sort -u | cut -d@ -f1 | uniq -d | grep .); then
    printf 'check-workflows: more than one version of:\n%s\n' "$several" >&2
    exit 1
fi
