# Checks allowed values and fixed settings, which the provider's schema does not cover.

mock_provider "aws" {
  mock_data "aws_eks_cluster" {
    defaults = {
      vpc_config = [{ cluster_security_group_id = "sg-0a0a0a0a0a0a0a0a0" }]
    }
  }

  mock_data "aws_caller_identity" {
    defaults = { account_id = "111122223333" }
  }

  mock_data "aws_vpc" {
    defaults = { id = "vpc-0b0b0b0b0b0b0b0b0" }
  }

  mock_data "aws_subnets" {
    defaults = { ids = ["subnet-0a", "subnet-0b", "subnet-0c"] }
  }

  # The provider validates the format of ARNs.
  mock_resource "aws_iam_role" {
    defaults = { arn = "arn:aws:iam::111122223333:role/movies-r-us-rds-monitoring" }
  }

  mock_resource "aws_db_instance" {
    defaults = {
      address            = "movies-r-us.example.com"
      master_user_secret = [{ secret_arn = "arn:aws:secretsmanager:eu-west-1:111122223333:secret:rds!db-0-abcdef" }]
    }
  }

  mock_resource "aws_rds_cluster" {
    defaults = {
      endpoint           = "writer.example.com"
      reader_endpoint    = "reader.example.com"
      master_user_secret = [{ secret_arn = "arn:aws:secretsmanager:eu-west-1:111122223333:secret:rds!cluster-0-abcdef" }]
    }
  }
}

run "instance" {
  assert {
    condition     = length(aws_db_instance.this) == 1 && length(aws_rds_cluster.this) == 0
    error_message = "Without a reader there must be one instance and no cluster."
  }

  assert {
    condition     = aws_db_instance.this[0].multi_az
    error_message = "The instance must be Multi-AZ."
  }

  assert {
    condition     = !aws_db_instance.this[0].publicly_accessible
    error_message = "The instance must not have a public address."
  }

  assert {
    condition     = aws_db_instance.this[0].storage_encrypted
    error_message = "Storage must be encrypted."
  }

  assert {
    condition     = aws_db_instance.this[0].manage_master_user_password
    error_message = "RDS must manage the password."
  }

  assert {
    condition     = aws_db_instance.this[0].deletion_protection && !aws_db_instance.this[0].skip_final_snapshot && aws_db_instance.this[0].final_snapshot_identifier == "movies-r-us-final"
    error_message = "The instance must have deletion protection and a final snapshot."
  }

  assert {
    condition     = aws_db_instance.this[0].backup_retention_period == 14 && aws_db_instance.this[0].copy_tags_to_snapshot
    error_message = "Backups must be kept for 14 days and have the instance's tags."
  }

  assert {
    condition     = aws_db_instance.this[0].engine == "postgres" && aws_db_instance.this[0].engine_version == "18" && aws_db_parameter_group.this[0].family == "postgres18"
    error_message = "The engine must be postgres 18, and the parameter group must be of its family."
  }

  assert {
    condition     = aws_db_instance.this[0].parameter_group_name == aws_db_parameter_group.this[0].name && contains([for p in aws_db_parameter_group.this[0].parameter : "${p.name}=${p.value}"], "rds.force_ssl=1")
    error_message = "The instance's parameter group must force TLS."
  }

  assert {
    condition     = aws_db_instance.this[0].storage_type == "gp3" && aws_db_instance.this[0].max_allocated_storage > aws_db_instance.this[0].allocated_storage
    error_message = "Storage must be gp3 with autoscaling."
  }

  assert {
    condition     = aws_db_instance.this[0].ca_cert_identifier == "rds-ca-rsa2048-g1"
    error_message = "The CA must be one that the image trusts."
  }

  assert {
    condition     = contains([1, 5, 10, 15, 30, 60], aws_db_instance.this[0].monitoring_interval) && aws_db_instance.this[0].monitoring_role_arn == aws_iam_role.monitoring.arn
    error_message = "Enhanced monitoring must have an interval that RDS supports, and its role."
  }

  assert {
    condition     = aws_db_instance.this[0].performance_insights_enabled && contains([7, 31, 62, 93, 731], aws_db_instance.this[0].performance_insights_retention_period)
    error_message = "Performance Insights must be on, with a retention that RDS supports."
  }

  assert {
    condition     = aws_db_instance.this[0].auto_minor_version_upgrade && aws_db_instance.this[0].enabled_cloudwatch_logs_exports == toset(["postgresql", "upgrade"])
    error_message = "Minor version upgrades must be automatic, and CloudWatch must get the logs."
  }

  assert {
    condition     = aws_cloudwatch_log_group.this["postgresql"].name == "/aws/rds/instance/movies-r-us/postgresql"
    error_message = "The log group must have the name that RDS writes to."
  }

  assert {
    condition     = output.database_host == "movies-r-us.example.com" && output.database_port == 5432 && output.database_name == "movies" && output.database_read_host == null
    error_message = "The outputs must contain the instance and no reader."
  }

  assert {
    condition     = aws_db_instance.this[0].db_name == output.database_name && aws_db_instance.this[0].port == output.database_port && aws_db_instance.this[0].username == "movies_r_us"
    error_message = "The outputs must match the instance."
  }
}

