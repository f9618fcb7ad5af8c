variable "movies_r_us_notify_api_url" {
  description = "The whole URL of /notify on the internal load balancer, such as https://notify.movies.example.com/notify."
  type        = string

  validation {
    condition     = can(regex("^https://[a-z0-9.-]+(:[0-9]+)?/([A-Za-z0-9._~-]+/)*notify$", var.movies_r_us_notify_api_url)) || can(regex("^http://(127\\.0\\.0\\.1|localhost)(:[0-9]+)?/notify$", var.movies_r_us_notify_api_url))
    error_message = "movies_r_us_notify_api_url must begin with https:// and end in /notify; http:// is for loopback alone."
  }
}

variable "lambda_package" {
  description = "The zip with the bootstrap for arm64, as scripts/package-lambda makes it."
  type        = string
  default     = "../../target/lambda/ingest-lambda/bootstrap.zip"
}

variable "api_token_secret_name" {
  description = "The secret in Secrets Manager that holds the API's token as a plain string."
  type        = string
  default     = "movies-r-us/api-token"
}

variable "alarm_email" {
  description = "Where alarms are mailed to, once the recipient has confirmed. By default nowhere: subscribe to the topic yourself."
  type        = string
  default     = null

  validation {
    condition     = var.alarm_email == null ? true : can(regex("^[^@ ]+@[^@ ]+\\.[^@ ]+$", var.alarm_email))
    error_message = "alarm_email must be an e-mail address."
  }
}

variable "reserved_concurrency" {
  description = "How many events are handled at once. It is taken from the account's quota, of which 100 must stay free; -1 reserves nothing, as a new account with a quota of 10 needs it."
  type        = number
  default     = 10

  validation {
    # 0 would stop the function.
    condition     = var.reserved_concurrency == -1 || (var.reserved_concurrency >= 1 && var.reserved_concurrency <= 100 && floor(var.reserved_concurrency) == var.reserved_concurrency)
    error_message = "reserved_concurrency must be a whole number from 1 to 100, or -1."
  }
}

variable "noncurrent_days" {
  description = "Days for which replaced and deleted versions of a file are kept."
  type        = number
  default     = 30

  validation {
    condition     = var.noncurrent_days >= 1 && floor(var.noncurrent_days) == var.noncurrent_days
    error_message = "noncurrent_days must be a whole number, 1 or more."
  }
}

variable "cluster_name" {
  description = "The EKS cluster whose VPC is used by default."
  type        = string
  default     = "movies-r-us-cluster"
}

variable "vpc_id" {
  description = "The VPC. By default the one that eksctl made for the cluster."
  type        = string
  default     = null

  validation {
    condition     = var.vpc_id == null ? true : can(regex("^vpc-[0-9a-f]+$", var.vpc_id))
    error_message = "vpc_id must look like vpc-0123456789abcdef0."
  }
}

variable "subnet_ids" {
  description = "Private subnets, one a zone. By default those that eksctl made for the cluster."
  type        = list(string)
  default     = null

  validation {
    condition     = var.subnet_ids == null ? true : length(var.subnet_ids) >= 2 && alltrue([for id in var.subnet_ids : can(regex("^subnet-[0-9a-f]+$", id))])
    error_message = "subnet_ids must be two or more that look like subnet-0123456789abcdef0."
  }
}
