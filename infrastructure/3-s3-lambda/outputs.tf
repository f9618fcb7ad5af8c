output "bucket" {
  description = "Where movie files are put."
  value       = aws_s3_bucket.files.bucket
}

output "function_name" {
  value = aws_lambda_function.ingest.function_name
}

output "failure_queue_url" {
  description = "Where events wait that the function failed on."
  value       = aws_sqs_queue.failures.url
}

output "results_topic_arn" {
  description = "Where producers subscribe to what became of their files; the chart's results.topicArn."
  value       = aws_sns_topic.results.arn
}

output "alarm_topic_arn" {
  value = aws_sns_topic.alarms.arn
}
