variable "cluster_name" {
  description = "The EKS cluster whose nodes may connect, and whose VPC is used by default."
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
  description = "Private subnets, in two zones or more. By default those that eksctl made for the cluster."
  type        = list(string)
  default     = null

  validation {
    condition     = var.subnet_ids == null ? true : length(var.subnet_ids) >= 2 && alltrue([for id in var.subnet_ids : can(regex("^subnet-[0-9a-f]+$", id))])
    error_message = "subnet_ids must be two or more that look like subnet-0123456789abcdef0."
  }
}

variable "pod_role_name" {
  description = "The IAM role of the pods, made by eksctl: it is given the right to read the database's secret."
  type        = string
  default     = "movies-r-us-api"
}

variable "reader" {
  description = "Whether there is an endpoint for queries beside the main one. To be decided before the first apply: a change replaces the database."
  type        = bool
  default     = false
}

variable "instance_class" {
  description = "By default db.m7g.large; with a reader db.m6gd.large, because a Multi-AZ DB cluster needs a class with local disks."
  type        = string
  default     = null

  validation {
    condition     = var.instance_class == null ? true : can(regex("^db\\.[a-z]+[0-9]+[a-z]*\\.(micro|small|medium|large|[0-9]*xlarge)$", var.instance_class))
    error_message = "instance_class must look like db.m7g.large."
  }

  validation {
    condition     = var.instance_class == null || !var.reader ? true : can(regex("^db\\.[a-z]+[0-9]+[a-z]*d[a-z]*\\.(large|[0-9]*xlarge)$", var.instance_class))
    error_message = "With a reader, instance_class must be one with local disks, such as db.m6gd.large."
  }
}

variable "allocated_storage" {
  description = "GiB of storage to begin with."
  type        = number
  default     = 50

  validation {
    condition     = var.allocated_storage >= 20 && var.allocated_storage <= 65536 && floor(var.allocated_storage) == var.allocated_storage
    error_message = "allocated_storage must be a whole number of GiB from 20 to 65536."
  }
}

variable "max_allocated_storage" {
  description = "GiB up to which RDS grows the storage by itself; a Multi-AZ DB cluster does not grow, and ignores it."
  type        = number
  default     = 500

  validation {
    # RDS refuses a limit less than 10% above what is allocated.
    condition     = var.max_allocated_storage >= var.allocated_storage * 1.1 && var.max_allocated_storage <= 65536
    error_message = "max_allocated_storage must be at least 1.1 times allocated_storage, and at most 65536."
  }
}

variable "deletion_protection" {
  description = "Apply with false before `terraform destroy`, and at no other time."
  type        = bool
  default     = true
}

variable "final_snapshot_identifier" {
  description = "Name of the snapshot that a destroyed database leaves behind. Another name is needed where that snapshot exists already."
  type        = string
  default     = "movies-r-us-final"

  validation {
    condition     = can(regex("^[a-z](-?[a-z0-9])*$", var.final_snapshot_identifier))
    error_message = "final_snapshot_identifier must be lower-case letters, digits and single hyphens, beginning with a letter."
  }
}
