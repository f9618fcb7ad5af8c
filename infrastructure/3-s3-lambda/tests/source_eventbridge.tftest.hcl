# Checks event_source = eventbridge.
# .ci/check-terraform.sh checks the order of creation.

mock_provider "aws" {
  source = "./tests/mocks"
}

variables {
  movies_r_us_notify_api_url = "https://notify.movies.example.com/notify"
  lambda_package             = "versions.tf" # any file; only its hash is used
}

run "eventbridge" {
  variables {
    event_source = "eventbridge"
  }

  assert {
    condition     = alltrue([for resources in [aws_cloudwatch_event_rule.object_events, aws_cloudwatch_event_target.ingest, aws_lambda_permission.rule, aws_sqs_queue.undelivered, aws_sqs_queue_policy.undelivered, aws_sqs_queue.failures, aws_iam_role_policy.failures, aws_lambda_function_event_invoke_config.ingest] : length(resources) == 1]) && alltrue([for resources in [aws_lambda_permission.bucket, aws_sqs_queue.events, aws_sqs_queue_policy.events, aws_sqs_queue.dead_letters, aws_sqs_queue_redrive_allow_policy.dead_letters, aws_iam_role_policy.events, aws_lambda_event_source_mapping.events] : length(resources) == 0])
    error_message = "eventbridge must have nothing of the other sources."
  }

  assert {
    condition     = length(aws_s3_bucket_notification.files.lambda_function) == 0 && length(aws_s3_bucket_notification.files.queue) == 0 && aws_s3_bucket_notification.files.eventbridge == true
    error_message = "The bucket must notify exactly the sources of this choice."
  }

  assert {
    condition = jsondecode(aws_cloudwatch_event_rule.object_events[0].event_pattern) == {
      source      = ["aws.s3"]
      detail-type = ["Object Created", "Object Deleted"]
      detail      = { bucket = { name = ["movies-r-us-111122223333"] } }
    }
    error_message = "The rule must match every object that is created in or deleted from this bucket, and nothing else."
  }

  assert {
    condition     = aws_cloudwatch_event_target.ingest[0].rule == "movies-r-us-ingest-object-events" && aws_cloudwatch_event_target.ingest[0].arn == aws_lambda_function.ingest.arn
    error_message = "The rule must invoke the function."
  }

  assert {
    condition     = try(aws_cloudwatch_event_target.ingest[0].retry_policy[0].maximum_event_age_in_seconds == 86400 && aws_cloudwatch_event_target.ingest[0].retry_policy[0].maximum_retry_attempts == 185, false)
    error_message = "EventBridge must try for a day, its maximum."
  }

  assert {
    condition     = try(aws_cloudwatch_event_target.ingest[0].dead_letter_config[0].arn, null) == "arn:aws:sqs:eu-west-1:111122223333:movies-r-us-ingest-undelivered"
    error_message = "Events that were not delivered must go to their queue."
  }

  assert {
    condition     = aws_lambda_permission.rule[0].action == "lambda:InvokeFunction" && aws_lambda_permission.rule[0].principal == "events.amazonaws.com" && aws_lambda_permission.rule[0].function_name == "movies-r-us-ingest" && aws_lambda_permission.rule[0].source_arn == "arn:aws:events:eu-west-1:111122223333:rule/movies-r-us-ingest-object-events"
    error_message = "Only the rule must be allowed to invoke the function."
  }

  assert {
    condition     = aws_sqs_queue.undelivered[0].name == "movies-r-us-ingest-undelivered" && aws_sqs_queue.undelivered[0].sqs_managed_sse_enabled && aws_sqs_queue.undelivered[0].message_retention_seconds == 1209600
    error_message = "The queue must have encryption and keep events for 14 days."
  }

  assert {
    condition = aws_sqs_queue_policy.undelivered[0].queue_url == aws_sqs_queue.undelivered[0].url && jsondecode(aws_sqs_queue_policy.undelivered[0].policy).Statement == [
      {
        Sid       = "SendFromRule"
        Effect    = "Allow"
        Principal = { Service = "events.amazonaws.com" }
        Action    = "sqs:SendMessage"
        Resource  = "arn:aws:sqs:eu-west-1:111122223333:movies-r-us-ingest-undelivered"
        Condition = { ArnEquals = { "aws:SourceArn" = "arn:aws:events:eu-west-1:111122223333:rule/movies-r-us-ingest-object-events" } }
      },
      {
        Sid       = "TlsOnly"
        Effect    = "Deny"
        Principal = "*"
        Action    = "sqs:*"
        Resource  = "arn:aws:sqs:eu-west-1:111122223333:movies-r-us-ingest-undelivered"
        Condition = { Bool = { "aws:SecureTransport" = "false" } }
      },
    ]
    error_message = "Only the source must be allowed to send to the queue, by TLS only."
  }

  assert {
    condition     = try(aws_lambda_function_event_invoke_config.ingest[0].destination_config[0].on_failure[0].destination, null) == aws_sqs_queue.failures[0].arn && aws_lambda_function_event_invoke_config.ingest[0].function_name == "movies-r-us-ingest"
    error_message = "Failed events must go to the failure queue."
  }

  assert {
    condition = {
      for name, alarm in aws_cloudwatch_metric_alarm.this : name => "${alarm.namespace} ${alarm.metric_name} ${join(",", [for name, value in alarm.dimensions : "${name}=${value}"])} ${alarm.statistic} > ${alarm.threshold}, missing: ${alarm.treat_missing_data}"
      } == {
      failures         = "AWS/SQS ApproximateNumberOfMessagesVisible QueueName=movies-r-us-ingest-failures Maximum > 0, missing: ignore"
      lost             = "AWS/Lambda DestinationDeliveryFailures FunctionName=movies-r-us-ingest Sum > 0, missing: notBreaching"
      event-age        = "AWS/Lambda AsyncEventAge FunctionName=movies-r-us-ingest Maximum > 600000, missing: notBreaching"
      undelivered      = "AWS/SQS ApproximateNumberOfMessagesVisible QueueName=movies-r-us-ingest-undelivered Maximum > 0, missing: ignore"
      undelivered-lost = "AWS/Events InvocationsFailedToBeSentToDlq RuleName=movies-r-us-ingest-object-events Sum > 0, missing: notBreaching"
      errors           = "AWS/Lambda Errors FunctionName=movies-r-us-ingest Sum > 0, missing: notBreaching"
      throttles        = "AWS/Lambda Throttles FunctionName=movies-r-us-ingest Sum > 0, missing: notBreaching"
    }
    error_message = "There must be exactly the alarms of this source, on all that can fail or wait."
  }

  assert {
    condition     = output.failure_queues == ["movies-r-us-ingest-failures", "movies-r-us-ingest-undelivered"]
    error_message = "The output must name both queues."
  }
}