run "no_major_version_upgrade" {
  assert {
    condition     = !aws_db_instance.this[0].allow_major_version_upgrade && !aws_db_instance.this[0].apply_immediately
    error_message = "A plan must not be able to upgrade the major version, and changes must wait for the maintenance window."
  }
}

run "major_version_upgrade" {
  variables {
    allow_major_version_upgrade = true
  }

  assert {
    condition     = aws_db_instance.this[0].allow_major_version_upgrade && aws_db_instance.this[0].apply_immediately
    error_message = "The upgrade must be allowed and immediate: terraform removes the old parameter group after it."
  }
}

run "major_version_upgrade_with_a_reader" {
  variables {
    allow_major_version_upgrade = true
    reader                      = true
  }

  assert {
    condition     = aws_rds_cluster.this[0].allow_major_version_upgrade && aws_rds_cluster.this[0].apply_immediately
    error_message = "The upgrade must be allowed and immediate: terraform removes the old parameter group after it."
  }
}

run "network" {
  assert {
    condition     = aws_vpc_security_group_ingress_rule.from_nodes.referenced_security_group_id == "sg-0a0a0a0a0a0a0a0a0"
    error_message = "The ingress rule must allow the cluster's nodes only."
  }

  assert {
    condition     = aws_vpc_security_group_ingress_rule.from_nodes.ip_protocol == "tcp" && aws_vpc_security_group_ingress_rule.from_nodes.from_port == 5432 && aws_vpc_security_group_ingress_rule.from_nodes.to_port == 5432
    error_message = "The ingress rule must allow port 5432 only."
  }

  assert {
    condition     = alltrue([for text in [aws_security_group.database.description, aws_vpc_security_group_ingress_rule.from_nodes.description] : can(regex("^[0-9A-Za-z ._:/()#,@+=&;{}!$*\\[\\]-]+$", text))])
    error_message = "Descriptions of security groups and rules must contain only characters that EC2 accepts."
  }

  assert {
    condition     = aws_db_instance.this[0].vpc_security_group_ids == toset([aws_security_group.database.id]) && aws_vpc_security_group_ingress_rule.from_nodes.security_group_id == aws_security_group.database.id
    error_message = "The instance must have only this security group."
  }

  assert {
    condition     = aws_security_group.database.vpc_id == "vpc-0b0b0b0b0b0b0b0b0" && aws_db_subnet_group.this.subnet_ids == toset(["subnet-0a", "subnet-0b", "subnet-0c"])
    error_message = "VPC and subnets must be those with the cluster's tags."
  }
}

run "secret" {
  assert {
    condition     = aws_iam_role_policy.migration.role == "movies-r-us-migrate"
    error_message = "The policy must belong to the role of the migration."
  }

  assert {
    condition     = length(aws_iam_role_policy.pods) == 0
    error_message = "Pods that serve must not be allowed to read the database secret."
  }

  assert {
    condition     = jsondecode(aws_iam_role_policy.migration.policy).Statement == [{ Sid = "ReadDatabaseSecret", Effect = "Allow", Action = "secretsmanager:GetSecretValue", Resource = "arn:aws:secretsmanager:eu-west-1:111122223333:secret:rds!db-0-abcdef" }]
    error_message = "The migration must be allowed to read the database secret only."
  }
}

run "secret_during_the_upgrade" {
  variables {
    pods_read_owner_secret = true
  }

  assert {
    condition     = aws_iam_role_policy.pods[0].role == "movies-r-us-api" && aws_iam_role_policy.pods[0].policy == aws_iam_role_policy.migration.policy && aws_iam_role_policy.pods[0].name == "movies-r-us-database-secret"
    error_message = "Pods of the release before must keep the permission to read the database secret, under its name."
  }
}

