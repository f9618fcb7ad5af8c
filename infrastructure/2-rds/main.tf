# Resources that both kinds of database share: network, logs, monitoring, and the permission of the migration to read
# the secret. The database is in instance.tf or, with a reader, in cluster.tf.

locals {
  name     = "movies-r-us"
  database = "movies"
  username = "movies_r_us"
  port     = 5432

  engine_version = "18" # RDS chooses and upgrades the minor version
  family         = "postgres18"
  instance_class = coalesce(var.instance_class, var.reader ? "db.m6gd.large" : "db.m7g.large")

  logs = ["postgresql", "upgrade"]

  backup_days        = 14
  backup_window      = "02:00-03:00"         # UTC
  maintenance_window = "sun:03:30-sun:04:30" # UTC

  secret_arn = var.reader ? aws_rds_cluster.this[0].master_user_secret[0].secret_arn : aws_db_instance.this[0].master_user_secret[0].secret_arn

  read_secret = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid      = "ReadDatabaseSecret"
      Effect   = "Allow"
      Action   = "secretsmanager:GetSecretValue"
      Resource = local.secret_arn
    }]
  })
}

data "aws_eks_cluster" "this" {
  name = var.cluster_name
}

data "aws_vpc" "this" {
  id   = var.vpc_id
  tags = var.vpc_id == null ? { "alpha.eksctl.io/cluster-name" = var.cluster_name } : null
}

data "aws_subnets" "private" {
  filter {
    name   = "vpc-id"
    values = [data.aws_vpc.this.id]
  }

  # eksctl sets this tag on private subnets; internal load balancers use it, too.
  tags = { "kubernetes.io/role/internal-elb" = "1" }
}

resource "aws_db_subnet_group" "this" {
  name        = local.name
  description = "The cluster's private subnets"
  subnet_ids  = coalesce(var.subnet_ids, data.aws_subnets.private.ids)

  lifecycle {
    precondition {
      condition     = length(coalesce(var.subnet_ids, data.aws_subnets.private.ids)) >= (var.reader ? 3 : 2)
      error_message = "The database needs two private subnets, or three with a reader, each in a different zone: tag them kubernetes.io/role/internal-elb=1, or set subnet_ids."
    }
  }
}

# No egress: terraform removes the default egress rule of a new security group.
resource "aws_security_group" "database" {
  name        = "${local.name}-database"
  description = "Postgres, from the nodes of the cluster"
  vpc_id      = data.aws_vpc.this.id
}

resource "aws_vpc_security_group_ingress_rule" "from_nodes" {
  security_group_id = aws_security_group.database.id
  description       = "Postgres from the nodes"
  ip_protocol       = "tcp"
  from_port         = local.port
  to_port           = local.port
  # EKS attaches this group to every managed node; pods send from their node's interfaces.
  referenced_security_group_id = data.aws_eks_cluster.this.vpc_config[0].cluster_security_group_id
}

# RDS would otherwise create these groups without a retention limit.
resource "aws_cloudwatch_log_group" "this" {
  #checkov:skip=CKV_AWS_158:CloudWatch Logs encrypts at rest with its own key; slow statements contain movies, which are public
  #checkov:skip=CKV_AWS_338:Thirty days are enough to diagnose a slow or failed database; these are not audit logs
  for_each = toset(local.logs)

  name              = "/aws/rds/${var.reader ? "cluster" : "instance"}/${local.name}/${each.key}"
  retention_in_days = 30
}

resource "aws_iam_role" "monitoring" {
  name = "${local.name}-rds-monitoring"

  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Action    = "sts:AssumeRole"
      Principal = { Service = "monitoring.rds.amazonaws.com" }
    }]
  })
}

# AWS's managed policy, because RDS defines the permissions that enhanced monitoring needs.
resource "aws_iam_role_policy_attachment" "monitoring" {
  role       = aws_iam_role.monitoring.name
  policy_arn = "arn:aws:iam::aws:policy/service-role/AmazonRDSEnhancedMonitoringRole"
}

# Without this role the plan fails, before anything has changed.
data "aws_iam_role" "migration" {
  name = var.migration_role_name
}

resource "aws_iam_role_policy" "migration" {
  name   = "${local.name}-database-secret"
  role   = data.aws_iam_role.migration.name
  policy = local.read_secret
}

# The pods that serve have a role of the database of their own; those of releases before it need the owner's secret.
resource "aws_iam_role_policy" "pods" {
  count = var.pods_read_owner_secret ? 1 : 0

  name   = "${local.name}-database-secret"
  role   = var.pod_role_name
  policy = local.read_secret
}
