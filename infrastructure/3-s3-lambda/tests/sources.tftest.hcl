# Checks changes from one event_source to another, and refused values.
# .ci/check-terraform.sh checks the order of creation.

mock_provider "aws" {
  source = "./tests/mocks"
}

variables {
  movies_r_us_notify_api_url = "https://notify.movies.example.com/notify"
  lambda_package             = "versions.tf" # any file; only its hash is used
}

run "from_direct_to_sqs" {
  variables {
    event_source          = "sqs"
    previous_event_source = "direct"
  }

  assert {
    condition     = alltrue([for resources in [aws_lambda_permission.bucket, aws_sqs_queue.failures, aws_iam_role_policy.failures, aws_lambda_function_event_invoke_config.ingest, aws_sqs_queue.events, aws_sqs_queue_policy.events, aws_sqs_queue.dead_letters, aws_sqs_queue_redrive_allow_policy.dead_letters, aws_iam_role_policy.events, aws_lambda_event_source_mapping.events] : length(resources) == 1]) && alltrue([for resources in [aws_cloudwatch_event_rule.object_events, aws_cloudwatch_event_target.ingest, aws_lambda_permission.rule, aws_sqs_queue.undelivered, aws_sqs_queue_policy.undelivered] : length(resources) == 0])
    error_message = "The previous source must keep its resources."
  }

  assert {
    condition     = length(aws_s3_bucket_notification.files.lambda_function) == 0 && length(aws_s3_bucket_notification.files.queue) == 1 && aws_s3_bucket_notification.files.eventbridge == false
    error_message = "The bucket must notify exactly the sources of this choice."
  }

  assert {
    condition = {
      for name, alarm in aws_cloudwatch_metric_alarm.this : name => "${alarm.namespace} ${alarm.metric_name} ${join(",", [for name, value in alarm.dimensions : "${name}=${value}"])} ${alarm.statistic} > ${alarm.threshold}, missing: ${alarm.treat_missing_data}"
      } == {
      failures     = "AWS/SQS ApproximateNumberOfMessagesVisible QueueName=movies-r-us-ingest-failures Maximum > 0, missing: ignore"
      lost         = "AWS/Lambda DestinationDeliveryFailures FunctionName=movies-r-us-ingest Sum > 0, missing: notBreaching"
      event-age    = "AWS/Lambda AsyncEventAge FunctionName=movies-r-us-ingest Maximum > 600000, missing: notBreaching"
      dead-letters = "AWS/SQS ApproximateNumberOfMessagesVisible QueueName=movies-r-us-ingest-dead-letters Maximum > 0, missing: ignore"
      queue-age    = "AWS/SQS ApproximateAgeOfOldestMessage QueueName=movies-r-us-ingest-events Maximum > 240, missing: notBreaching"
      errors       = "AWS/Lambda Errors FunctionName=movies-r-us-ingest Sum > 0, missing: notBreaching"
      throttles    = "AWS/Lambda Throttles FunctionName=movies-r-us-ingest Sum > 0, missing: notBreaching"
    }
    error_message = "There must be exactly the alarms of this source, on all that can fail or wait."
  }

  assert {
    condition     = output.failure_queues == ["movies-r-us-ingest-failures", "movies-r-us-ingest-dead-letters"]
    error_message = "The output must name the queues of both sources."
  }
}

run "from_sqs_to_direct" {
  variables {
    event_source          = "direct"
    previous_event_source = "sqs"
  }

  assert {
    condition     = alltrue([for resources in [aws_lambda_permission.bucket, aws_sqs_queue.failures, aws_iam_role_policy.failures, aws_lambda_function_event_invoke_config.ingest, aws_sqs_queue.events, aws_sqs_queue_policy.events, aws_sqs_queue.dead_letters, aws_sqs_queue_redrive_allow_policy.dead_letters, aws_iam_role_policy.events, aws_lambda_event_source_mapping.events] : length(resources) == 1]) && alltrue([for resources in [aws_cloudwatch_event_rule.object_events, aws_cloudwatch_event_target.ingest, aws_lambda_permission.rule, aws_sqs_queue.undelivered, aws_sqs_queue_policy.undelivered] : length(resources) == 0])
    error_message = "The previous source must keep its resources."
  }

  assert {
    condition     = length(aws_s3_bucket_notification.files.lambda_function) == 1 && length(aws_s3_bucket_notification.files.queue) == 0 && aws_s3_bucket_notification.files.eventbridge == false
    error_message = "The bucket must notify exactly the sources of this choice."
  }
}

