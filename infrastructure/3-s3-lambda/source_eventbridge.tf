# event_source = eventbridge: S3 sends each event to the default event bus. A rule invokes the function,
# asynchronously.

locals {
  eventbridge_alarms = { for name, alarm in {
    undelivered = {
      description = "EventBridge could not invoke the function for a day, or was not allowed to: fix the cause, then redrive the events."
      namespace   = "AWS/SQS"
      metric      = "ApproximateNumberOfMessagesVisible"
      dimensions  = { QueueName = one(aws_sqs_queue.undelivered[*].name) }
      statistic   = "Maximum"
      threshold   = 0
      period      = 60
      evaluations = 1
      missing     = "ignore"
    }
    undelivered-lost = {
      description = "EventBridge could not send an undelivered event to its queue: run rest-api reconcile to find the file."
      namespace   = "AWS/Events"
      metric      = "InvocationsFailedToBeSentToDlq"
      dimensions  = { RuleName = one(aws_cloudwatch_event_rule.object_events[*].name) }
      statistic   = "Sum"
      threshold   = 0
      period      = 60
      evaluations = 1
      missing     = "notBreaching"
    }
  } : name => alarm if local.eventbridge }
}

# A lifecycle rule that removes an object sends "Object Deleted", too.
resource "aws_cloudwatch_event_rule" "object_events" {
  count = local.eventbridge ? 1 : 0

  name        = "movies-r-us-ingest-object-events"
  description = "Objects created in and deleted from ${local.bucket}"

  event_pattern = jsonencode({
    source      = ["aws.s3"]
    detail-type = ["Object Created", "Object Deleted"]
    detail      = { bucket = { name = [local.bucket] } }
  })
}

resource "aws_lambda_permission" "rule" {
  count = local.eventbridge ? 1 : 0

  statement_id  = "rule"
  function_name = aws_lambda_function.ingest.function_name
  action        = "lambda:InvokeFunction"
  principal     = "events.amazonaws.com"
  source_arn    = aws_cloudwatch_event_rule.object_events[0].arn
}

resource "aws_cloudwatch_event_target" "ingest" {
  count = local.eventbridge ? 1 : 0

  rule = aws_cloudwatch_event_rule.object_events[0].name
  arn  = aws_lambda_function.ingest.arn

  # Until Lambda has taken the event. From then on, Lambda retries it.
  retry_policy {
    maximum_event_age_in_seconds = 24 * 3600 # 24 hours, the maximum of EventBridge
    maximum_retry_attempts       = 185       # the maximum of EventBridge
  }

  dead_letter_config {
    arn = aws_sqs_queue.undelivered[0].arn
  }

  # Without them, EventBridge would drop the events that come first.
  depends_on = [aws_lambda_permission.rule, aws_sqs_queue_policy.undelivered]
}

# The events that EventBridge could not hand to Lambda. Its messages are events as EventBridge sent them, those of
# the failure queue are Lambda's records of failed invocations.
resource "aws_sqs_queue" "undelivered" {
  count = local.eventbridge ? 1 : 0

  name                      = "movies-r-us-ingest-undelivered"
  sqs_managed_sse_enabled   = true
  message_retention_seconds = 14 * 24 * 3600 # 14 days, the maximum of SQS
  # Longer than the function's timeout, because a redrive waits for the function.
  visibility_timeout_seconds = 120
}

resource "aws_sqs_queue_policy" "undelivered" {
  count = local.eventbridge ? 1 : 0

  queue_url = aws_sqs_queue.undelivered[0].url

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid       = "SendFromRule"
        Effect    = "Allow"
        Principal = { Service = "events.amazonaws.com" }
        Action    = "sqs:SendMessage"
        Resource  = aws_sqs_queue.undelivered[0].arn
        Condition = { ArnEquals = { "aws:SourceArn" = aws_cloudwatch_event_rule.object_events[0].arn } }
      },
      {
        Sid       = "TlsOnly"
        Effect    = "Deny"
        Principal = "*"
        Action    = "sqs:*"
        Resource  = aws_sqs_queue.undelivered[0].arn
        Condition = { Bool = { "aws:SecureTransport" = "false" } }
      },
    ]
  })
}
