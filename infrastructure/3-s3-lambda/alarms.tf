# CloudWatch alarms for the operator, and the SNS topic that they publish to.

locals {
  # period is in seconds. missing: Lambda and EventBridge emit their metrics only while events occur. The
  # metrics of a queue stop while messages wait in an idle queue, which must not clear an alarm on their number.
  function_alarms = {
    errors = {
      description = "Invocations have failed for 15 minutes: the API does not accept notifications."
      namespace   = "AWS/Lambda"
      metric      = "Errors"
      dimensions  = { FunctionName = local.function }
      statistic   = "Sum"
      threshold   = 0
      period      = 300
      evaluations = 3
      missing     = "notBreaching"
    }
    throttles = {
      description = "More events arrive than reserved_concurrency allows. They are delayed, not lost."
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

  # Each file that begins with source_, and asynchronous.tf, has the alarms of what it creates.
  alarms = merge(local.function_alarms, local.asynchronous_alarms, local.sqs_alarms, local.eventbridge_alarms)
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

# A customer-managed key, because CloudWatch cannot use the AWS-managed key of SNS and its alarms would not
# be delivered.
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
        Condition = { StringEquals = { "aws:SourceAccount" = local.account_id } }
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
