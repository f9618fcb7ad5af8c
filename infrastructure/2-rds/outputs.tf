# The outputs that the chart's values need.

output "database_host" {
  value = var.reader ? aws_rds_cluster.this[0].endpoint : aws_db_instance.this[0].address
}

output "database_port" {
  value = local.port
}

output "database_name" {
  value = local.database
}

output "database_secret_arn" {
  description = "ARN of the RDS-managed secret with user and password."
  value       = local.secret_arn
}

output "database_read_host" {
  description = "Endpoint for queries; null without a reader."
  value       = var.reader ? aws_rds_cluster.this[0].reader_endpoint : null
}
