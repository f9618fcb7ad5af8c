# event_source = sqs: S3 sends each event to a queue, and Lambda invokes the function with batches from it.

locals {
  sqs_alarms = { for name, alarm in {
    dead-letters = {
      description = "Events failed all attempts and are in the dead-letter queue: fix the cause, then redrive them."
      namespace   = "AWS/SQS"
      metric      = "ApproximateNumberOfMessagesVisible"
      dimensions  = { QueueName = one(aws_sqs_queue.dead_letters[*].name) }
      statistic   = "Maximum"
      threshold   = 0
      period      = 60
      evaluations = 1
      missing     = "ignore"
    }
    # An event that fails does not fail the invocation, so the alarm errors does not see it. This one sees its
    # second failure, after one visibility timeout. SQS leaves an event out of the metric from its third on.
    queue-age = {
      description = "An event has waited in the queue for four minutes: the function does not keep up, or the API does not accept notifications."
      namespace   = "AWS/SQS"
      metric      = "ApproximateAgeOfOldestMessage"
      dimensions  = { QueueName = one(aws_sqs_queue.events[*].name) }
      statistic   = "Maximum"
      threshold   = 240 # s
      period      = 60
      evaluations = 1
      missing     = "notBreaching"
    }
  } : name => alarm if local.sqs }
}

resource "aws_sqs_queue" "events" {
  count = local.sqs ? 1 : 0

  name                      = "movies-r-us-ingest-events"
  sqs_managed_sse_enabled   = true
  message_retention_seconds = 14 * 24 * 3600 # 14 days, the maximum of SQS
  # Six times the function's timeout, as AWS advises: Lambda may retry a throttled batch meanwhile. It is also the
  # time between two attempts.
  visibility_timeout_seconds = 6 * 30

  redrive_policy = jsonencode({
    deadLetterTargetArn = aws_sqs_queue.dead_letters[0].arn
    # Half an hour of attempts outlasts a failover or a rollout. AWS advises 5 or more.
    maxReceiveCount = 10
  })
}

resource "aws_sqs_queue_policy" "events" {
  count = local.sqs ? 1 : 0

  queue_url = aws_sqs_queue.events[0].url

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid       = "SendFromBucket"
        Effect    = "Allow"
        Principal = { Service = "s3.amazonaws.com" }
        Action    = "sqs:SendMessage"
        Resource  = aws_sqs_queue.events[0].arn
        Condition = {
          ArnEquals = { "aws:SourceArn" = aws_s3_bucket.files.arn }
          # A bucket ARN contains no account.
          StringEquals = { "aws:SourceAccount" = local.account_id }
        }
      },
      {
        Sid       = "TlsOnly"
        Effect    = "Deny"
        Principal = "*"
        Action    = "sqs:*"
        Resource  = aws_sqs_queue.events[0].arn
        Condition = { Bool = { "aws:SecureTransport" = "false" } }
      },
    ]
  })
}

# Its messages are events as S3 sent them, those of the failure queue are Lambda's records of failed invocations.
# A queue of its own lets the redrive of SQS move its messages back.
resource "aws_sqs_queue" "dead_letters" {
  count = local.sqs ? 1 : 0

  name                      = "movies-r-us-ingest-dead-letters"
  sqs_managed_sse_enabled   = true
  message_retention_seconds = 14 * 24 * 3600 # counted from the arrival in the first queue
  # Longer than the function's timeout, because a redrive waits for the function.
  visibility_timeout_seconds = 120
}

resource "aws_sqs_queue_redrive_allow_policy" "dead_letters" {
  count = local.sqs ? 1 : 0

  queue_url = aws_sqs_queue.dead_letters[0].url

  redrive_allow_policy = jsonencode({
    redrivePermission = "byQueue"
    sourceQueueArns   = [aws_sqs_queue.events[0].arn]
  })
}

resource "aws_iam_role_policy" "events" {
  count = local.sqs ? 1 : 0

  name = "${local.function}-events"
  role = aws_iam_role.ingest.id

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid      = "TakeEvents"
      Effect   = "Allow"
      Action   = ["sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes"]
      Resource = aws_sqs_queue.events[0].arn
    }]
  })
}

resource "aws_lambda_event_source_mapping" "events" {
  count = local.sqs ? 1 : 0

  event_source_arn = aws_sqs_queue.events[0].arn
  function_name    = aws_lambda_function.ingest.arn
  # Without a batching window, a batch waits for no further event. 10 is the maximum then.
  batch_size = 10
  # Without this, one failed event would repeat its whole batch.
  function_response_types = ["ReportBatchItemFailures"]

  # Not above the reserved concurrency: Lambda would count throttled batches as attempts.
  scaling_config {
    maximum_concurrency = var.reserved_concurrency == -1 ? 10 : var.reserved_concurrency
  }

  # Lambda checks the role's permissions on the queue.
  depends_on = [aws_iam_role_policy.events]

  lifecycle {
    precondition {
      condition     = var.reserved_concurrency != 1
      error_message = "A queue needs a concurrency of at least 2: raise reserved_concurrency."
    }
  }
}
