# What the function reaches: the internal load balancer and Secrets Manager, both inside the VPC.

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

  # eksctl's tag for private subnets, where internal load balancers go as well.
  tags = { "kubernetes.io/role/internal-elb" = "1" }
}

resource "aws_security_group" "ingest" {
  name        = local.function
  description = "The function that tells the API of new files"
  vpc_id      = data.aws_vpc.this.id

  # Destroyed before the role's rights, with which Lambda gives the network interfaces back.
  depends_on = [aws_iam_role_policy.ingest]
}

# The VPC's resolver needs no rule: security groups do not apply to it.
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
  description = "The VPC's endpoint of Secrets Manager"
  vpc_id      = data.aws_vpc.this.id
}

resource "aws_vpc_security_group_ingress_rule" "secrets_manager_from_vpc" {
  security_group_id = aws_security_group.secrets_manager.id
  description       = "HTTPS from the VPC: with private DNS, pods come this way too"
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

  lifecycle {
    precondition {
      condition     = length(local.subnet_ids) >= 2
      error_message = "The VPC has fewer than two subnets tagged kubernetes.io/role/internal-elb=1: name them in subnet_ids."
    }
  }
}
