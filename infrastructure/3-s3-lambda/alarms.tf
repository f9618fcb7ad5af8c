# What an operator must hear of, and the topic that says it.

locals {
  # Each is about the function, but for the first. period in s; all compare "greater than". missing:
  # these metrics exist only while something happens; and that of the queue stops while events wait
  # untouched in it, which must not look like the end of the trouble.
  alarms = {
    failures = {
      description = "Events have failed for good and wait in the failure queue: see to the cause, then redrive them."
      namespace   = "AWS/SQS"
      metric      = "ApproximateNumberOfMessagesVisible"
      dimensions  = { QueueName = aws_sqs_queue.failures.name }
      statistic   = "Maximum"
      threshold   = 0
      period      = 60
      evaluations = 1
      missing     = "ignore"
    }
    lost = {
      description = "A failed event could not be put into the failure queue: find the file in the function's log, and put it again."
      namespace   = "AWS/Lambda"
      metric      = "DestinationDeliveryFailures"
      dimensions  = { FunctionName = local.function }
      statistic   = "Sum"
      threshold   = 0
      period      = 60
      evaluations = 1
      missing     = "notBreaching"
    }
    errors = {
      description = "Invocations have failed for a quarter of an hour: the API does not take notifications."
      namespace   = "AWS/Lambda"
      metric      = "Errors"
      dimensions  = { FunctionName = local.function }
      statistic   = "Sum"
      threshold   = 0
      period      = 300
      evaluations = 3
      missing     = "notBreaching"
    }
    event-age = {
      description = "Events wait ten minutes and longer for the function."
      namespace   = "AWS/Lambda"
      metric      = "AsyncEventAge"
      dimensions  = { FunctionName = local.function }
      statistic   = "Maximum"
      threshold   = 600000 # ms
      period      = 300
      evaluations = 1
      missing     = "notBreaching"
    }
    throttles = {
      description = "More events come than reserved_concurrency lets through; they are late, not lost."
      namespace   = "AWS/Lambda"
      metric      = "Throttles"
      dimensions  = { FunctionName = local.function }
      statistic   = "Sum"
      threshold   = 0
      period      = 300
      evaluations = 3
      missing     = "notBreaching"
    }
  }
}

resource "aws_cloudwatch_metric_alarm" "this" {
  for_each = local.alarms

  alarm_name          = "movies-r-us-ingest-${each.key}"
  alarm_description   = each.value.description
  namespace           = each.value.namespace
  metric_name         = each.value.metric
  dimensions          = each.value.dimensions
  statistic           = each.value.statistic
  comparison_operator = "GreaterThanThreshold"
  threshold           = each.value.threshold
  period              = each.value.period
  evaluation_periods  = each.value.evaluations
  treat_missing_data  = each.value.missing

  alarm_actions = [aws_sns_topic.alarms.arn]
  ok_actions    = [aws_sns_topic.alarms.arn]
}

# A key of one's own, because CloudWatch may not use the one that AWS keeps for SNS: alarms would
# then be raised, and never sent.
resource "aws_kms_key" "alarms" {
  description             = "Messages on the topic movies-r-us-alarms"
  enable_key_rotation     = true
  deletion_window_in_days = 7

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid       = "Administer"
        Effect    = "Allow"
        Principal = { AWS = "arn:aws:iam::${local.account_id}:root" }
        Action    = "kms:*"
        Resource  = "*"
      },
      {
        Sid       = "SendAlarms"
        Effect    = "Allow"
        Principal = { Service = "cloudwatch.amazonaws.com" }
        Action    = ["kms:Decrypt", "kms:GenerateDataKey*"]
        Resource  = "*"
      },
    ]
  })
}

resource "aws_sns_topic" "alarms" {
  name              = "movies-r-us-alarms"
  kms_master_key_id = aws_kms_key.alarms.arn
}

resource "aws_sns_topic_subscription" "alarms" {
  count = var.alarm_email == null ? 0 : 1

  topic_arn = aws_sns_topic.alarms.arn
  protocol  = "email"
  endpoint  = var.alarm_email
}
