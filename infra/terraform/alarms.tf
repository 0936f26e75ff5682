# Alarms on what popsteer tells CloudWatch (popsteer/vitals.py). They stand in alarms.json, so that a
# test can hold every one of them against the metrics that the processes really tell.

locals {
  # An alarm on streams is one for each stream that it names, with a threshold of its own.
  alarms = merge([
    for name, alarm in jsondecode(file("${path.module}/alarms.json")) : merge(
      { for stream, over in try(alarm.streams, {}) : "${name}-${stream}" => merge(alarm, {
        over       = over
        dimensions = merge(alarm.dimensions, { Stream = local.streams[stream].name })
      }) },
      { for over in try([alarm.over], []) : name => merge(alarm, { over = over }) },
    )
  ]...)
}

resource "aws_cloudwatch_metric_alarm" "popsteer" {
  for_each            = local.alarms
  alarm_name          = "${var.bucket}-${each.key}"
  alarm_description   = each.value.why
  namespace           = var.namespace
  metric_name         = each.value.metric
  dimensions          = each.value.dimensions
  statistic           = each.value.statistic
  period              = each.value.period_s
  evaluation_periods  = each.value.periods
  comparison_operator = "GreaterThanThreshold"
  threshold           = each.value.over
  treat_missing_data  = each.value.missing
  alarm_actions       = var.alarm_topics
  ok_actions          = var.alarm_topics
}
