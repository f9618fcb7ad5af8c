# The function, what it may do, and where the events go that it failed on.

resource "aws_cloudwatch_log_group" "ingest" {
  #checkov:skip=CKV_AWS_158:CloudWatch Logs encrypts at rest with its own key; the lines hold names of files, never content or the token
  #checkov:skip=CKV_AWS_338:An event that failed is kept in the queue for 14 days; thirty days of log lines explain it
  name              = "/aws/lambda/${local.function}"
  retention_in_days = 30
}

resource "aws_sqs_queue" "failures" {
  name                      = "movies-r-us-ingest-failures"
  sqs_managed_sse_enabled   = true
  message_retention_seconds = 14 * 24 * 3600 # the most that SQS allows
  # A message that is being redriven stays hidden longer than the function can take.
  visibility_timeout_seconds = 120
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
  # What Lambda does with network interfaces for a function in a VPC. EC2 takes no narrower resource
  # for them, so it is allowed to the service, and denied to the function's own code.
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
        Sid      = "KeepFailures"
        Effect   = "Allow"
        Action   = "sqs:SendMessage"
        Resource = aws_sqs_queue.failures.arn
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
  #checkov:skip=CKV_AWS_116:The failure queue is an on-failure destination, which unlike a dead-letter queue keeps the reason too
  #checkov:skip=CKV_AWS_173:The environment holds no secret, only the name of one
  #checkov:skip=CKV_AWS_272:The package carries an attestation, which the delivery verifies before terraform sees it
  function_name = local.function
  description   = "Tells the API of every file put into ${local.bucket}"
  role          = aws_iam_role.ingest.arn

  runtime          = "provided.al2023"
  architectures    = ["arm64"]
  handler          = "bootstrap"
  filename         = var.lambda_package
  source_code_hash = filebase64sha256(var.lambda_package)

  memory_size                    = 128 # MB
  timeout                        = 30  # s; the call of the API gives up well before
  reserved_concurrent_executions = var.reserved_concurrency

  environment {
    # MRU_API_TOKEN is the other way to give the token; MRU_LOG is left to its default, info.
    variables = {
      MRU_API_URL              = var.movies_r_us_notify_api_url
      MRU_API_TOKEN_SECRET_ARN = data.aws_secretsmanager_secret.api_token.arn
    }
  }

  vpc_config {
    subnet_ids         = local.subnet_ids
    security_group_ids = [aws_security_group.ingest.id]
  }

  logging_config {
    log_format = "Text" # the function writes JSON itself
    log_group  = aws_cloudwatch_log_group.ingest.name
  }

  # S3 begins no traces, and the function adds nothing to them.
  tracing_config {
    mode = "PassThrough"
  }

  # Lambda tries the role's rights when the function is made.
  depends_on = [aws_iam_role_policy.ingest]
}

resource "aws_lambda_function_event_invoke_config" "ingest" {
  function_name                = aws_lambda_function.ingest.function_name
  maximum_retry_attempts       = 2
  maximum_event_age_in_seconds = 6 * 3600 # the most that Lambda allows

  destination_config {
    on_failure {
      destination = aws_sqs_queue.failures.arn
    }
  }
}
