# Asserts what the provider's schema does not know: allowed values, and what must never change.

mock_provider "aws" {
  mock_data "aws_eks_cluster" {
    defaults = {
      vpc_config = [{ cluster_security_group_id = "sg-0a0a0a0a0a0a0a0a0" }]
    }
  }

  mock_data "aws_vpc" {
    defaults = { id = "vpc-0b0b0b0b0b0b0b0b0" }
  }

  mock_data "aws_subnets" {
    defaults = { ids = ["subnet-0a", "subnet-0b", "subnet-0c"] }
  }

  # The provider itself, where it is at hand, takes no ARN that is not one.
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
    error_message = "Without a reader there is one instance and no cluster."
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
    error_message = "The instance must be protected from deletion, and leave a snapshot."
  }

  assert {
    condition     = aws_db_instance.this[0].backup_retention_period == 14 && aws_db_instance.this[0].copy_tags_to_snapshot
    error_message = "Backups must be kept 14 days, with their tags."
  }

  assert {
    condition     = aws_db_instance.this[0].engine == "postgres" && aws_db_instance.this[0].engine_version == "17" && aws_db_parameter_group.this[0].family == "postgres17"
    error_message = "The engine is postgres 17, and the parameter group of its family."
  }

  assert {
    condition     = aws_db_instance.this[0].parameter_group_name == aws_db_parameter_group.this[0].name && contains([for p in aws_db_parameter_group.this[0].parameter : "${p.name}=${p.value}"], "rds.force_ssl=1")
    error_message = "The instance's parameter group must force TLS."
  }

  assert {
    condition     = aws_db_instance.this[0].storage_type == "gp3" && aws_db_instance.this[0].max_allocated_storage > aws_db_instance.this[0].allocated_storage
    error_message = "Storage must be gp3, and grow by itself."
  }

  assert {
    condition     = aws_db_instance.this[0].ca_cert_identifier == "rds-ca-rsa2048-g1"
    error_message = "The server's certificate must be of the CA that the image trusts."
  }

  assert {
    condition     = contains([1, 5, 10, 15, 30, 60], aws_db_instance.this[0].monitoring_interval) && aws_db_instance.this[0].monitoring_role_arn == aws_iam_role.monitoring.arn
    error_message = "Enhanced monitoring needs an interval that RDS knows, and its role."
  }

  assert {
    condition     = aws_db_instance.this[0].performance_insights_enabled && contains([7, 31, 62, 93, 731], aws_db_instance.this[0].performance_insights_retention_period)
    error_message = "Performance Insights must be on, with a retention that RDS knows."
  }

  assert {
    condition     = aws_db_instance.this[0].auto_minor_version_upgrade && aws_db_instance.this[0].enabled_cloudwatch_logs_exports == toset(["postgresql", "upgrade"])
    error_message = "Minor versions must come by themselves, and the logs go to CloudWatch."
  }

  assert {
    condition     = aws_cloudwatch_log_group.this["postgresql"].name == "/aws/rds/instance/movies-r-us/postgresql"
    error_message = "The log group must be the one that RDS writes to."
  }

  assert {
    condition     = output.database_host == "movies-r-us.example.com" && output.database_port == 5432 && output.database_name == "movies" && output.database_read_host == null
    error_message = "The outputs must name the instance, and no reader."
  }

  assert {
    condition     = aws_db_instance.this[0].db_name == output.database_name && aws_db_instance.this[0].port == output.database_port && aws_db_instance.this[0].username == "movies_r_us"
    error_message = "The outputs must say what the instance has."
  }
}

run "network" {
  assert {
    condition     = aws_vpc_security_group_ingress_rule.from_nodes.referenced_security_group_id == "sg-0a0a0a0a0a0a0a0a0"
    error_message = "Only the cluster's nodes may connect."
  }

  assert {
    condition     = aws_vpc_security_group_ingress_rule.from_nodes.ip_protocol == "tcp" && aws_vpc_security_group_ingress_rule.from_nodes.from_port == 5432 && aws_vpc_security_group_ingress_rule.from_nodes.to_port == 5432
    error_message = "Only Postgres's port may be open."
  }

  assert {
    condition     = aws_db_instance.this[0].vpc_security_group_ids == toset([aws_security_group.database.id]) && aws_vpc_security_group_ingress_rule.from_nodes.security_group_id == aws_security_group.database.id
    error_message = "The instance must have that one security group."
  }

  assert {
    condition     = aws_security_group.database.vpc_id == "vpc-0b0b0b0b0b0b0b0b0" && aws_db_subnet_group.this.subnet_ids == toset(["subnet-0a", "subnet-0b", "subnet-0c"])
    error_message = "VPC and subnets must be those found by the cluster's tags."
  }
}

