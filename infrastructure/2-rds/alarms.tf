# CloudWatch alarms on the free storage of the database. A full database ends ingests as `failed` with the code
# database_full.

data "aws_caller_identity" "this" {}

locals {
  # RDS names the instances of a Multi-AZ DB cluster after the cluster.
  instances = var.reader ? [for number in range(1, 4) : "${local.name}-instance-${number}"] : [local.name]

  # 3-s3-lambda creates the topic. Until then the alarms reach nobody.
  alarm_topic_arn = "arn:aws:sns:eu-west-1:${data.aws_caller_identity.this.account_id}:movies-r-us-alarms"
}

resource "aws_cloudwatch_metric_alarm" "free_storage" {
  for_each = toset(local.instances)

  alarm_name          = "${each.key}-free-storage"
  alarm_description   = "The database has less free storage than a fifth of allocated_storage: raise max_allocated_storage, with a reader allocated_storage."
  namespace           = "AWS/RDS"
  metric_name         = "FreeStorageSpace"
  dimensions          = { DBInstanceIdentifier = each.key }
  statistic           = "Minimum"
  comparison_operator = "LessThanThreshold"
  threshold           = var.allocated_storage * 1024 * 1024 * 1024 / 5 # bytes
  period              = 300
  evaluation_periods  = 1
  treat_missing_data  = "ignore"

  alarm_actions = [local.alarm_topic_arn]
  ok_actions    = [local.alarm_topic_arn]
}
