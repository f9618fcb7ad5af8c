variable "movies_r_us_notify_api_url" {
  description = "Full URL of /notify on the internal load balancer, such as https://notify.movies.example.com/notify."
  type        = string

  validation {
    condition     = can(regex("^https://[a-z0-9.-]+(:[0-9]+)?/([A-Za-z0-9._~-]+/)*notify$", var.movies_r_us_notify_api_url)) || can(regex("^http://(127\\.0\\.0\\.1|localhost)(:[0-9]+)?/notify$", var.movies_r_us_notify_api_url))
    error_message = "movies_r_us_notify_api_url must start with https:// and end with /notify; http:// is allowed for loopback only."
  }
}

variable "event_source" {
  description = "How the bucket's events reach the function: direct (S3 invokes it), sqs (through a queue) or eventbridge (through a rule)."
  type        = string
  default     = "direct"
  nullable    = false

  validation {
    condition     = contains(["direct", "sqs", "eventbridge"], var.event_source)
    error_message = "event_source must be direct, sqs or eventbridge."
  }
}

variable "previous_event_source" {
  description = "The event_source before a change of it. Its resources stay until the value is null again, so that the events on their way through it are not lost (docs/operations.md)."
  type        = string
  default     = null

  validation {
    condition     = var.previous_event_source == null ? true : contains(["direct", "sqs", "eventbridge"], var.previous_event_source) && var.previous_event_source != var.event_source
    error_message = "previous_event_source must be direct, sqs or eventbridge, and differ from event_source."
  }
}

variable "lambda_package" {
  description = "Lambda package for arm64, built by scripts/package-lambda."
  type        = string
  default     = "../../target/lambda/ingest-lambda/bootstrap.zip"
}

variable "api_token_secret_name" {
  description = "Name of the secret in Secrets Manager with the API token as a plain string."
  type        = string
  default     = "movies-r-us/api-token"
}

variable "alarm_email" {
  description = "E-mail address for alarms; the recipient must confirm the subscription. Default: no subscription to the topic."
  type        = string
  default     = null

  validation {
    condition     = var.alarm_email == null ? true : can(regex("^[^@ ]+@[^@ ]+\\.[^@ ]+$", var.alarm_email))
    error_message = "alarm_email must be an e-mail address."
  }
}

variable "reserved_concurrency" {
  description = "Maximum number of concurrent invocations, reserved from the account's quota. AWS requires 100 of the quota to stay unreserved; -1 reserves nothing, for a new account with a quota of 10."
  type        = number
  default     = 10

  validation {
    # 0 would disable the function.
    condition     = var.reserved_concurrency == -1 || (var.reserved_concurrency >= 1 && var.reserved_concurrency <= 100 && floor(var.reserved_concurrency) == var.reserved_concurrency)
    error_message = "reserved_concurrency must be a whole number from 1 to 100, or -1."
  }
}

variable "noncurrent_days" {
  description = "Days to keep replaced and deleted object versions."
  type        = number
  default     = 30

  validation {
    condition     = var.noncurrent_days >= 1 && floor(var.noncurrent_days) == var.noncurrent_days
    error_message = "noncurrent_days must be a whole number of at least 1."
  }
}

variable "cluster_name" {
  description = "EKS cluster whose VPC is the default VPC."
  type        = string
  default     = "movies-r-us-cluster"
}

variable "vpc_id" {
  description = "VPC id. Default: the VPC that eksctl created for the cluster."
  type        = string
  default     = null

  validation {
    condition     = var.vpc_id == null ? true : can(regex("^vpc-[0-9a-f]+$", var.vpc_id))
    error_message = "vpc_id must look like vpc-0123456789abcdef0."
  }
}

variable "subnet_ids" {
  description = "Private subnets, one per zone. Default: those that eksctl created for the cluster."
  type        = list(string)
  default     = null

  validation {
    condition     = var.subnet_ids == null ? true : length(var.subnet_ids) >= 2 && alltrue([for id in var.subnet_ids : can(regex("^subnet-[0-9a-f]+$", id))])
    error_message = "subnet_ids must contain at least two ids that look like subnet-0123456789abcdef0."
  }
}

variable "page_origins" {
  description = "Origins of the API's page, such as https://movies.example.com, from which browsers may upload. Default: none."
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for origin in var.page_origins : can(regex("^https://[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[0-9]+)?$", origin))])
    error_message = "page_origins must be origins such as https://movies.example.com, without a path or *."
  }
}

variable "upload_prefix" {
  description = "Prefix of the keys for which the pods may sign uploads, such as incoming/; the chart's uploadPrefix must begin with it. Empty: all keys. Default: the pods may sign none."
  type        = string
  default     = null

  validation {
    # * and ? are patterns in a policy, $ begins a variable.
    condition     = var.upload_prefix == null ? true : can(regex("^[A-Za-z0-9!_.'()/-]*$", var.upload_prefix)) && length(var.upload_prefix) <= 900
    error_message = "upload_prefix must consist of letters, digits and the characters ! - _ . ' ( ) /"
  }
}

variable "pod_role_name" {
  description = "IAM role of the pods, created by eksctl. With upload_prefix it gets the permission to put files."
  type        = string
  default     = "movies-r-us-api"
}


variable "load_balancers" {
  description = "Load balancers that get alarms: a name, and the part of the ARN after `:loadbalancer/`. scripts/load-balancers prints it."
  type        = map(string)
  default     = {}
  nullable    = false

  validation {
    condition     = alltrue([for name, suffix in var.load_balancers : can(regex("^[a-z0-9-]+$", name)) && can(regex("^app/[A-Za-z0-9-]+/[0-9a-f]+$", suffix))])
    error_message = "load_balancers must map names to values that look like app/k8s-movies/0123456789abcdef."
  }
}

variable "s3_endpoint" {
  description = "Whether the private subnets reach S3 by a gateway endpoint instead of the NAT gateways. Set to false if the VPC has such an endpoint already."
  type        = bool
  default     = true
  nullable    = false
}

variable "tracing_endpoint" {
  description = "URL of a collector of OpenTelemetry in the VPC that takes OTLP over HTTP, such as http://otel.example.internal:4318. Default: the function exports no spans."
  type        = string
  default     = null

  validation {
    condition     = var.tracing_endpoint == null ? true : can(regex("^https?://[A-Za-z0-9.-]+(:[1-9][0-9]{0,4})?(/[A-Za-z0-9._~-]+)*/?$", var.tracing_endpoint))
    error_message = "tracing_endpoint must be a URL such as http://otel.example.internal:4318, without credentials."
  }

  validation {
    condition     = tonumber(try(regex(":([0-9]{1,5})(?:/|$)", var.tracing_endpoint)[0], 1)) <= 65535
    error_message = "The port of tracing_endpoint must be at most 65535."
  }
}

variable "tracing_sample_ratio" {
  description = "Part of the files whose traces are exported, from 0 to 1."
  type        = number
  default     = 1
  nullable    = false

  validation {
    condition     = var.tracing_sample_ratio >= 0 && var.tracing_sample_ratio <= 1
    error_message = "tracing_sample_ratio must be a number from 0 to 1."
  }
}

variable "tags" {
  description = "Tags of all resources, beside Project."
  type        = map(string)
  default     = {}
  nullable    = false

  validation {
    condition     = !contains(keys(var.tags), "Project")
    error_message = "tags must not contain Project, which is movies-r-us."
  }
}
