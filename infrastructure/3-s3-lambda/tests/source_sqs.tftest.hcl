# Checks event_source = sqs.
# .ci/check-terraform.sh checks the order of creation.

mock_provider "aws" {
  source = "./tests/mocks"
}

variables {
  movies_r_us_notify_api_url = "https://notify.movies.example.com/notify"
  lambda_package             = "versions.tf" # any file; only its hash is used
}

run "sqs" {
  variables {
    event_source = "sqs"
  }

  assert {
    condition     = alltrue([for resources in [aws_sqs_queue.events, aws_sqs_queue_policy.events, aws_sqs_queue.dead_letters, aws_sqs_queue_redrive_allow_policy.dead_letters, aws_iam_role_policy.events, aws_lambda_event_source_mapping.events] : length(resources) == 1]) && alltrue([for resources in [aws_lambda_permission.bucket, aws_sqs_queue.failures, aws_iam_role_policy.failures, aws_lambda_function_event_invoke_config.ingest, aws_cloudwatch_event_rule.object_events, aws_cloudwatch_event_target.ingest, aws_lambda_permission.rule, aws_sqs_queue.undelivered, aws_sqs_queue_policy.undelivered] : length(resources) == 0])
    error_message = "sqs must have nothing of the other sources."
  }

  assert {
    condition     = length(aws_s3_bucket_notification.files.lambda_function) == 0 && length(aws_s3_bucket_notification.files.queue) == 1 && aws_s3_bucket_notification.files.eventbridge == false
    error_message = "The bucket must notify exactly the sources of this choice."
  }

  assert {
    condition     = aws_s3_bucket_notification.files.queue[0].queue_arn == "arn:aws:sqs:eu-west-1:111122223333:movies-r-us-ingest-events" && toset(aws_s3_bucket_notification.files.queue[0].events) == toset(["s3:ObjectCreated:*", "s3:ObjectRemoved:*", "s3:LifecycleExpiration:*"])
    error_message = "Every object that is created, removed or expires must send an event to the queue."
  }

  assert {
    condition     = aws_sqs_queue.events[0].name == "movies-r-us-ingest-events" && aws_sqs_queue.events[0].sqs_managed_sse_enabled && aws_sqs_queue.events[0].message_retention_seconds == 1209600
    error_message = "The queue must have encryption and keep events for 14 days."
  }

  assert {
    condition     = aws_sqs_queue.events[0].visibility_timeout_seconds >= 6 * aws_lambda_function.ingest.timeout && aws_sqs_queue.events[0].visibility_timeout_seconds <= 43200
    error_message = "The visibility timeout must be at least six times the function's timeout, and one that SQS supports."
  }

  assert {
    condition = aws_sqs_queue_policy.events[0].queue_url == aws_sqs_queue.events[0].url && jsondecode(aws_sqs_queue_policy.events[0].policy).Statement == [
      {
        Sid       = "SendFromBucket"
        Effect    = "Allow"
        Principal = { Service = "s3.amazonaws.com" }
        Action    = "sqs:SendMessage"
        Resource  = "arn:aws:sqs:eu-west-1:111122223333:movies-r-us-ingest-events"
        Condition = {
          ArnEquals    = { "aws:SourceArn" = "arn:aws:s3:::movies-r-us-111122223333" }
          StringEquals = { "aws:SourceAccount" = "111122223333" }
        }
      },
      {
        Sid       = "TlsOnly"
        Effect    = "Deny"
        Principal = "*"
        Action    = "sqs:*"
        Resource  = "arn:aws:sqs:eu-west-1:111122223333:movies-r-us-ingest-events"
        Condition = { Bool = { "aws:SecureTransport" = "false" } }
      },
    ]
    error_message = "Only the source must be allowed to send to the queue, by TLS only."
  }

  assert {
    condition     = jsondecode(aws_sqs_queue.events[0].redrive_policy).deadLetterTargetArn == "arn:aws:sqs:eu-west-1:111122223333:movies-r-us-ingest-dead-letters" && jsondecode(aws_sqs_queue.events[0].redrive_policy).maxReceiveCount >= 5
    error_message = "Events must go to the dead-letter queue after five attempts or more."
  }

  assert {
    condition     = aws_sqs_queue.dead_letters[0].name == "movies-r-us-ingest-dead-letters" && aws_sqs_queue.dead_letters[0].sqs_managed_sse_enabled && aws_sqs_queue.dead_letters[0].message_retention_seconds == 1209600
    error_message = "The dead-letter queue must have encryption and keep events for 14 days."
  }

  assert {
    condition = aws_sqs_queue_redrive_allow_policy.dead_letters[0].queue_url == aws_sqs_queue.dead_letters[0].url && jsondecode(aws_sqs_queue_redrive_allow_policy.dead_letters[0].redrive_allow_policy) == {
      redrivePermission = "byQueue"
      sourceQueueArns   = ["arn:aws:sqs:eu-west-1:111122223333:movies-r-us-ingest-events"]
    }
    error_message = "Only the queue of events must be allowed to use the dead-letter queue."
  }

  assert {
    condition = aws_iam_role_policy.events[0].role == aws_iam_role.ingest.id && jsondecode(aws_iam_role_policy.events[0].policy).Statement == [{
      Sid      = "TakeEvents"
      Effect   = "Allow"
      Action   = ["sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes"]
      Resource = "arn:aws:sqs:eu-west-1:111122223333:movies-r-us-ingest-events"
    }]
    error_message = "Lambda must be allowed to take events from the queue, and nothing else."
  }

  assert {
    condition     = aws_lambda_event_source_mapping.events[0].event_source_arn == "arn:aws:sqs:eu-west-1:111122223333:movies-r-us-ingest-events" && aws_lambda_event_source_mapping.events[0].function_name == aws_lambda_function.ingest.arn
    error_message = "The queue must invoke the function."
  }

  assert {
    condition     = try(aws_lambda_event_source_mapping.events[0].function_response_types == toset(["ReportBatchItemFailures"]), false)
    error_message = "An event that fails must not repeat its batch."
  }

  assert {
    condition     = aws_lambda_event_source_mapping.events[0].batch_size >= 1 && aws_lambda_event_source_mapping.events[0].batch_size <= 10
    error_message = "A batch without a batching window must have at most 10 events."
  }

  assert {
    condition     = try(aws_lambda_event_source_mapping.events[0].scaling_config[0].maximum_concurrency == aws_lambda_function.ingest.reserved_concurrent_executions, false)
    error_message = "The queue must not invoke the function more often than the reserved concurrency allows."
  }

  assert {
    condition = {
      for name, alarm in aws_cloudwatch_metric_alarm.this : name => "${alarm.namespace} ${alarm.metric_name} ${join(",", [for name, value in alarm.dimensions : "${name}=${value}"])} ${alarm.statistic} > ${alarm.threshold}, missing: ${alarm.treat_missing_data}"
      } == {
      dead-letters = "AWS/SQS ApproximateNumberOfMessagesVisible QueueName=movies-r-us-ingest-dead-letters Maximum > 0, missing: ignore"
      queue-age    = "AWS/SQS ApproximateAgeOfOldestMessage QueueName=movies-r-us-ingest-events Maximum > 240, missing: notBreaching"
      errors       = "AWS/Lambda Errors FunctionName=movies-r-us-ingest Sum > 0, missing: notBreaching"
      throttles    = "AWS/Lambda Throttles FunctionName=movies-r-us-ingest Sum > 0, missing: notBreaching"
    }
    error_message = "There must be exactly the alarms of this source, on all that can fail or wait."
  }

  assert {
    condition     = aws_cloudwatch_metric_alarm.this["queue-age"].threshold > aws_sqs_queue.events[0].visibility_timeout_seconds && aws_cloudwatch_metric_alarm.this["queue-age"].threshold < 2 * aws_sqs_queue.events[0].visibility_timeout_seconds
    error_message = "The alarm must see an event between its second and its third attempt: SQS leaves it out of the metric from then on."
  }

  assert {
    condition     = output.failure_queues == ["movies-r-us-ingest-dead-letters"]
    error_message = "The output must name the dead-letter queue."
  }
}

run "sqs_without_reserved_concurrency" {
  variables {
    event_source         = "sqs"
    reserved_concurrency = -1
  }

  assert {
    condition     = try(aws_lambda_event_source_mapping.events[0].scaling_config[0].maximum_concurrency, null) == 10
    error_message = "The queue must have a maximum concurrency that Lambda supports."
  }
}

run "refuses_a_queue_with_a_concurrency_of_one" {
  command = plan

  variables {
    event_source         = "sqs"
    reserved_concurrency = 1
  }

  expect_failures = [aws_lambda_event_source_mapping.events[0]]
}
