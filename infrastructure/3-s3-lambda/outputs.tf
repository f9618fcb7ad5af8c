output "bucket" {
  description = "Bucket for movie files."
  value       = aws_s3_bucket.files.bucket
}

output "function_name" {
  value = aws_lambda_function.ingest.function_name
}

output "failure_queues" {
  description = "Names of the queues for events that failed all attempts. scripts/redrive-failures --queue takes each."
  value       = concat(aws_sqs_queue.failures[*].name, aws_sqs_queue.dead_letters[*].name, aws_sqs_queue.undelivered[*].name)
}

output "results_topic_arn" {
  description = "Topic for the results of ingests. Producers subscribe to it; it is the chart's results.topicArn."
  value       = aws_sns_topic.results.arn
}

output "alarm_topic_arn" {
  value = aws_sns_topic.alarms.arn
}
