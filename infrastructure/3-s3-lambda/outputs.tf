output "bucket" {
  description = "Bucket for movie files."
  value       = aws_s3_bucket.files.bucket
}

output "function_name" {
  value = aws_lambda_function.ingest.function_name
}

output "failure_queue_url" {
  description = "Queue for events that failed all attempts."
  value       = aws_sqs_queue.failures.url
}

output "results_topic_arn" {
  description = "Topic for the results of ingests. Producers subscribe to it; it is the chart's results.topicArn."
  value       = aws_sns_topic.results.arn
}

output "alarm_topic_arn" {
  value = aws_sns_topic.alarms.arn
}
