# Asserts what the provider's schema does not know: allowed values, and what must never change.
# That the permission comes before the notification is no value, and is seen in the graph: .ci/check-terraform.

mock_provider "aws" {
  mock_data "aws_caller_identity" {
    defaults = { account_id = "111122223333" }
  }

  mock_data "aws_vpc" {
    defaults = {
      id         = "vpc-0b0b0b0b0b0b0b0b0"
      cidr_block = "192.168.0.0/16"
    }
  }

  mock_data "aws_subnets" {
    defaults = { ids = ["subnet-0a", "subnet-0b", "subnet-0c"] }
  }

  mock_data "aws_secretsmanager_secret" {
    defaults = { arn = "arn:aws:secretsmanager:eu-west-1:111122223333:secret:movies-r-us/api-token-abcdef" }
  }

  # The provider itself, where it is at hand, takes no ARN that is not one.
  mock_resource "aws_cloudwatch_log_group" {
    defaults = { arn = "arn:aws:logs:eu-west-1:111122223333:log-group:/aws/lambda/movies-r-us-ingest" }
  }

  mock_resource "aws_iam_role" {
    defaults = { arn = "arn:aws:iam::111122223333:role/movies-r-us-ingest" }
  }

  mock_resource "aws_kms_key" {
    defaults = { arn = "arn:aws:kms:eu-west-1:111122223333:key/00000000-0000-0000-0000-000000000000" }
  }

  mock_resource "aws_lambda_function" {
    defaults = { arn = "arn:aws:lambda:eu-west-1:111122223333:function:movies-r-us-ingest" }
  }

  mock_resource "aws_s3_bucket" {
    defaults = { arn = "arn:aws:s3:::movies-r-us-111122223333" }
  }

  mock_resource "aws_sns_topic" {
    defaults = { arn = "arn:aws:sns:eu-west-1:111122223333:movies-r-us-alarms" }
  }

  mock_resource "aws_sqs_queue" {
    defaults = { arn = "arn:aws:sqs:eu-west-1:111122223333:movies-r-us-ingest-failures" }
  }
}

variables {
  movies_r_us_notify_api_url = "https://notify.movies.example.com/notify"
  lambda_package             = "versions.tf" # any file: only its hash is looked at
}

run "bucket" {
  assert {
    condition     = output.bucket == "movies-r-us-111122223333"
    error_message = "The bucket's name must be the one that the pods may read."
  }

  assert {
    condition     = aws_s3_bucket_versioning.files.versioning_configuration[0].status == "Enabled"
    error_message = "The bucket must keep versions."
  }

  assert {
    condition     = one(one(aws_s3_bucket_server_side_encryption_configuration.files.rule).apply_server_side_encryption_by_default).sse_algorithm == "AES256"
    error_message = "The bucket must encrypt by SSE-S3: the pods have no right to a key."
  }

  assert {
    condition     = aws_s3_bucket_ownership_controls.files.rule[0].object_ownership == "BucketOwnerEnforced"
    error_message = "The bucket must own what is put into it."
  }

  assert {
    condition     = aws_s3_bucket_public_access_block.files.block_public_acls && aws_s3_bucket_public_access_block.files.block_public_policy && aws_s3_bucket_public_access_block.files.ignore_public_acls && aws_s3_bucket_public_access_block.files.restrict_public_buckets
    error_message = "Public access must be blocked, all four ways."
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
    error_message = "The bucket must deny what comes without TLS."
  }

  assert {
    condition     = aws_s3_bucket_lifecycle_configuration.files.rule[0].status == "Enabled" && aws_s3_bucket_lifecycle_configuration.files.rule[0].noncurrent_version_expiration[0].noncurrent_days == 30 && aws_s3_bucket_lifecycle_configuration.files.rule[0].abort_incomplete_multipart_upload[0].days_after_initiation == 7
    error_message = "Old versions and abandoned uploads must go."
  }

  assert {
    condition     = alltrue([for b in [aws_s3_bucket_versioning.files, aws_s3_bucket_server_side_encryption_configuration.files, aws_s3_bucket_ownership_controls.files, aws_s3_bucket_public_access_block.files, aws_s3_bucket_policy.files, aws_s3_bucket_lifecycle_configuration.files, aws_s3_bucket_notification.files] : b.bucket == aws_s3_bucket.files.id])
    error_message = "All of it must be about the one bucket."
  }
}

