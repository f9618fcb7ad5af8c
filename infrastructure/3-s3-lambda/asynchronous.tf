# What direct and eventbridge share: both invoke the function asynchronously. Lambda keeps the event, retries it,
# and puts it into the failure queue at last.

locals {
  asynchronous = local.direct || local.eventbridge

  asynchronous_alarms = { for name, alarm in {
    failures = {
      description = "Events failed all attempts and are in the failure queue: fix the cause, then redrive them."
      namespace   = "AWS/SQS"
      metric      = "ApproximateNumberOfMessagesVisible"
      dimensions  = { QueueName = one(aws_sqs_queue.failures[*].name) }
      statistic   = "Maximum"
      threshold   = 0
      period      = 60
      evaluations = 1
      missing     = "ignore"
    }
    lost = {
      description = "Lambda could not send a failed event to the failure queue: find the object in the function's log and put the file again."
      namespace   = "AWS/Lambda"
      metric      = "DestinationDeliveryFailures"
      dimensions  = { FunctionName = local.function }
      statistic   = "Sum"
      threshold   = 0
      period      = 60
      evaluations = 1
      missing     = "notBreaching"
    }
    event-age = {
      description = "Events wait for the function for more than ten minutes."
      namespace   = "AWS/Lambda"
      metric      = "AsyncEventAge"
      dimensions  = { FunctionName = local.function }
      statistic   = "Maximum"
      threshold   = 600000 # ms
      period      = 300
      evaluations = 1
      missing     = "notBreaching"
    }
  } : name => alarm if local.asynchronous }
}

resource "aws_sqs_queue" "failures" {
  count = local.asynchronous ? 1 : 0

  name                      = "movies-r-us-ingest-failures"
  sqs_managed_sse_enabled   = true
  message_retention_seconds = 14 * 24 * 3600 # 14 days, the maximum of SQS
  # Longer than the function's timeout, because a redrive waits for the function.
  visibility_timeout_seconds = 120
}

resource "aws_iam_role_policy" "failures" {
  count = local.asynchronous ? 1 : 0

  name = "${local.function}-failures"
  role = aws_iam_role.ingest.id

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid      = "KeepFailures"
      Effect   = "Allow"
      Action   = "sqs:SendMessage"
      Resource = aws_sqs_queue.failures[0].arn
    }]
  })
}

resource "aws_lambda_function_event_invoke_config" "ingest" {
  count = local.asynchronous ? 1 : 0

  function_name                = aws_lambda_function.ingest.function_name
  maximum_retry_attempts       = 2
  maximum_event_age_in_seconds = 6 * 3600 # 6 hours, the maximum of Lambda

  destination_config {
    on_failure {
      destination = aws_sqs_queue.failures[0].arn
    }
  }

  # Lambda checks the role's permission to send to the destination.
  depends_on = [aws_iam_role_policy.failures]
}
