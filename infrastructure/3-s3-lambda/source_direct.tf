# event_source = direct: S3 invokes the function, asynchronously.

resource "aws_lambda_permission" "bucket" {
  count = local.direct ? 1 : 0

  statement_id  = "bucket"
  function_name = aws_lambda_function.ingest.function_name
  action        = "lambda:InvokeFunction"
  principal     = "s3.amazonaws.com"
  source_arn    = aws_s3_bucket.files.arn
  # A bucket ARN contains no account. Without this, a later owner of the bucket name could invoke the function.
  source_account = local.account_id
}