run "notification" {
  assert {
    condition     = aws_s3_bucket_notification.files.lambda_function[0].lambda_function_arn == aws_lambda_function.ingest.arn && toset(aws_s3_bucket_notification.files.lambda_function[0].events) == toset(["s3:ObjectCreated:*"])
    error_message = "Every object created must be told to the function."
  }

  assert {
    condition     = aws_lambda_permission.bucket.action == "lambda:InvokeFunction" && aws_lambda_permission.bucket.principal == "s3.amazonaws.com" && aws_lambda_permission.bucket.function_name == "movies-r-us-ingest"
    error_message = "S3 must be allowed to call the function."
  }

  assert {
    condition     = aws_lambda_permission.bucket.source_arn == aws_s3_bucket.files.arn && aws_lambda_permission.bucket.source_account == "111122223333"
    error_message = "Only this bucket, of this account, may call the function."
  }
}

run "function" {
  assert {
    condition     = aws_lambda_function.ingest.runtime == "provided.al2023" && aws_lambda_function.ingest.architectures == tolist(["arm64"]) && aws_lambda_function.ingest.handler == "bootstrap"
    error_message = "The package holds a bootstrap for provided.al2023 on arm64."
  }

  assert {
    condition     = aws_lambda_function.ingest.environment[0].variables == tomap({ MRU_API_URL = "https://notify.movies.example.com/notify", MRU_API_TOKEN_SECRET_ARN = "arn:aws:secretsmanager:eu-west-1:111122223333:secret:movies-r-us/api-token-abcdef" })
    error_message = "The function needs the URL and the name of the token, and must not hold the token."
  }

  assert {
    condition     = aws_lambda_function.ingest.timeout == 30 && aws_lambda_function.ingest.memory_size == 128 && aws_lambda_function.ingest.reserved_concurrent_executions == 10
    error_message = "The function must be bounded in time, memory and number."
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
    # The retentions that CloudWatch Logs knows, up to a year.
    condition     = contains([1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365], aws_cloudwatch_log_group.ingest.retention_in_days)
    error_message = "The log group needs a retention that CloudWatch Logs knows."
  }

  assert {
    condition     = jsondecode(aws_iam_role.ingest.assume_role_policy).Statement[0].Principal.Service == "lambda.amazonaws.com" && aws_lambda_function.ingest.role == aws_iam_role.ingest.arn
    error_message = "The function must have its role."
  }
}

run "rights_of_the_function" {
  assert {
    condition = {
      for s in jsondecode(aws_iam_role_policy.ingest.policy).Statement : s.Sid => [s.Effect, s.Resource]
      } == {
      Log                   = ["Allow", "arn:aws:logs:eu-west-1:111122223333:log-group:/aws/lambda/movies-r-us-ingest:*"]
      ReadApiToken          = ["Allow", "arn:aws:secretsmanager:eu-west-1:111122223333:secret:movies-r-us/api-token-abcdef"]
      KeepFailures          = ["Allow", aws_sqs_queue.failures.arn]
      JoinVpc               = ["Allow", "*"]
      JoinVpcByServiceAlone = ["Deny", "*"]
    }
    error_message = "The function's rights must be on its own log, token and queue."
  }

  assert {
    condition = {
      for s in jsondecode(aws_iam_role_policy.ingest.policy).Statement : s.Sid => join(" ", sort(flatten([s.Action])))
      } == {
      Log                   = "logs:CreateLogStream logs:PutLogEvents"
      ReadApiToken          = "secretsmanager:GetSecretValue"
      KeepFailures          = "sqs:SendMessage"
      JoinVpc               = "ec2:AssignPrivateIpAddresses ec2:CreateNetworkInterface ec2:DeleteNetworkInterface ec2:DescribeNetworkInterfaces ec2:DescribeSubnets ec2:UnassignPrivateIpAddresses"
      JoinVpcByServiceAlone = "ec2:AssignPrivateIpAddresses ec2:CreateNetworkInterface ec2:DeleteNetworkInterface ec2:DescribeNetworkInterfaces ec2:UnassignPrivateIpAddresses"
    }
    error_message = "The function may do nothing else; it reads no object."
  }

  assert {
    condition     = [for s in jsondecode(aws_iam_role_policy.ingest.policy).Statement : s.Condition if s.Effect == "Deny"] == [{ ArnEquals = { "lambda:SourceFunctionArn" = "arn:aws:lambda:eu-west-1:111122223333:function:movies-r-us-ingest" } }]
    error_message = "The function's own code must be denied the network interfaces, and Lambda must not."
  }
}

