# Checks who may upload, and where to.

mock_provider "aws" {
  source = "./tests/mocks"
}

variables {
  movies_r_us_notify_api_url = "https://notify.movies.example.com/notify"
  lambda_package             = "versions.tf" # any file; only its hash is used
}

run "no_uploads_by_default" {
  assert {
    condition     = length(aws_s3_bucket_cors_configuration.files) == 0 && length(aws_iam_role_policy.uploads) == 0
    error_message = "By default no page may upload, and the pods may sign nothing."
  }
}

run "uploads_of_the_page_below_a_prefix" {
  variables {
    page_origins  = ["https://movies.example.com", "https://films.example.com:8443"]
    upload_prefix = "incoming/"
  }

  assert {
    condition     = aws_s3_bucket_cors_configuration.files[0].bucket == aws_s3_bucket.files.id && length(aws_s3_bucket_cors_configuration.files[0].cors_rule) == 1
    error_message = "The bucket must have one CORS rule."
  }

  assert {
    condition = alltrue([for rule in aws_s3_bucket_cors_configuration.files[0].cors_rule :
      rule.allowed_origins == toset(["https://movies.example.com", "https://films.example.com:8443"]) &&
      rule.allowed_methods == toset(["PUT"]) &&
      rule.allowed_headers == toset(["content-type", "x-amz-checksum-sha256"]) &&
    rule.expose_headers == toset(["ETag"])])
    error_message = "The page alone may put files, with the headers that are signed."
  }

  assert {
    condition = jsondecode(aws_iam_role_policy.uploads[0].policy).Statement == [{
      Sid      = "SignUploads"
      Effect   = "Allow"
      Action   = "s3:PutObject"
      Resource = "arn:aws:s3:::movies-r-us-111122223333/incoming/*"
    }]
    error_message = "The pods must be limited to putting files below the prefix."
  }

  assert {
    condition     = aws_iam_role_policy.uploads[0].role == "movies-r-us-api"
    error_message = "The role of the pods must get the permission."
  }
}

run "programs_alone_need_no_page" {
  variables {
    upload_prefix = ""
  }

  assert {
    condition     = jsondecode(aws_iam_role_policy.uploads[0].policy).Statement[0].Resource == "arn:aws:s3:::movies-r-us-111122223333/*"
    error_message = "An empty prefix is all keys of this bucket."
  }

  assert {
    condition     = length(aws_s3_bucket_cors_configuration.files) == 0
    error_message = "Without a page there is no CORS rule."
  }
}

run "refuses_every_origin" {
  command = plan

  variables {
    page_origins = ["*"]
  }

  expect_failures = [var.page_origins]
}

run "refuses_an_origin_with_a_path" {
  command = plan

  variables {
    page_origins = ["https://movies.example.com/"]
  }

  expect_failures = [var.page_origins]
}

run "refuses_an_origin_without_tls" {
  command = plan

  variables {
    page_origins = ["http://movies.example.com"]
  }

  expect_failures = [var.page_origins]
}

run "refuses_a_pattern_as_prefix" {
  command = plan

  variables {
    upload_prefix = "in*/"
  }

  expect_failures = [var.upload_prefix]
}