run "from_sqs_to_eventbridge" {
  variables {
    event_source          = "eventbridge"
    previous_event_source = "sqs"
  }

  assert {
    condition     = alltrue([for resources in [aws_sqs_queue.events, aws_sqs_queue_policy.events, aws_sqs_queue.dead_letters, aws_sqs_queue_redrive_allow_policy.dead_letters, aws_iam_role_policy.events, aws_lambda_event_source_mapping.events, aws_sqs_queue.failures, aws_iam_role_policy.failures, aws_lambda_function_event_invoke_config.ingest, aws_cloudwatch_event_rule.object_events, aws_cloudwatch_event_target.ingest, aws_lambda_permission.rule, aws_sqs_queue.undelivered, aws_sqs_queue_policy.undelivered] : length(resources) == 1]) && alltrue([for resources in [aws_lambda_permission.bucket] : length(resources) == 0])
    error_message = "The previous source must keep its resources."
  }

  assert {
    condition     = length(aws_s3_bucket_notification.files.lambda_function) == 0 && length(aws_s3_bucket_notification.files.queue) == 1 && aws_s3_bucket_notification.files.eventbridge == true
    error_message = "The bucket must notify exactly the sources of this choice."
  }
}

run "from_eventbridge_to_direct" {
  variables {
    event_source          = "direct"
    previous_event_source = "eventbridge"
  }

  assert {
    condition     = alltrue([for resources in [aws_lambda_permission.bucket, aws_sqs_queue.failures, aws_iam_role_policy.failures, aws_lambda_function_event_invoke_config.ingest, aws_cloudwatch_event_rule.object_events, aws_cloudwatch_event_target.ingest, aws_lambda_permission.rule, aws_sqs_queue.undelivered, aws_sqs_queue_policy.undelivered] : length(resources) == 1]) && alltrue([for resources in [aws_sqs_queue.events, aws_sqs_queue_policy.events, aws_sqs_queue.dead_letters, aws_sqs_queue_redrive_allow_policy.dead_letters, aws_iam_role_policy.events, aws_lambda_event_source_mapping.events] : length(resources) == 0])
    error_message = "The previous source must keep its resources."
  }

  assert {
    condition     = length(aws_s3_bucket_notification.files.lambda_function) == 1 && length(aws_s3_bucket_notification.files.queue) == 0 && aws_s3_bucket_notification.files.eventbridge == true
    error_message = "The bucket must notify exactly the sources of this choice."
  }
}

run "after_the_change" {
  variables {
    event_source = "sqs"
  }

  assert {
    condition     = alltrue([for resources in [aws_sqs_queue.events, aws_sqs_queue_policy.events, aws_sqs_queue.dead_letters, aws_sqs_queue_redrive_allow_policy.dead_letters, aws_iam_role_policy.events, aws_lambda_event_source_mapping.events] : length(resources) == 1]) && alltrue([for resources in [aws_lambda_permission.bucket, aws_sqs_queue.failures, aws_iam_role_policy.failures, aws_lambda_function_event_invoke_config.ingest, aws_cloudwatch_event_rule.object_events, aws_cloudwatch_event_target.ingest, aws_lambda_permission.rule, aws_sqs_queue.undelivered, aws_sqs_queue_policy.undelivered] : length(resources) == 0])
    error_message = "The end of a change must remove the previous source."
  }

  assert {
    condition     = length(aws_s3_bucket_notification.files.lambda_function) == 0 && length(aws_s3_bucket_notification.files.queue) == 1 && aws_s3_bucket_notification.files.eventbridge == false
    error_message = "The bucket must notify exactly the sources of this choice."
  }
}

run "refuses_an_unknown_source" {
  command = plan

  variables {
    event_source = "sns"
  }

  expect_failures = [var.event_source]
}

run "refuses_an_unknown_previous_source" {
  command = plan

  variables {
    previous_event_source = "sns"
  }

  expect_failures = [var.previous_event_source]
}

run "refuses_a_previous_source_that_is_the_source" {
  command = plan

  variables {
    event_source          = "sqs"
    previous_event_source = "sqs"
  }

  expect_failures = [var.previous_event_source]
}
