# The topic to which the API publishes the result of each ingest. 1-eks grants the API the permission to
# publish to a topic of this name.

resource "aws_sns_topic" "results" {
  name = "movies-r-us-results"
  # The AWS-managed key of SNS; every principal that may publish may use it.
  kms_master_key_id = "alias/aws/sns"
}

# Access is granted by IAM within this account only; this policy grants none.
resource "aws_sns_topic_policy" "results" {
  arn = aws_sns_topic.results.arn

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid       = "TlsOnly"
      Effect    = "Deny"
      Principal = "*"
      Action    = "sns:Publish"
      Resource  = aws_sns_topic.results.arn
      Condition = { Bool = { "aws:SecureTransport" = "false" } }
    }]
  })
}