run "failures" {
  assert {
    condition     = try(aws_lambda_function_event_invoke_config.ingest.destination_config[0].on_failure[0].destination, null) == aws_sqs_queue.failures.arn && aws_lambda_function_event_invoke_config.ingest.function_name == "movies-r-us-ingest"
    error_message = "What the function fails on must go to the failure queue."
  }

  assert {
    condition     = aws_lambda_function_event_invoke_config.ingest.maximum_retry_attempts == 2 && aws_lambda_function_event_invoke_config.ingest.maximum_event_age_in_seconds >= 60 && aws_lambda_function_event_invoke_config.ingest.maximum_event_age_in_seconds <= 21600
    error_message = "An event must be tried three times, within an age that Lambda knows."
  }

  assert {
    condition     = aws_sqs_queue.failures.name == "movies-r-us-ingest-failures" && aws_sqs_queue.failures.sqs_managed_sse_enabled && aws_sqs_queue.failures.message_retention_seconds == 1209600
    error_message = "The failure queue must be encrypted, and keep its messages 14 days."
  }
}

run "alarms" {
  assert {
    condition = {
      for key, alarm in aws_cloudwatch_metric_alarm.this : key => "${alarm.namespace} ${alarm.metric_name} ${join(",", [for name, value in alarm.dimensions : "${name}=${value}"])}"
      } == {
      failures  = "AWS/SQS ApproximateNumberOfMessagesVisible QueueName=movies-r-us-ingest-failures"
      lost      = "AWS/Lambda DestinationDeliveryFailures FunctionName=movies-r-us-ingest"
      errors    = "AWS/Lambda Errors FunctionName=movies-r-us-ingest"
      event-age = "AWS/Lambda AsyncEventAge FunctionName=movies-r-us-ingest"
      throttles = "AWS/Lambda Throttles FunctionName=movies-r-us-ingest"
    }
    error_message = "There must be an alarm on the queue's depth, lost events, errors, event age and throttles."
  }

  assert {
    condition     = alltrue([for name, alarm in aws_cloudwatch_metric_alarm.this : contains(["Sum", "Maximum"], alarm.statistic) && alarm.comparison_operator == "GreaterThanThreshold" && alarm.treat_missing_data == (name == "failures" ? "ignore" : "notBreaching")])
    error_message = "Alarms must use a statistic, a comparison and a rule for missing data that CloudWatch knows."
  }

  assert {
    condition     = alltrue([for alarm in aws_cloudwatch_metric_alarm.this : alarm.period % 60 == 0 && alarm.evaluation_periods >= 1])
    error_message = "Alarms must have a period of whole minutes."
  }

  assert {
    condition     = alltrue([for alarm in aws_cloudwatch_metric_alarm.this : alarm.alarm_actions == toset([aws_sns_topic.alarms.arn])])
    error_message = "Every alarm must be told to the topic."
  }

  assert {
    condition     = aws_cloudwatch_metric_alarm.this["failures"].threshold == 0 && aws_cloudwatch_metric_alarm.this["failures"].evaluation_periods == 1
    error_message = "One message in the failure queue must raise the alarm."
  }

  assert {
    condition     = aws_sns_topic.alarms.kms_master_key_id == aws_kms_key.alarms.arn && aws_kms_key.alarms.enable_key_rotation && contains([for s in jsondecode(aws_kms_key.alarms.policy).Statement : try(s.Principal.Service, "")], "cloudwatch.amazonaws.com")
    error_message = "The topic must be encrypted with a key that CloudWatch may use."
  }

  assert {
    condition     = length(aws_sns_topic_subscription.alarms) == 0
    error_message = "Without an address nobody is subscribed."
  }
}

