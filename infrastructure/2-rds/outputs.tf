# What the chart's values need, and nothing else.

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
  description = "The secret with user and password, as RDS keeps it."
  value       = local.secret_arn
}

output "database_read_host" {
  description = "null without a reader."
  value       = var.reader ? aws_rds_cluster.this[0].reader_endpoint : null
}
