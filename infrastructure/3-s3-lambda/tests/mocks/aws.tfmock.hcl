# What the tests use in place of AWS.

mock_data "aws_caller_identity" {
  defaults = { account_id = "111122223333" }
}

mock_data "aws_vpc" {
  defaults = {
    id         = "vpc-0b0b0b0b0b0b0b0b0"
    cidr_block = "192.168.0.0/16"
  }
}

mock_data "aws_subnets" {
  defaults = { ids = ["subnet-0a", "subnet-0b", "subnet-0c"] }
}

mock_data "aws_route_tables" {
  defaults = { ids = ["rtb-0a", "rtb-0b", "rtb-0c"] }
}

mock_data "aws_secretsmanager_secret" {
  defaults = { arn = "arn:aws:secretsmanager:eu-west-1:111122223333:secret:movies-r-us/api-token-abcdef" }
}

# The provider validates the format of ARNs.
mock_resource "aws_cloudwatch_event_rule" {
  defaults = { arn = "arn:aws:events:eu-west-1:111122223333:rule/movies-r-us-ingest-object-events" }
}

mock_resource "aws_cloudwatch_log_group" {
  defaults = { arn = "arn:aws:logs:eu-west-1:111122223333:log-group:/aws/lambda/movies-r-us-ingest" }
}

mock_resource "aws_iam_role" {
  defaults = { arn = "arn:aws:iam::111122223333:role/movies-r-us-ingest" }
}

mock_resource "aws_kms_key" {
  defaults = { arn = "arn:aws:kms:eu-west-1:111122223333:key/00000000-0000-0000-0000-000000000000" }
}

mock_resource "aws_lambda_function" {
  defaults = { arn = "arn:aws:lambda:eu-west-1:111122223333:function:movies-r-us-ingest" }
}

mock_resource "aws_s3_bucket" {
  defaults = { arn = "arn:aws:s3:::movies-r-us-111122223333" }
}

mock_resource "aws_sns_topic" {
  defaults = { arn = "arn:aws:sns:eu-west-1:111122223333:movies-r-us-alarms" }
}

mock_resource "aws_sqs_queue" {
  defaults = { arn = "arn:aws:sqs:eu-west-1:111122223333:movies-r-us-ingest-failures" }
}

# Each queue has an ARN of its own, so that the tests see which one is meant. Others have that of the failure queue.
override_resource {
  target = aws_sqs_queue.events[0]
  values = {
    arn = "arn:aws:sqs:eu-west-1:111122223333:movies-r-us-ingest-events"
    url = "https://sqs.eu-west-1.amazonaws.com/111122223333/movies-r-us-ingest-events"
  }
}

override_resource {
  target = aws_sqs_queue.dead_letters[0]
  values = {
    arn = "arn:aws:sqs:eu-west-1:111122223333:movies-r-us-ingest-dead-letters"
    url = "https://sqs.eu-west-1.amazonaws.com/111122223333/movies-r-us-ingest-dead-letters"
  }
}

override_resource {
  target = aws_sqs_queue.undelivered[0]
  values = {
    arn = "arn:aws:sqs:eu-west-1:111122223333:movies-r-us-ingest-undelivered"
    url = "https://sqs.eu-west-1.amazonaws.com/111122223333/movies-r-us-ingest-undelivered"
  }
}
