# Uploads by presigned requests (POST /uploads): from the page of the API in browsers, and from programs.

# Lets pages of these origins send what the API has signed. A browser asks the bucket before it sends a file.
resource "aws_s3_bucket_cors_configuration" "files" {
  count  = length(var.page_origins) > 0 ? 1 : 0
  bucket = aws_s3_bucket.files.id

  cors_rule {
    allowed_methods = ["PUT"]
    allowed_origins = var.page_origins
    allowed_headers = ["content-type", "x-amz-checksum-sha256"]
    expose_headers  = ["ETag"]
    max_age_seconds = 3600
  }
}

# A presigned request may do what its signer may do: the role of the pods.
resource "aws_iam_role_policy" "uploads" {
  count = var.upload_prefix == null ? 0 : 1
  name  = "movies-r-us-uploads"
  role  = var.pod_role_name

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid      = "SignUploads"
      Effect   = "Allow"
      Action   = "s3:PutObject"
      Resource = "${local.bucket_arn}/${var.upload_prefix}*"
    }]
  })
}
