# Checks event_source = direct, the default.
# .ci/check-terraform.sh checks the order of creation.

mock_provider "aws" {
  source = "./tests/mocks"
}

variables {
  movies_r_us_notify_api_url = "https://notify.movies.example.com/notify"
  lambda_package             = "versions.tf" # any file; only its hash is used
}

run "direct_by_default" {
  assert {
    condition     = alltrue([for resources in [aws_lambda_permission.bucket, aws_sqs_queue.failures, aws_iam_role_policy.failures, aws_lambda_function_event_invoke_config.ingest] : length(resources) == 1]) && alltrue([for resources in [aws_sqs_queue.events, aws_sqs_queue_policy.events, aws_sqs_queue.dead_letters, aws_sqs_queue_redrive_allow_policy.dead_letters, aws_iam_role_policy.events, aws_lambda_event_source_mapping.events, aws_cloudwatch_event_rule.object_events, aws_cloudwatch_event_target.ingest, aws_lambda_permission.rule, aws_sqs_queue.undelivered, aws_sqs_queue_policy.undelivered] : length(resources) == 0])
    error_message = "The default must be direct, with nothing of the other sources."
  }

  assert {
    condition     = length(aws_s3_bucket_notification.files.lambda_function) == 1 && length(aws_s3_bucket_notification.files.queue) == 0 && aws_s3_bucket_notification.files.eventbridge == false
    error_message = "The bucket must notify exactly the sources of this choice."
  }

  assert {
    condition     = aws_s3_bucket_notification.files.lambda_function[0].lambda_function_arn == aws_lambda_function.ingest.arn && toset(aws_s3_bucket_notification.files.lambda_function[0].events) == toset(["s3:ObjectCreated:*", "s3:ObjectRemoved:*", "s3:LifecycleExpiration:*"])
    error_message = "Every object that is created, removed or expires must invoke the function."
  }

  assert {
    condition     = aws_lambda_permission.bucket[0].action == "lambda:InvokeFunction" && aws_lambda_permission.bucket[0].principal == "s3.amazonaws.com" && aws_lambda_permission.bucket[0].function_name == "movies-r-us-ingest"
    error_message = "S3 must be allowed to invoke the function."
  }

  assert {
    condition     = aws_lambda_permission.bucket[0].source_arn == aws_s3_bucket.files.arn && aws_lambda_permission.bucket[0].source_account == "111122223333"
    error_message = "Only this bucket, in this account, must be allowed to invoke the function."
  }

  assert {
    condition     = try(aws_lambda_function_event_invoke_config.ingest[0].destination_config[0].on_failure[0].destination, null) == aws_sqs_queue.failures[0].arn && aws_lambda_function_event_invoke_config.ingest[0].function_name == "movies-r-us-ingest"
    error_message = "Failed events must go to the failure queue."
  }

  assert {
    condition     = aws_lambda_function_event_invoke_config.ingest[0].maximum_retry_attempts == 2 && aws_lambda_function_event_invoke_config.ingest[0].maximum_event_age_in_seconds >= 60 && aws_lambda_function_event_invoke_config.ingest[0].maximum_event_age_in_seconds <= 21600
    error_message = "An event must have three attempts, within an age that Lambda supports."
  }

  assert {
    condition     = aws_sqs_queue.failures[0].name == "movies-r-us-ingest-failures" && aws_sqs_queue.failures[0].sqs_managed_sse_enabled && aws_sqs_queue.failures[0].message_retention_seconds == 1209600
    error_message = "The failure queue must have encryption and keep messages for 14 days."
  }

  assert {
    condition = aws_iam_role_policy.failures[0].role == aws_iam_role.ingest.id && jsondecode(aws_iam_role_policy.failures[0].policy).Statement == [{
      Sid      = "KeepFailures"
      Effect   = "Allow"
      Action   = "sqs:SendMessage"
      Resource = "arn:aws:sqs:eu-west-1:111122223333:movies-r-us-ingest-failures"
    }]
    error_message = "The function must be allowed to send to the failure queue, and nothing else."
  }

  assert {
    condition = {
      for name, alarm in aws_cloudwatch_metric_alarm.this : name => "${alarm.namespace} ${alarm.metric_name} ${join(",", [for name, value in alarm.dimensions : "${name}=${value}"])} ${alarm.statistic} > ${alarm.threshold}, missing: ${alarm.treat_missing_data}"
      } == {
      failures  = "AWS/SQS ApproximateNumberOfMessagesVisible QueueName=movies-r-us-ingest-failures Maximum > 0, missing: ignore"
      lost      = "AWS/Lambda DestinationDeliveryFailures FunctionName=movies-r-us-ingest Sum > 0, missing: notBreaching"
      event-age = "AWS/Lambda AsyncEventAge FunctionName=movies-r-us-ingest Maximum > 600000, missing: notBreaching"
      errors    = "AWS/Lambda Errors FunctionName=movies-r-us-ingest Sum > 0, missing: notBreaching"
      throttles = "AWS/Lambda Throttles FunctionName=movies-r-us-ingest Sum > 0, missing: notBreaching"
    }
    error_message = "There must be exactly the alarms of this source, on all that can fail or wait."
  }

  assert {
    condition     = output.failure_queues == ["movies-r-us-ingest-failures"]
    error_message = "The output must name the failure queue."
  }
}
