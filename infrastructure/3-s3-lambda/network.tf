# The function's network access: the internal load balancer and Secrets Manager, both inside the VPC.

data "aws_caller_identity" "current" {}

locals {
  account_id   = data.aws_caller_identity.current.account_id
  bucket       = "movies-r-us-${local.account_id}"
  bucket_arn   = "arn:aws:s3:::${local.bucket}"
  function     = "movies-r-us-ingest"
  function_arn = "arn:aws:lambda:eu-west-1:${local.account_id}:function:${local.function}"
  subnet_ids   = coalesce(var.subnet_ids, data.aws_subnets.private.ids)
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

resource "aws_security_group" "ingest" {
  name        = local.function
  description = "The function that notifies the API of new objects"
  vpc_id      = data.aws_vpc.this.id

  # Lambda needs the role's policy to release its network interfaces, so the policy is destroyed later.
  depends_on = [aws_iam_role_policy.ingest]
}

# No rule for DNS: security groups do not apply to the VPC's resolver.
resource "aws_vpc_security_group_egress_rule" "ingest_to_vpc" {
  security_group_id = aws_security_group.ingest.id
  description       = "HTTPS to the internal load balancer and to Secrets Manager"
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
  cidr_ipv4         = data.aws_vpc.this.cidr_block
}

resource "aws_security_group" "secrets_manager" {
  name        = "movies-r-us-secrets-manager"
  description = "The endpoint of Secrets Manager in the VPC"
  vpc_id      = data.aws_vpc.this.id
}

resource "aws_vpc_security_group_ingress_rule" "secrets_manager_from_vpc" {
  security_group_id = aws_security_group.secrets_manager.id
  description       = "HTTPS from the VPC; because of private DNS, also from the pods"
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
  cidr_ipv4         = data.aws_vpc.this.cidr_block
}

resource "aws_vpc_endpoint" "secrets_manager" {
  vpc_id              = data.aws_vpc.this.id
  vpc_endpoint_type   = "Interface"
  service_name        = "com.amazonaws.eu-west-1.secretsmanager"
  private_dns_enabled = true
  subnet_ids          = local.subnet_ids
  security_group_ids  = [aws_security_group.secrets_manager.id]

  # Secrets of this account, for its own roles. Nobody can carry secrets out to another account this way.
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid       = "ReadSecretsOfThisAccount"
      Effect    = "Allow"
      Principal = "*"
      Action    = "secretsmanager:GetSecretValue"
      Resource  = "arn:aws:secretsmanager:eu-west-1:${local.account_id}:secret:*"
      Condition = { StringEquals = { "aws:PrincipalAccount" = local.account_id } }
    }]
  })

  lifecycle {
    precondition {
      condition     = length(local.subnet_ids) >= 2
      error_message = "The VPC has fewer than two subnets with the tag kubernetes.io/role/internal-elb=1: set subnet_ids."
    }
  }
}

data "aws_route_tables" "private" {
  vpc_id = data.aws_vpc.this.id

  filter {
    name   = "association.subnet-id"
    values = local.subnet_ids
  }
}

# Free, while each GB through a NAT gateway costs. It has the default policy, because the nodes read images and packages
# from S3, too; the bucket's policy and the roles decide who reads what.
resource "aws_vpc_endpoint" "s3" {
  count = var.s3_endpoint ? 1 : 0

  vpc_id            = data.aws_vpc.this.id
  vpc_endpoint_type = "Gateway"
  service_name      = "com.amazonaws.eu-west-1.s3"
  route_table_ids   = data.aws_route_tables.private.ids

  lifecycle {
    precondition {
      condition     = length(data.aws_route_tables.private.ids) >= 1
      error_message = "No route table is associated with the private subnets: associate one, or set s3_endpoint to false."
    }
  }
}