run "secret" {
  assert {
    condition     = aws_iam_role_policy.pods.role == "movies-r-us-api"
    error_message = "The right belongs to the pods' role."
  }

  assert {
    condition     = jsondecode(aws_iam_role_policy.pods.policy).Statement == [{ Sid = "ReadDatabaseSecret", Effect = "Allow", Action = "secretsmanager:GetSecretValue", Resource = "arn:aws:secretsmanager:eu-west-1:111122223333:secret:rds!db-0-abcdef" }]
    error_message = "Pods may read the database's secret, that one alone."
  }
}

run "named_network" {
  variables {
    vpc_id     = "vpc-0123456789abcdef0"
    subnet_ids = ["subnet-0123456789abcdef0", "subnet-0123456789abcdef1"]
  }

  assert {
    condition     = aws_db_subnet_group.this.subnet_ids == toset(["subnet-0123456789abcdef0", "subnet-0123456789abcdef1"])
    error_message = "Subnets that are named must be used."
  }
}

run "teardown" {
  variables {
    deletion_protection       = false
    final_snapshot_identifier = "movies-r-us-final-2"
  }

  assert {
    condition     = !aws_db_instance.this[0].deletion_protection && !aws_db_instance.this[0].skip_final_snapshot && aws_db_instance.this[0].final_snapshot_identifier == "movies-r-us-final-2"
    error_message = "Deletion can be allowed, and still leaves a snapshot."
  }
}

run "reader" {
  variables {
    reader = true
  }

  assert {
    condition     = length(aws_db_instance.this) == 0 && length(aws_rds_cluster.this) == 1
    error_message = "With a reader there is a cluster and no instance."
  }

  assert {
    condition     = aws_rds_cluster.this[0].engine == "postgres" && aws_rds_cluster.this[0].engine_version == "17" && aws_rds_cluster.this[0].db_cluster_instance_class == "db.m6gd.large" && aws_rds_cluster.this[0].storage_type == "gp3"
    error_message = "The cluster must be of the Multi-AZ kind: engine postgres, with a class that has local disks."
  }

  assert {
    condition     = aws_rds_cluster.this[0].storage_encrypted && aws_rds_cluster.this[0].deletion_protection && !aws_rds_cluster.this[0].skip_final_snapshot && aws_rds_cluster.this[0].backup_retention_period == 14
    error_message = "The cluster must be encrypted, protected from deletion, and backed up for 14 days."
  }

  assert {
    condition     = aws_rds_cluster.this[0].manage_master_user_password
    error_message = "RDS must manage the password."
  }

  assert {
    condition     = aws_rds_cluster_parameter_group.this[0].family == "postgres17" && aws_rds_cluster.this[0].db_cluster_parameter_group_name == aws_rds_cluster_parameter_group.this[0].name && contains([for p in aws_rds_cluster_parameter_group.this[0].parameter : "${p.name}=${p.value}"], "rds.force_ssl=1")
    error_message = "The cluster's parameter group must force TLS."
  }

  assert {
    condition     = aws_rds_cluster.this[0].vpc_security_group_ids == toset([aws_security_group.database.id]) && aws_rds_cluster.this[0].ca_certificate_identifier == "rds-ca-rsa2048-g1"
    error_message = "The cluster must have the security group and the CA of the instance."
  }

  assert {
    condition     = output.database_host == "writer.example.com" && output.database_read_host == "reader.example.com" && jsondecode(aws_iam_role_policy.pods.policy).Statement[0].Resource == output.database_secret_arn
    error_message = "The outputs must name the cluster's endpoints, and the right its secret."
  }

  assert {
    condition     = aws_cloudwatch_log_group.this["postgresql"].name == "/aws/rds/cluster/movies-r-us/postgresql"
    error_message = "The log group must be the one that RDS writes to."
  }
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

run "refuses_storage_that_cannot_grow" {
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

run "refuses_a_malformed_vpc" {
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
