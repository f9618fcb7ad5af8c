# Default: a Multi-AZ instance, whose standby in another zone takes over within two minutes.

resource "aws_db_parameter_group" "this" {
  count = var.reader ? 0 : 1

  name        = "${local.name}-${local.family}"
  description = "TLS only, slow statements logged"
  family      = local.family

  parameter {
    name  = "rds.force_ssl"
    value = "1"
  }

  parameter {
    name  = "log_min_duration_statement"
    value = "1000" # ms
  }

  # The group of another major version must exist before the database changes to it, and the old one until then.
  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_db_instance" "this" {
  #checkov:skip=CKV_AWS_161:The service uses the password that RDS rotates, not IAM authentication
  #checkov:skip=CKV_AWS_354:Performance Insights encrypts with RDS's own key; its statements contain movies, which are public
  count = var.reader ? 0 : 1

  identifier     = local.name
  engine         = "postgres"
  engine_version = local.engine_version
  instance_class = local.instance_class
  multi_az       = true

  storage_type          = "gp3"
  allocated_storage     = var.allocated_storage
  max_allocated_storage = var.max_allocated_storage
  storage_encrypted     = true

  db_name  = local.database
  username = local.username
  # RDS generates the password, stores it in Secrets Manager and rotates it every seven days.
  manage_master_user_password = true

  port                   = local.port
  db_subnet_group_name   = aws_db_subnet_group.this.name
  vpc_security_group_ids = [aws_security_group.database.id]
  publicly_accessible    = false
  parameter_group_name   = aws_db_parameter_group.this[0].name
  ca_cert_identifier     = "rds-ca-rsa2048-g1"

  backup_retention_period   = local.backup_days
  backup_window             = local.backup_window
  copy_tags_to_snapshot     = true
  deletion_protection       = var.deletion_protection
  skip_final_snapshot       = false
  final_snapshot_identifier = var.final_snapshot_identifier

  maintenance_window         = local.maintenance_window
  auto_minor_version_upgrade = true

  allow_major_version_upgrade = var.allow_major_version_upgrade
  # Terraform removes the old parameter group after the upgrade, so it must not wait for the maintenance window.
  apply_immediately = var.allow_major_version_upgrade

  performance_insights_enabled          = true
  performance_insights_retention_period = 7 # days; free of charge
  monitoring_interval                   = 60
  monitoring_role_arn                   = aws_iam_role.monitoring.arn
  enabled_cloudwatch_logs_exports       = local.logs

  # The role needs its policy before RDS uses it. The log groups must exist before RDS creates its own.
  depends_on = [aws_iam_role_policy_attachment.monitoring, aws_cloudwatch_log_group.this]
}
