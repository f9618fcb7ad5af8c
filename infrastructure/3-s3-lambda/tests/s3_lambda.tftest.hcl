# Checks allowed values and fixed settings, which the provider's schema does not cover.
# .ci/check-terraform.sh checks the order of creation.

mock_provider "aws" {
  source = "./tests/mocks"
}

variables {
  movies_r_us_notify_api_url = "https://notify.movies.example.com/notify"
  lambda_package             = "versions.tf" # any file; only its hash is used
}

run "bucket" {
  assert {
    condition     = output.bucket == "movies-r-us-111122223333"
    error_message = "The bucket must have the name that the pods may read."
  }

  assert {
    condition     = aws_s3_bucket_versioning.files.versioning_configuration[0].status == "Enabled"
    error_message = "The bucket must have versioning."
  }

  assert {
    condition     = one(one(aws_s3_bucket_server_side_encryption_configuration.files.rule).apply_server_side_encryption_by_default).sse_algorithm == "AES256"
    error_message = "The bucket must use SSE-S3: the pods may use no KMS key."
  }

  assert {
    condition     = aws_s3_bucket_ownership_controls.files.rule[0].object_ownership == "BucketOwnerEnforced"
    error_message = "The bucket owner must own every object."
  }

  assert {
    condition     = aws_s3_bucket_public_access_block.files.block_public_acls && aws_s3_bucket_public_access_block.files.block_public_policy && aws_s3_bucket_public_access_block.files.ignore_public_acls && aws_s3_bucket_public_access_block.files.restrict_public_buckets
    error_message = "All four public access blocks must be set."
  }

  assert {
    condition = jsondecode(aws_s3_bucket_policy.files.policy).Statement == [{
      Sid       = "TlsOnly"
      Effect    = "Deny"
      Principal = "*"
      Action    = "s3:*"
      Resource  = ["arn:aws:s3:::movies-r-us-111122223333", "arn:aws:s3:::movies-r-us-111122223333/*"]
      Condition = { Bool = { "aws:SecureTransport" = "false" } }
    }]
    error_message = "The bucket must deny requests without TLS."
  }

  assert {
    condition     = aws_s3_bucket_lifecycle_configuration.files.rule[0].status == "Enabled" && aws_s3_bucket_lifecycle_configuration.files.rule[0].noncurrent_version_expiration[0].noncurrent_days == 30 && aws_s3_bucket_lifecycle_configuration.files.rule[0].abort_incomplete_multipart_upload[0].days_after_initiation == 7
    error_message = "Noncurrent versions and incomplete uploads must expire."
  }

  assert {
    condition     = alltrue([for b in [aws_s3_bucket_versioning.files, aws_s3_bucket_server_side_encryption_configuration.files, aws_s3_bucket_ownership_controls.files, aws_s3_bucket_public_access_block.files, aws_s3_bucket_policy.files, aws_s3_bucket_lifecycle_configuration.files, aws_s3_bucket_notification.files] : b.bucket == aws_s3_bucket.files.id])
    error_message = "All settings must apply to the same bucket."
  }
}

run "function" {
  assert {
    condition     = aws_lambda_function.ingest.runtime == "provided.al2023" && aws_lambda_function.ingest.architectures == tolist(["arm64"]) && aws_lambda_function.ingest.handler == "bootstrap"
    error_message = "The function must run bootstrap on provided.al2023 and arm64."
  }

  assert {
    condition     = aws_lambda_function.ingest.environment[0].variables == tomap({ MRU_API_URL = "https://notify.movies.example.com/notify", MRU_API_TOKEN_SECRET_ARN = "arn:aws:secretsmanager:eu-west-1:111122223333:secret:movies-r-us/api-token-abcdef" })
    error_message = "The environment must contain the URL and the ARN of the token's secret, and nothing else."
  }

  assert {
    condition     = aws_lambda_function.ingest.timeout == 30 && aws_lambda_function.ingest.memory_size == 128 && aws_lambda_function.ingest.reserved_concurrent_executions == 10
    error_message = "Timeout, memory and concurrency must be limited."
  }

  assert {
    condition     = aws_lambda_function.ingest.vpc_config[0].subnet_ids == toset(["subnet-0a", "subnet-0b", "subnet-0c"]) && aws_lambda_function.ingest.vpc_config[0].security_group_ids == toset([aws_security_group.ingest.id])
    error_message = "The function must be in the VPC's private subnets."
  }

  assert {
    condition     = aws_lambda_function.ingest.logging_config[0].log_group == "/aws/lambda/movies-r-us-ingest" && aws_lambda_function.ingest.logging_config[0].log_format == "Text" && aws_lambda_function.ingest.tracing_config[0].mode == "PassThrough"
    error_message = "The function must write to its log group."
  }

  assert {
    # The retentions that CloudWatch Logs supports, up to a year.
    condition     = contains([1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365], aws_cloudwatch_log_group.ingest.retention_in_days)
    error_message = "The log group must have a retention that CloudWatch Logs supports."
  }

  assert {
    condition     = jsondecode(aws_iam_role.ingest.assume_role_policy).Statement[0].Principal.Service == "lambda.amazonaws.com" && aws_lambda_function.ingest.role == aws_iam_role.ingest.arn
    error_message = "The function must use its role, and Lambda must be able to assume it."
  }
}