run "alarms_by_mail" {
  variables {
    alarm_email = "operators@example.com"
  }

  assert {
    condition     = aws_sns_topic_subscription.alarms[0].protocol == "email" && aws_sns_topic_subscription.alarms[0].endpoint == "operators@example.com"
    error_message = "The address must be subscribed by e-mail."
  }
}

run "network" {
  assert {
    condition     = aws_vpc_security_group_egress_rule.ingest_to_vpc.cidr_ipv4 == "192.168.0.0/16" && aws_vpc_security_group_egress_rule.ingest_to_vpc.from_port == 443 && aws_vpc_security_group_egress_rule.ingest_to_vpc.to_port == 443 && aws_vpc_security_group_egress_rule.ingest_to_vpc.ip_protocol == "tcp"
    error_message = "The function may reach HTTPS inside the VPC, and nothing else."
  }

  assert {
    condition     = aws_vpc_security_group_ingress_rule.secrets_manager_from_vpc.cidr_ipv4 == "192.168.0.0/16" && aws_vpc_security_group_ingress_rule.secrets_manager_from_vpc.from_port == 443 && aws_vpc_security_group_ingress_rule.secrets_manager_from_vpc.to_port == 443 && aws_vpc_security_group_ingress_rule.secrets_manager_from_vpc.ip_protocol == "tcp"
    error_message = "The endpoint may be reached by HTTPS from the VPC, and not otherwise."
  }

  assert {
    condition     = aws_vpc_endpoint.secrets_manager.vpc_endpoint_type == "Interface" && aws_vpc_endpoint.secrets_manager.private_dns_enabled && aws_vpc_endpoint.secrets_manager.service_name == "com.amazonaws.eu-west-1.secretsmanager" && aws_vpc_endpoint.secrets_manager.security_group_ids == toset([aws_security_group.secrets_manager.id])
    error_message = "Secrets Manager must be reached inside the VPC, under its usual name."
  }
}

run "loopback_for_emulators" {
  variables {
    movies_r_us_notify_api_url = "http://127.0.0.1:8080/notify"
    reserved_concurrency       = -1
  }

  assert {
    condition     = aws_lambda_function.ingest.environment[0].variables.MRU_API_URL == "http://127.0.0.1:8080/notify"
    error_message = "http is taken on loopback."
  }
}

run "refuses_http" {
  command = plan

  variables {
    movies_r_us_notify_api_url = "http://notify.movies.example.com/notify"
  }

  expect_failures = [var.movies_r_us_notify_api_url]
}

run "refuses_a_url_of_something_else" {
  command = plan

  variables {
    movies_r_us_notify_api_url = "https://notify.movies.example.com/movies"
  }

  expect_failures = [var.movies_r_us_notify_api_url]
}

run "refuses_a_host_that_only_begins_like_loopback" {
  command = plan

  variables {
    movies_r_us_notify_api_url = "http://localhost.example.com/notify"
  }

  expect_failures = [var.movies_r_us_notify_api_url]
}

run "refuses_no_concurrency" {
  command = plan

  variables {
    reserved_concurrency = 0
  }

  expect_failures = [var.reserved_concurrency]
}

run "refuses_versions_that_go_at_once" {
  command = plan

  variables {
    noncurrent_days = 0
  }

  expect_failures = [var.noncurrent_days]
}

run "refuses_a_malformed_address" {
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

run "refuses_a_malformed_vpc" {
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
