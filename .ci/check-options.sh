#!/usr/bin/env bash
# Checks the CloudFormation templates in infrastructure/options, and the lifecycle policy of ECR.
set -euo pipefail

echo 'check-options: cfn-lint'
cfn-lint --regions eu-west-1 -- infrastructure/options/*.yml

echo 'check-options: infrastructure/ecr-lifecycle.json'
jq -e '.rules | length > 0 and all(.action.type == "expire")' infrastructure/ecr-lifecycle.json >/dev/null
