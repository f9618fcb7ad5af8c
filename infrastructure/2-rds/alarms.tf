# CloudWatch alarms on the database. A full database ends ingests as `failed` with the code database_full.

data "aws_caller_identity" "this" {}

locals {
  # RDS names the instances of a Multi-AZ DB cluster after the cluster.
  instances = var.reader ? [for number in range(1, 4) : "${local.name}-instance-${number}"] : [local.name]

  # 3-s3-lambda creates the topic. Until then the alarms reach nobody.
  alarm_topic_arn = "arn:aws:sns:eu-west-1:${data.aws_caller_identity.this.account_id}:movies-r-us-alarms"

  # RDS's default of max_connections, from the memory of the class: db.<family>.<size>. A class of a family that is not
  # here has the connections of db.t4g.micro, so that the alarm comes too early rather than never.
  class           = regex("^db\\.(?P<family>[a-z]+)[0-9]+[a-z]*\\.(?P<size>[0-9a-z]+)$", local.instance_class)
  large_gib       = lookup({ c = 4, m = 8, r = 16, t = 8, x = 32 }, local.class.family, 1)
  size            = lookup({ micro = 0.125, small = 0.25, medium = 0.5, large = 1, xlarge = 2 }, local.class.size, 0)
  times           = local.size > 0 ? local.size : 2 * tonumber(trimsuffix(local.class.size, "xlarge"))
  max_connections = min(5000, floor(local.large_gib * local.times * 1024 * 1024 * 1024 / 9531392))

  # period is in seconds.
  database_alarms = merge({
    processor = {
      description = "The database has used nine tenths of its processor for a quarter of an hour: find slow statements in the log, or raise instance_class."
      metric      = "CPUUtilization"
      threshold   = 90 # percent
      period      = 300
      evaluations = 3
    }
    connections = {
      description = "The database has four fifths of the connections that it accepts: lower the chart's autoscaling.maxReplicas, or raise instance_class."
      metric      = "DatabaseConnections"
      threshold   = floor(local.max_connections * 0.8)
      period      = 300
      evaluations = 1
    }
    },
    # Of the writer this metric is missing or 0.
    var.reader ? {
      replica-lag = {
        description = "Queries have been answered from a state that is more than 30 seconds old: the reader does not keep up with the writes."
        metric      = "ReplicaLag"
        threshold   = 30 # s
        period      = 60
        evaluations = 5
      }
  } : {})

  alarms_by_instance = {
    for pair in setproduct(local.instances, keys(local.database_alarms)) :
    "${pair[0]}-${pair[1]}" => merge(local.database_alarms[pair[1]], { instance = pair[0] })
  }
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

resource "aws_cloudwatch_metric_alarm" "database" {
  for_each = local.alarms_by_instance

  alarm_name          = each.key
  alarm_description   = each.value.description
  namespace           = "AWS/RDS"
  metric_name         = each.value.metric
  dimensions          = { DBInstanceIdentifier = each.value.instance }
  statistic           = "Average"
  comparison_operator = "GreaterThanThreshold"
  threshold           = each.value.threshold
  period              = each.value.period
  evaluation_periods  = each.value.evaluations
  treat_missing_data  = "notBreaching"

  alarm_actions = [local.alarm_topic_arn]
  ok_actions    = [local.alarm_topic_arn]
}
