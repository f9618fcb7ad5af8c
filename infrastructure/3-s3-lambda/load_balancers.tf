# Alarms on the load balancers of the chart. The load balancer controller creates them, and their ARNs contain an id that
# is not known before: scripts/load-balancers finds them.

locals {
  # Each is a query of one load balancer, which `%s` stands for. Of a quiet one the metrics are missing.
  load_balancer_alarms = {
    errors = {
      description = "More than one of twenty requests has been answered with 5xx, by the pods or by the load balancer, for a quarter of an hour."
      # percent
      expression  = "IF(requests > 0, 100 * (FILL(by_pods, 0) + FILL(by_itself, 0)) / requests)"
      threshold   = 5
      period      = 300
      evaluations = 3
      metrics = {
        by_pods   = { name = "HTTPCode_Target_5XX_Count", stat = "Sum" }
        by_itself = { name = "HTTPCode_ELB_5XX_Count", stat = "Sum" }
        requests  = { name = "RequestCount", stat = "Sum" }
      }
    }
    unhealthy-hosts = {
      description = "A pod has failed the health check of the load balancer for ten minutes."
      expression  = "SELECT MAX(UnHealthyHostCount) FROM SCHEMA(\"AWS/ApplicationELB\", LoadBalancer, TargetGroup) WHERE LoadBalancer = '%s'"
      threshold   = 0
      period      = 60
      evaluations = 10
      metrics     = {}
    }
    latency = {
      description = "One of a hundred requests has taken longer than three seconds until its answer began, for a quarter of an hour."
      expression  = "FILL(seconds, 0)"
      threshold   = 3
      period      = 300
      evaluations = 3
      metrics = {
        seconds = { name = "TargetResponseTime", stat = "p99" }
      }
    }
  }

  alarms_by_load_balancer = {
    for pair in setproduct(keys(var.load_balancers), keys(local.load_balancer_alarms)) :
    "${pair[0]}-${pair[1]}" => merge(local.load_balancer_alarms[pair[1]], { load_balancer = var.load_balancers[pair[0]] })
  }
}

resource "aws_cloudwatch_metric_alarm" "load_balancers" {
  for_each = local.alarms_by_load_balancer

  alarm_name          = each.key
  alarm_description   = each.value.description
  comparison_operator = "GreaterThanThreshold"
  threshold           = each.value.threshold
  evaluation_periods  = each.value.evaluations
  treat_missing_data  = "notBreaching"

  metric_query {
    id          = "result"
    expression  = replace(each.value.expression, "%s", each.value.load_balancer)
    period      = length(each.value.metrics) == 0 ? each.value.period : null
    return_data = true
  }

  dynamic "metric_query" {
    for_each = each.value.metrics

    content {
      id          = metric_query.key
      return_data = false

      metric {
        namespace   = "AWS/ApplicationELB"
        metric_name = metric_query.value.name
        dimensions  = { LoadBalancer = each.value.load_balancer }
        stat        = metric_query.value.stat
        period      = each.value.period
      }
    }
  }

  alarm_actions = [aws_sns_topic.alarms.arn]
  ok_actions    = [aws_sns_topic.alarms.arn]
}
