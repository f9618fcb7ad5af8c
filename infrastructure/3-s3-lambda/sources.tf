# The choice of the event source, and the bucket's notifications to it.

locals {
  # The sources whose resources exist: the chosen one and, during a change, the previous one.
  event_sources = compact([var.event_source, var.previous_event_source])
  direct        = contains(local.event_sources, "direct")
  sqs           = contains(local.event_sources, "sqs")
  eventbridge   = contains(local.event_sources, "eventbridge")

  # S3 sends each event to EventBridge and to one other destination at most. A change between direct and sqs
  # moves the notification; a change from or to eventbridge keeps both until previous_event_source is null.
  notified = var.event_source == "eventbridge" ? var.previous_event_source : var.event_source
}

resource "aws_s3_bucket_notification" "files" {
  bucket      = aws_s3_bucket.files.id
  eventbridge = local.eventbridge

  dynamic "lambda_function" {
    for_each = local.notified == "direct" ? ["direct"] : []

    content {
      lambda_function_arn = aws_lambda_function.ingest.arn
      events              = ["s3:ObjectCreated:*", "s3:ObjectRemoved:*", "s3:LifecycleExpiration:*"]
    }
  }

  dynamic "queue" {
    for_each = local.notified == "sqs" ? ["sqs"] : []

    content {
      queue_arn = aws_sqs_queue.events[0].arn
      events    = ["s3:ObjectCreated:*", "s3:ObjectRemoved:*", "s3:LifecycleExpiration:*"]
    }
  }

  # S3 checks the permission of the bucket and the policy of the queue when the notification is created. Of the
  # others S3 knows nothing: an event that comes before them would be lost.
  depends_on = [
    aws_lambda_permission.bucket,
    aws_sqs_queue_policy.events,
    aws_lambda_permission.rule,
    aws_cloudwatch_event_target.ingest,
    aws_lambda_function_event_invoke_config.ingest,
  ]
}