run "permissions_of_the_function" {
  assert {
    condition = {
      for s in jsondecode(aws_iam_role_policy.ingest.policy).Statement : s.Sid => [s.Effect, s.Resource]
      } == {
      Log                   = ["Allow", "arn:aws:logs:eu-west-1:111122223333:log-group:/aws/lambda/movies-r-us-ingest:*"]
      ReadApiToken          = ["Allow", "arn:aws:secretsmanager:eu-west-1:111122223333:secret:movies-r-us/api-token-abcdef"]
      JoinVpc               = ["Allow", "*"]
      JoinVpcByServiceAlone = ["Deny", "*"]
    }
    error_message = "The function's permissions must be limited to its log group and token; sources.tftest.hcl checks those on queues."
  }

  assert {
    condition = {
      for s in jsondecode(aws_iam_role_policy.ingest.policy).Statement : s.Sid => join(" ", sort(flatten([s.Action])))
      } == {
      Log                   = "logs:CreateLogStream logs:PutLogEvents"
      ReadApiToken          = "secretsmanager:GetSecretValue"
      JoinVpc               = "ec2:AssignPrivateIpAddresses ec2:CreateNetworkInterface ec2:DeleteNetworkInterface ec2:DescribeNetworkInterfaces ec2:DescribeSubnets ec2:UnassignPrivateIpAddresses"
      JoinVpcByServiceAlone = "ec2:AssignPrivateIpAddresses ec2:CreateNetworkInterface ec2:DeleteNetworkInterface ec2:DescribeNetworkInterfaces ec2:UnassignPrivateIpAddresses"
    }
    error_message = "The function must have no other permissions; it reads no objects."
  }

  assert {
    condition     = [for s in jsondecode(aws_iam_role_policy.ingest.policy).Statement : s.Condition if s.Effect == "Deny"] == [{ ArnEquals = { "lambda:SourceFunctionArn" = "arn:aws:lambda:eu-west-1:111122223333:function:movies-r-us-ingest" } }]
    error_message = "The policy must deny network interfaces to the function's code, not to the Lambda service."
  }
}

run "results" {
  assert {
    condition     = aws_sns_topic.results.name == "movies-r-us-results" && !aws_sns_topic.results.fifo_topic && output.results_topic_arn == aws_sns_topic.results.arn
    error_message = "The topic must be a standard topic with the name that the pods may publish to."
  }

  assert {
    condition     = aws_sns_topic.results.kms_master_key_id == "alias/aws/sns"
    error_message = "The topic must use the key that the pods may use."
  }

  assert {
    condition = aws_sns_topic_policy.results.arn == aws_sns_topic.results.arn && jsondecode(aws_sns_topic_policy.results.policy).Statement == [{
      Sid       = "TlsOnly"
      Effect    = "Deny"
      Principal = "*"
      Action    = "sns:Publish"
      Resource  = aws_sns_topic.results.arn
      Condition = { Bool = { "aws:SecureTransport" = "false" } }
    }]
    error_message = "The topic policy must deny requests without TLS and allow nothing."
  }
}

