variable "cluster_name" {
  description = "EKS cluster whose nodes may connect. Its VPC is the default VPC."
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
  description = "Private subnets in at least two zones. Default: those that eksctl created for the cluster."
  type        = list(string)
  default     = null

  validation {
    condition     = var.subnet_ids == null ? true : length(var.subnet_ids) >= 2 && alltrue([for id in var.subnet_ids : can(regex("^subnet-[0-9a-f]+$", id))])
    error_message = "subnet_ids must contain at least two ids that look like subnet-0123456789abcdef0."
  }
}

variable "migration_role_name" {
  description = "IAM role of the pod that migrates, created by eksctl. It gets the permission to read the secret of the database's owner."
  type        = string
  default     = "movies-r-us-migrate"
}

variable "pod_role_name" {
  description = "IAM role of the pods that serve, created by eksctl."
  type        = string
  default     = "movies-r-us-api"
}

variable "pods_read_owner_secret" {
  description = "Set to true only during the upgrade from a release whose pods serve as the owner of the database: keeps the permission of pod_role_name to read the secret of the owner."
  type        = bool
  default     = false
  nullable    = false
}

variable "reader" {
  description = "Creates a Multi-AZ DB cluster with a separate endpoint for queries. Decide before the first apply: a change replaces the database."
  type        = bool
  default     = false
}

variable "instance_class" {
  description = "Default: db.m7g.large; with a reader db.m6gd.large, because a Multi-AZ DB cluster needs a class with local disks."
  type        = string
  default     = null

  validation {
    condition     = var.instance_class == null ? true : can(regex("^db\\.[a-z]+[0-9]+[a-z]*\\.(micro|small|medium|large|[0-9]*xlarge)$", var.instance_class))
    error_message = "instance_class must look like db.m7g.large."
  }

  validation {
    condition     = var.instance_class == null || !var.reader ? true : can(regex("^db\\.[a-z]+[0-9]+[a-z]*d[a-z]*\\.(large|[0-9]*xlarge)$", var.instance_class))
    error_message = "With a reader, instance_class must have local disks, such as db.m6gd.large."
  }
}

variable "allocated_storage" {
  description = "Initial storage in GiB."
  type        = number
  default     = 50

  validation {
    condition     = var.allocated_storage >= 20 && var.allocated_storage <= 65536 && floor(var.allocated_storage) == var.allocated_storage
    error_message = "allocated_storage must be a whole number of GiB from 20 to 65536."
  }
}

variable "max_allocated_storage" {
  description = "Limit in GiB for RDS's storage autoscaling. A Multi-AZ DB cluster has no autoscaling and ignores it."
  type        = number
  default     = 500

  validation {
    # RDS requires a limit at least 10% above the allocated storage.
    condition     = var.max_allocated_storage >= var.allocated_storage * 1.1 && var.max_allocated_storage <= 65536
    error_message = "max_allocated_storage must be at least 1.1 times allocated_storage and at most 65536."
  }
}

variable "allow_major_version_upgrade" {
  description = "Set to true only for the apply that upgrades Postgres to another major version. RDS then upgrades at once, and applies other changes at once, too."
  type        = bool
  default     = false
  nullable    = false
}

variable "deletion_protection" {
  description = "Set to false only before `terraform destroy`."
  type        = bool
  default     = true
}

variable "final_snapshot_identifier" {
  description = "Name of the snapshot that `terraform destroy` takes. Change it if a snapshot of that name exists already."
  type        = string
  default     = "movies-r-us-final"

  validation {
    condition     = can(regex("^[a-z](-?[a-z0-9])*$", var.final_snapshot_identifier))
    error_message = "final_snapshot_identifier must consist of lower-case letters, digits and single hyphens, and start with a letter."
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