run "free_storage" {
  assert {
    condition     = keys(aws_cloudwatch_metric_alarm.free_storage) == ["movies-r-us"]
    error_message = "The instance must have one alarm on free storage."
  }

  assert {
    condition     = alltrue([for name, alarm in aws_cloudwatch_metric_alarm.free_storage : alarm.namespace == "AWS/RDS" && alarm.metric_name == "FreeStorageSpace" && alarm.dimensions == tomap({ DBInstanceIdentifier = name }) && alarm.comparison_operator == "LessThanThreshold" && alarm.threshold == 10737418240])
    error_message = "The alarm must be raised below a fifth of the allocated storage, in bytes."
  }

  assert {
    condition     = aws_cloudwatch_metric_alarm.free_storage["movies-r-us"].alarm_actions == toset(["arn:aws:sns:eu-west-1:111122223333:movies-r-us-alarms"]) && aws_db_instance.this[0].identifier == "movies-r-us"
    error_message = "The alarm must watch the instance and go to the topic of 3-s3-lambda."
  }
}

run "database_alarms" {
  assert {
    condition     = { for name, alarm in aws_cloudwatch_metric_alarm.database : name => "${alarm.metric_name} > ${alarm.threshold}" } == { movies-r-us-connections = "DatabaseConnections > 720", movies-r-us-processor = "CPUUtilization > 90" }
    error_message = "The instance must have alarms on processor and connections; db.m7g.large accepts about 900 connections."
  }

  assert {
    condition     = alltrue([for alarm in aws_cloudwatch_metric_alarm.database : alarm.namespace == "AWS/RDS" && alarm.dimensions == tomap({ DBInstanceIdentifier = aws_db_instance.this[0].identifier }) && alarm.comparison_operator == "GreaterThanThreshold" && alarm.statistic == "Average" && alarm.alarm_actions == toset(["arn:aws:sns:eu-west-1:111122223333:movies-r-us-alarms"])])
    error_message = "The alarms must watch the instance and go to the topic of 3-s3-lambda."
  }
}

run "connections_of_a_small_class" {
  variables {
    instance_class = "db.t4g.micro"
  }

  assert {
    condition     = aws_cloudwatch_metric_alarm.database["movies-r-us-connections"].threshold == 89
    error_message = "db.t4g.micro accepts about 110 connections."
  }
}

run "connections_of_a_large_class" {
  variables {
    instance_class = "db.r7g.4xlarge"
  }

  assert {
    condition     = aws_cloudwatch_metric_alarm.database["movies-r-us-connections"].threshold == 4000
    error_message = "RDS accepts at most 5000 connections."
  }
}

run "given_network" {
  variables {
    vpc_id     = "vpc-0123456789abcdef0"
    subnet_ids = ["subnet-0123456789abcdef0", "subnet-0123456789abcdef1"]
  }

  assert {
    condition     = aws_db_subnet_group.this.subnet_ids == toset(["subnet-0123456789abcdef0", "subnet-0123456789abcdef1"])
    error_message = "The given subnets must be used."
  }
}

run "without_deletion_protection" {
  variables {
    deletion_protection       = false
    final_snapshot_identifier = "movies-r-us-final-2"
  }

  assert {
    condition     = !aws_db_instance.this[0].deletion_protection && !aws_db_instance.this[0].skip_final_snapshot && aws_db_instance.this[0].final_snapshot_identifier == "movies-r-us-final-2"
    error_message = "Without deletion protection there must still be a final snapshot."
  }
}

