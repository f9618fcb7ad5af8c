#!/usr/bin/env bash
# Checks 2-rds and 3-s3-lambda in infrastructure, or in the named directory: format, forbidden content,
# validation, tests, order of creation, policies.
# Uses ../shared/infra/terraform-offline where it exists, which needs no provider registry.
set -euo pipefail
infrastructure=${1:-infrastructure}
offline=$PWD/../shared/infra/terraform-offline

step() { echo "check-terraform: $*"; }
fail() { echo "check-terraform: $*" >&2; exit 1; }

# Works on copies, so that the work tree stays clean. The copies have no backend: `terraform graph`
# requires an initialised one, and the real one needs an AWS account.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for directory in 2-rds 3-s3-lambda; do
    cp -r "$infrastructure/$directory" "$work"
    rm -rf "$work/$directory/.terraform"
    sed -i '/^  backend "s3" {$/,/^  }$/d' "$work/$directory/versions.tf"
done

tf() {
    local directory=$work/$1
    shift
    if [ -x "$offline" ]; then
        "$offline" "$directory" "$@"
    else
        terraform -chdir="$directory" init -backend=false -input=false -no-color >"$work/init.log" || {
            cat "$work/init.log"
            return 1
        }
        terraform -chdir="$directory" "$@"
    fi
}

# forbid PATTERN REASON DIRECTORY...: fails if a line matches, except in comments.
forbid() {
    local pattern=$1 reason=$2
    shift 2
    if grep -rnE --include='*.tf' "$pattern" "$@" | grep -vE '^[^:]+:[0-9]+: *(#|//)'; then
        fail "$reason: see the lines above"
    fi
}

# before DIRECTORY FIRST THEN: fails unless THEN depends on FIRST, directly or indirectly.
before() {
    awk -F'"' -v first="$2" -v then="$3" '
        / -> / { nexts[$2] = nexts[$2] " " $4 }
        function waits(node,    n, i, list) {
            if (node == first) return 1
            if (seen[node]++) return 0
            n = split(nexts[node], list, " ")
            for (i = 1; i <= n; i++) if (waits(list[i])) return 1
            return 0
        }
        END { exit !waits(then) }' "$work/$1.graph" || fail "$1: $3 must depend on $2"
}

step 'format'
terraform fmt -check -diff -recursive "$infrastructure"

step 'forbidden content'
forbid '0\.0\.0\.0/0|::/0' 'open to all addresses' "$infrastructure"
forbid '^ *(master_)?password(_wo)? *=' 'a password; RDS manages it' "$infrastructure"
forbid 'cidr_ipv[46]|cidr_blocks' 'an address range; the database admits a security group only' "$infrastructure/2-rds"
forbid '^ *(module|provisioner) "' 'a module or provisioner; it cannot be checked offline' "$infrastructure"
forbid 'access_key|secret_key|AKIA[0-9A-Z]{16}' 'a credential' "$infrastructure"

for directory in 2-rds 3-s3-lambda; do
    step "$directory: validate, test, graph"
    tf "$directory" validate -no-color
    tf "$directory" test -no-color
    tf "$directory" graph >"$work/$directory.graph"
done

step 'order of creation'
for needed in aws_lambda_permission.bucket aws_sqs_queue_policy.events aws_lambda_permission.rule \
    aws_cloudwatch_event_target.ingest aws_lambda_function_event_invoke_config.ingest; do
    before 3-s3-lambda "$needed" aws_s3_bucket_notification.files
done
before 3-s3-lambda aws_iam_role_policy.failures aws_lambda_function_event_invoke_config.ingest
before 3-s3-lambda aws_iam_role_policy.events aws_lambda_event_source_mapping.events
for needed in aws_lambda_permission.rule aws_sqs_queue_policy.undelivered; do
    before 3-s3-lambda "$needed" aws_cloudwatch_event_target.ingest
done
before 3-s3-lambda aws_iam_role_policy.ingest aws_lambda_function.ingest
before 3-s3-lambda aws_cloudwatch_log_group.ingest aws_iam_role_policy.ingest
for database in aws_db_instance.this aws_rds_cluster.this; do
    before 2-rds aws_cloudwatch_log_group.this "$database"
    before 2-rds aws_iam_role_policy_attachment.monitoring "$database"
done

step 'policies (exceptions and their reasons are in the .tf files)'
checkov --directory "$infrastructure" --framework terraform --compact --quiet --skip-download
