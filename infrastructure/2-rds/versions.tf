terraform {
  required_version = "~> 1.11"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 6.0"
    }
  }

  # The bucket differs per account: `terraform init` sets it (README.md).
  backend "s3" {
    key          = "movies-r-us/2-rds.tfstate"
    region       = "eu-west-1"
    encrypt      = true
    use_lockfile = true
  }
}

provider "aws" {
  region = "eu-west-1"

  default_tags {
    tags = merge(var.tags, { Project = "movies-r-us" })
  }
}