run "reader" {
  variables {
    reader = true
  }

  assert {
    condition     = length(aws_db_instance.this) == 0 && length(aws_rds_cluster.this) == 1
    error_message = "With a reader there must be one cluster and no instance."
  }

  assert {
    condition     = aws_rds_cluster.this[0].engine == "postgres" && aws_rds_cluster.this[0].engine_version == "18" && aws_rds_cluster.this[0].db_cluster_instance_class == "db.m6gd.large" && aws_rds_cluster.this[0].storage_type == "gp3"
    error_message = "The cluster must be a Multi-AZ DB cluster: engine postgres, and a class with local disks."
  }

  assert {
    condition     = aws_rds_cluster.this[0].storage_encrypted && aws_rds_cluster.this[0].deletion_protection && !aws_rds_cluster.this[0].skip_final_snapshot && aws_rds_cluster.this[0].backup_retention_period == 14
    error_message = "The cluster must have encryption, deletion protection and backups for 14 days."
  }

  assert {
    condition     = aws_rds_cluster.this[0].manage_master_user_password
    error_message = "RDS must manage the password."
  }

  assert {
    condition     = aws_rds_cluster_parameter_group.this[0].family == "postgres18" && aws_rds_cluster.this[0].db_cluster_parameter_group_name == aws_rds_cluster_parameter_group.this[0].name && contains([for p in aws_rds_cluster_parameter_group.this[0].parameter : "${p.name}=${p.value}"], "rds.force_ssl=1")
    error_message = "The cluster's parameter group must force TLS."
  }

  assert {
    condition     = aws_rds_cluster.this[0].vpc_security_group_ids == toset([aws_security_group.database.id]) && aws_rds_cluster.this[0].ca_certificate_identifier == "rds-ca-rsa2048-g1"
    error_message = "The cluster must have the same security group and CA as the instance."
  }

  assert {
    condition     = output.database_host == "writer.example.com" && output.database_read_host == "reader.example.com" && jsondecode(aws_iam_role_policy.migration.policy).Statement[0].Resource == output.database_secret_arn
    error_message = "The outputs must contain the cluster's endpoints, and the policy its secret."
  }

  assert {
    condition     = aws_cloudwatch_log_group.this["postgresql"].name == "/aws/rds/cluster/movies-r-us/postgresql"
    error_message = "The log group must have the name that RDS writes to."
  }
}

run "free_storage_with_a_reader" {
  variables {
    reader = true
  }

  assert {
    condition     = keys(aws_cloudwatch_metric_alarm.free_storage) == [for number in [1, 2, 3] : "${aws_rds_cluster.this[0].cluster_identifier}-instance-${number}"]
    error_message = "Each instance of the cluster must have an alarm on free storage."
  }
}

run "database_alarms_with_a_reader" {
  variables {
    reader = true
  }

  assert {
    condition     = length(aws_cloudwatch_metric_alarm.database) == 9 && alltrue([for number in [1, 2, 3] : aws_cloudwatch_metric_alarm.database["movies-r-us-instance-${number}-replica-lag"].metric_name == "ReplicaLag" && aws_cloudwatch_metric_alarm.database["movies-r-us-instance-${number}-replica-lag"].dimensions == tomap({ DBInstanceIdentifier = "movies-r-us-instance-${number}" })])
    error_message = "Each instance of the cluster must have alarms on processor, connections and lag."
  }
}

run "refuses_another_project_tag" {
  command = plan

  variables {
    tags = { Project = "other" }
  }

  expect_failures = [var.tags]
}

run "refuses_a_malformed_instance_class" {
  command = plan

  variables {
    instance_class = "m7g.large"
  }

  expect_failures = [var.instance_class]
}

run "refuses_a_reader_without_local_disks" {
  command = plan

  variables {
    reader         = true
    instance_class = "db.m7g.large"
  }

  expect_failures = [var.instance_class]
}

run "refuses_a_reader_in_two_subnets" {
  command = plan

  variables {
    reader     = true
    subnet_ids = ["subnet-0123456789abcdef0", "subnet-0123456789abcdef1"]
  }

  expect_failures = [aws_db_subnet_group.this]
}

run "refuses_too_little_storage" {
  command = plan

  variables {
    allocated_storage = 5
  }

  expect_failures = [var.allocated_storage]
}

run "refuses_a_storage_limit_without_headroom" {
  command = plan

  variables {
    allocated_storage     = 500
    max_allocated_storage = 500
  }

  expect_failures = [var.max_allocated_storage]
}

run "refuses_one_subnet" {
  command = plan

  variables {
    subnet_ids = ["subnet-0123456789abcdef0"]
  }

  expect_failures = [var.subnet_ids]
}

run "refuses_a_malformed_vpc_id" {
  command = plan

  variables {
    vpc_id = "movies"
  }

  expect_failures = [var.vpc_id]
}

run "refuses_a_malformed_snapshot_name" {
  command = plan

  variables {
    final_snapshot_identifier = "Movies--final"
  }

  expect_failures = [var.final_snapshot_identifier]
}

run "refuses_a_vpc_without_private_subnets" {
  command = plan

  override_data {
    target = data.aws_subnets.private
    values = { ids = [] }
  }

  expect_failures = [aws_db_subnet_group.this]
}