run "alarms" {
  assert {
    condition     = alltrue([for name, alarm in aws_cloudwatch_metric_alarm.this : contains(["Sum", "Maximum"], alarm.statistic) && alarm.comparison_operator == "GreaterThanThreshold" && alarm.treat_missing_data == (alarm.metric_name == "ApproximateNumberOfMessagesVisible" ? "ignore" : "notBreaching")])
    error_message = "Alarms must have a valid statistic and comparison, and the right treatment of missing data."
  }

  assert {
    condition     = alltrue([for alarm in aws_cloudwatch_metric_alarm.this : alarm.period % 60 == 0 && alarm.evaluation_periods >= 1])
    error_message = "Periods must be whole minutes."
  }

  assert {
    condition     = alltrue([for alarm in aws_cloudwatch_metric_alarm.this : alarm.alarm_actions == toset([aws_sns_topic.alarms.arn])])
    error_message = "Every alarm must publish to the topic."
  }

  assert {
    condition     = aws_sns_topic.alarms.kms_master_key_id == aws_kms_key.alarms.arn && aws_kms_key.alarms.enable_key_rotation && contains([for s in jsondecode(aws_kms_key.alarms.policy).Statement : try(s.Principal.Service, "")], "cloudwatch.amazonaws.com")
    error_message = "The topic must use a key that CloudWatch may use."
  }

  assert {
    condition     = [for s in jsondecode(aws_kms_key.alarms.policy).Statement : s.Condition if s.Sid == "SendAlarms"] == [{ StringEquals = { "aws:SourceAccount" = "111122223333" } }]
    error_message = "CloudWatch may use the key for alarms of this account only."
  }

  assert {
    condition     = length(aws_sns_topic_subscription.alarms) == 0
    error_message = "Without an address there must be no subscription."
  }
}

run "alarms_on_load_balancers" {
  variables {
    load_balancers = {
      movies-r-us-public   = "app/k8s-public/0123456789abcdef"
      movies-r-us-internal = "app/k8s-internal/fedcba9876543210"
    }
  }

  assert {
    condition     = keys(aws_cloudwatch_metric_alarm.load_balancers) == ["movies-r-us-internal-errors", "movies-r-us-internal-latency", "movies-r-us-internal-unhealthy-hosts", "movies-r-us-public-errors", "movies-r-us-public-latency", "movies-r-us-public-unhealthy-hosts"]
    error_message = "Each load balancer must have three alarms."
  }

  assert {
    condition     = alltrue([for name, alarm in aws_cloudwatch_metric_alarm.load_balancers : alarm.comparison_operator == "GreaterThanThreshold" && alarm.treat_missing_data == "notBreaching" && alarm.alarm_actions == toset([aws_sns_topic.alarms.arn]) && length([for query in alarm.metric_query : query if query.return_data]) == 1])
    error_message = "The alarms must compare one result, be quiet without requests, and go to the topic."
  }

  assert {
    condition     = alltrue(flatten([for name, alarm in aws_cloudwatch_metric_alarm.load_balancers : [for query in alarm.metric_query : [for metric in query.metric : metric.namespace == "AWS/ApplicationELB" && metric.dimensions == tomap({ LoadBalancer = startswith(name, "movies-r-us-public-") ? "app/k8s-public/0123456789abcdef" : "app/k8s-internal/fedcba9876543210" }) && metric.period == 300]]]))
    error_message = "The alarms must watch their load balancer."
  }

  assert {
    condition     = sort([for query in aws_cloudwatch_metric_alarm.load_balancers["movies-r-us-public-errors"].metric_query : "${query.id}=${join("", query.metric[*].metric_name)}"]) == tolist(["by_itself=HTTPCode_ELB_5XX_Count", "by_pods=HTTPCode_Target_5XX_Count", "requests=RequestCount", "result="]) && aws_cloudwatch_metric_alarm.load_balancers["movies-r-us-public-errors"].threshold == 5
    error_message = "The alarm on errors must compare the share of 5xx of pods and load balancer."
  }

  assert {
    condition     = one([for query in aws_cloudwatch_metric_alarm.load_balancers["movies-r-us-public-unhealthy-hosts"].metric_query : "${query.period} ${query.expression}"]) == "60 SELECT MAX(UnHealthyHostCount) FROM SCHEMA(\"AWS/ApplicationELB\", LoadBalancer, TargetGroup) WHERE LoadBalancer = 'app/k8s-public/0123456789abcdef'"
    error_message = "The alarm on unhealthy hosts must cover all target groups of the load balancer."
  }
}

