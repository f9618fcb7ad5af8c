# The function and its role.

resource "aws_cloudwatch_log_group" "ingest" {
  #checkov:skip=CKV_AWS_158:CloudWatch Logs encrypts at rest with its own key; the log contains object keys, never content or the token
  #checkov:skip=CKV_AWS_338:A failed event stays in the queue for 14 days, and the log covers 30 days
  name              = "/aws/lambda/${local.function}"
  retention_in_days = 30
}

data "aws_secretsmanager_secret" "api_token" {
  name = var.api_token_secret_name
}

resource "aws_iam_role" "ingest" {
  name = local.function

  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Action    = "sts:AssumeRole"
      Principal = { Service = "lambda.amazonaws.com" }
    }]
  })
}

locals {
  # Lambda needs these for a function in a VPC. EC2 supports no narrower resource for them, so the policy
  # allows them to the Lambda service and denies them to the function's code.
  network_interface_actions = [
    "ec2:CreateNetworkInterface",
    "ec2:DescribeNetworkInterfaces",
    "ec2:DeleteNetworkInterface",
    "ec2:AssignPrivateIpAddresses",
    "ec2:UnassignPrivateIpAddresses",
  ]
}

resource "aws_iam_role_policy" "ingest" {
  name = local.function
  role = aws_iam_role.ingest.id

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid      = "Log"
        Effect   = "Allow"
        Action   = ["logs:CreateLogStream", "logs:PutLogEvents"]
        Resource = "${aws_cloudwatch_log_group.ingest.arn}:*"
      },
      {
        Sid      = "ReadApiToken"
        Effect   = "Allow"
        Action   = "secretsmanager:GetSecretValue"
        Resource = data.aws_secretsmanager_secret.api_token.arn
      },
      {
        Sid      = "JoinVpc"
        Effect   = "Allow"
        Action   = concat(local.network_interface_actions, ["ec2:DescribeSubnets"])
        Resource = "*"
      },
      {
        Sid       = "JoinVpcByServiceAlone"
        Effect    = "Deny"
        Action    = local.network_interface_actions
        Resource  = "*"
        Condition = { ArnEquals = { "lambda:SourceFunctionArn" = local.function_arn } }
      },
    ]
  })
}

resource "aws_lambda_function" "ingest" {
  #checkov:skip=CKV_AWS_116:The failure queue is an on-failure destination, which unlike a dead-letter queue also records the error
  #checkov:skip=CKV_AWS_173:The environment contains the ARN of a secret, not the secret
  #checkov:skip=CKV_AWS_272:The deploy workflow verifies the package's attestation before terraform uses it
  function_name = local.function
  description   = "Notifies the API of every object created in ${local.bucket}"
  role          = aws_iam_role.ingest.arn

  runtime          = "provided.al2023"
  architectures    = ["arm64"]
  handler          = "bootstrap"
  filename         = var.lambda_package
  source_code_hash = filebase64sha256(var.lambda_package)

  memory_size                    = 128 # MB
  timeout                        = 30  # s; longer than the timeout of the call to the API; source_sqs.tf depends on it
  reserved_concurrent_executions = var.reserved_concurrency

  environment {
    # Not set: MRU_API_TOKEN, the alternative to the secret; MRU_LOG, whose default is info.
    variables = merge({
      MRU_API_URL              = var.movies_r_us_notify_api_url
      MRU_API_TOKEN_SECRET_ARN = data.aws_secretsmanager_secret.api_token.arn
    }, local.tracing)
  }

  vpc_config {
    subnet_ids         = local.subnet_ids
    security_group_ids = [aws_security_group.ingest.id]
  }

  logging_config {
    log_format = "Text" # the function writes JSON itself
    log_group  = aws_cloudwatch_log_group.ingest.name
  }

  # S3 starts no traces, and the function adds no segments: its spans go to the collector of tracing_endpoint.
  tracing_config {
    mode = "PassThrough"
  }

  # Lambda checks the role's permissions when the function is created.
  depends_on = [aws_iam_role_policy.ingest]
}
