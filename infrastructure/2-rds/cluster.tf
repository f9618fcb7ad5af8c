# With a reader: a Multi-AZ DB cluster, one writer and two readable standbys in three zones.
# Not a read replica of the instance: RDS does not support one with a managed password.

resource "aws_rds_cluster_parameter_group" "this" {
  count = var.reader ? 1 : 0

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

resource "aws_rds_cluster" "this" {
  #checkov:skip=CKV2_AWS_8:RDS keeps backups for 14 days, and the catalogue can be rebuilt from the bucket
  #checkov:skip=CKV2_AWS_27:Slow statements are logged; log_statement would also log the text of every movie
  count = var.reader ? 1 : 0

  cluster_identifier        = local.name
  engine                    = "postgres"
  engine_version            = local.engine_version
  db_cluster_instance_class = local.instance_class

  storage_type      = "gp3"
  allocated_storage = var.allocated_storage
  storage_encrypted = true

  database_name               = local.database
  master_username             = local.username
  manage_master_user_password = true

  port                            = local.port
  db_subnet_group_name            = aws_db_subnet_group.this.name
  vpc_security_group_ids          = [aws_security_group.database.id]
  db_cluster_parameter_group_name = aws_rds_cluster_parameter_group.this[0].name
  ca_certificate_identifier       = "rds-ca-rsa2048-g1"

  backup_retention_period   = local.backup_days
  preferred_backup_window   = local.backup_window
  copy_tags_to_snapshot     = true
  deletion_protection       = var.deletion_protection
  skip_final_snapshot       = false
  final_snapshot_identifier = var.final_snapshot_identifier

  preferred_maintenance_window = local.maintenance_window
  auto_minor_version_upgrade   = true

  allow_major_version_upgrade = var.allow_major_version_upgrade
  # Terraform removes the old parameter group after the upgrade, so it must not wait for the maintenance window.
  apply_immediately = var.allow_major_version_upgrade

  performance_insights_enabled          = true
  performance_insights_retention_period = 7
  monitoring_interval                   = 60
  monitoring_role_arn                   = aws_iam_role.monitoring.arn
  enabled_cloudwatch_logs_exports       = local.logs

  depends_on = [aws_iam_role_policy_attachment.monitoring, aws_cloudwatch_log_group.this]
}