run "refuses_the_arn_of_a_load_balancer" {
  command = plan

  variables {
    load_balancers = { public = "arn:aws:elasticloadbalancing:eu-west-1:111122223333:loadbalancer/app/k8s-public/0123456789abcdef" }
  }

  expect_failures = [var.load_balancers]
}

run "alarms_by_email" {
  variables {
    alarm_email = "operators@example.com"
  }

  assert {
    condition     = aws_sns_topic_subscription.alarms[0].protocol == "email" && aws_sns_topic_subscription.alarms[0].endpoint == "operators@example.com"
    error_message = "The address must have an e-mail subscription."
  }
}

run "network" {
  assert {
    condition     = aws_vpc_security_group_egress_rule.ingest_to_vpc.cidr_ipv4 == "192.168.0.0/16" && aws_vpc_security_group_egress_rule.ingest_to_vpc.from_port == 443 && aws_vpc_security_group_egress_rule.ingest_to_vpc.to_port == 443 && aws_vpc_security_group_egress_rule.ingest_to_vpc.ip_protocol == "tcp"
    error_message = "Egress of the function must be limited to HTTPS inside the VPC."
  }

  assert {
    condition     = aws_vpc_security_group_ingress_rule.secrets_manager_from_vpc.cidr_ipv4 == "192.168.0.0/16" && aws_vpc_security_group_ingress_rule.secrets_manager_from_vpc.from_port == 443 && aws_vpc_security_group_ingress_rule.secrets_manager_from_vpc.to_port == 443 && aws_vpc_security_group_ingress_rule.secrets_manager_from_vpc.ip_protocol == "tcp"
    error_message = "Ingress to the endpoint must be limited to HTTPS from the VPC."
  }

  assert {
    condition     = aws_vpc_endpoint.secrets_manager.vpc_endpoint_type == "Interface" && aws_vpc_endpoint.secrets_manager.private_dns_enabled && aws_vpc_endpoint.secrets_manager.service_name == "com.amazonaws.eu-west-1.secretsmanager" && aws_vpc_endpoint.secrets_manager.security_group_ids == toset([aws_security_group.secrets_manager.id])
    error_message = "Secrets Manager must have an interface endpoint with private DNS."
  }

  assert {
    condition     = alltrue([for text in [aws_security_group.ingest.description, aws_security_group.secrets_manager.description, aws_vpc_security_group_egress_rule.ingest_to_vpc.description, aws_vpc_security_group_ingress_rule.secrets_manager_from_vpc.description] : can(regex("^[0-9A-Za-z ._:/()#,@+=&;{}!$*\\[\\]-]+$", text))])
    error_message = "Descriptions of security groups and rules must contain only characters that EC2 accepts."
  }
}

run "secrets_manager_endpoint" {
  assert {
    condition = jsondecode(aws_vpc_endpoint.secrets_manager.policy).Statement == [{
      Sid       = "ReadSecretsOfThisAccount"
      Effect    = "Allow"
      Principal = "*"
      Action    = "secretsmanager:GetSecretValue"
      Resource  = "arn:aws:secretsmanager:eu-west-1:111122223333:secret:*"
      Condition = { StringEquals = { "aws:PrincipalAccount" = "111122223333" } }
    }]
    error_message = "The endpoint must serve secrets of this account to its own roles only."
  }
}

run "s3_endpoint" {
  assert {
    condition     = aws_vpc_endpoint.s3[0].vpc_endpoint_type == "Gateway" && aws_vpc_endpoint.s3[0].service_name == "com.amazonaws.eu-west-1.s3" && aws_vpc_endpoint.s3[0].vpc_id == "vpc-0b0b0b0b0b0b0b0b0" && aws_vpc_endpoint.s3[0].route_table_ids == toset(["rtb-0a", "rtb-0b", "rtb-0c"])
    error_message = "S3 must have a gateway endpoint in the route tables of the private subnets."
  }

  assert {
    condition     = one(data.aws_route_tables.private.filter).name == "association.subnet-id" && one(data.aws_route_tables.private.filter).values == toset(["subnet-0a", "subnet-0b", "subnet-0c"])
    error_message = "The route tables must be those of the private subnets."
  }
}

run "no_traces_by_default" {
  assert {
    condition     = length(aws_vpc_security_group_egress_rule.ingest_to_collector) == 0 && !contains(keys(aws_lambda_function.ingest.environment[0].variables), "OTEL_EXPORTER_OTLP_ENDPOINT")
    error_message = "Without tracing_endpoint the function must export nothing."
  }
}

