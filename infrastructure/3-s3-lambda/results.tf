# The topic on which the API says what became of each file. The API's right to publish is with its
# other rights, in 1-eks, by this name.

resource "aws_sns_topic" "results" {
  name = "movies-r-us-results"
  # AWS's own key for SNS, which whoever may publish may use.
  kms_master_key_id = "alias/aws/sns"
}

# Whom IAM lets in this account publishes and subscribes; nobody else does.
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