run "traces" {
  variables {
    tracing_endpoint     = "http://otel.example.internal:4318"
    tracing_sample_ratio = 0.1
  }

  assert {
    condition     = aws_lambda_function.ingest.environment[0].variables["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://otel.example.internal:4318" && aws_lambda_function.ingest.environment[0].variables["OTEL_TRACES_SAMPLER_ARG"] == "0.1"
    error_message = "The function must export to tracing_endpoint."
  }

  assert {
    condition     = aws_vpc_security_group_egress_rule.ingest_to_collector[0].from_port == 4318 && aws_vpc_security_group_egress_rule.ingest_to_collector[0].to_port == 4318 && aws_vpc_security_group_egress_rule.ingest_to_collector[0].cidr_ipv4 == data.aws_vpc.this.cidr_block
    error_message = "The function must reach the collector."
  }
}

run "traces_over_https" {
  variables {
    tracing_endpoint = "https://otel.example.internal/otlp"
  }

  assert {
    condition     = length(aws_vpc_security_group_egress_rule.ingest_to_collector) == 0
    error_message = "Port 443 in the VPC is open already."
  }
}

run "refuses_a_collector_with_credentials" {
  command = plan

  variables {
    tracing_endpoint = "http://me:secret@otel.example.internal:4318"
  }

  expect_failures = [var.tracing_endpoint]
}

run "refuses_a_collector_with_an_impossible_port" {
  command = plan

  variables {
    tracing_endpoint = "http://otel.example.internal:99999"
  }

  expect_failures = [var.tracing_endpoint]
}

run "without_s3_endpoint" {
  variables {
    s3_endpoint = false
  }

  assert {
    condition     = length(aws_vpc_endpoint.s3) == 0
    error_message = "A VPC that has an endpoint of S3 must not get a second one."
  }
}

run "refuses_subnets_without_a_route_table" {
  command = plan

  override_data {
    target = data.aws_route_tables.private
    values = { ids = [] }
  }

  expect_failures = [aws_vpc_endpoint.s3]
}

run "refuses_another_project_tag" {
  command = plan

  variables {
    tags = { Project = "other" }
  }

  expect_failures = [var.tags]
}

run "loopback_for_emulators" {
  variables {
    movies_r_us_notify_api_url = "http://127.0.0.1:8080/notify"
    reserved_concurrency       = -1
  }

  assert {
    condition     = aws_lambda_function.ingest.environment[0].variables.MRU_API_URL == "http://127.0.0.1:8080/notify"
    error_message = "http must be accepted for loopback."
  }
}

run "refuses_http" {
  command = plan

  variables {
    movies_r_us_notify_api_url = "http://notify.movies.example.com/notify"
  }

  expect_failures = [var.movies_r_us_notify_api_url]
}

run "refuses_a_url_of_another_route" {
  command = plan

  variables {
    movies_r_us_notify_api_url = "https://notify.movies.example.com/movies"
  }

  expect_failures = [var.movies_r_us_notify_api_url]
}

run "refuses_a_host_that_starts_with_localhost" {
  command = plan

  variables {
    movies_r_us_notify_api_url = "http://localhost.example.com/notify"
  }

  expect_failures = [var.movies_r_us_notify_api_url]
}

run "refuses_zero_concurrency" {
  command = plan

  variables {
    reserved_concurrency = 0
  }

  expect_failures = [var.reserved_concurrency]
}

run "refuses_zero_noncurrent_days" {
  command = plan

  variables {
    noncurrent_days = 0
  }

  expect_failures = [var.noncurrent_days]
}

run "refuses_a_malformed_email_address" {
  command = plan

  variables {
    alarm_email = "operators"
  }

  expect_failures = [var.alarm_email]
}

run "refuses_one_subnet" {
  command = plan

  variables {
    subnet_ids = ["subnet-0123456789abcdef0"]
  }

  expect_failures = [var.subnet_ids]
}

run "refuses_a_malformed_vpc_id" {
  command = plan

  variables {
    vpc_id = "movies"
  }

  expect_failures = [var.vpc_id]
}

run "refuses_a_vpc_without_private_subnets" {
  command = plan

  override_data {
    target = data.aws_subnets.private
    values = { ids = [] }
  }

  expect_failures = [aws_vpc_endpoint.secrets_manager]
}
