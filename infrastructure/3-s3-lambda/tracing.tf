# The function's spans, and its way to the collector of OpenTelemetry. Nothing without tracing_endpoint.

locals {
  # The function begins the traces of files: the service exports what the function has chosen.
  tracing = var.tracing_endpoint == null ? {} : {
    OTEL_EXPORTER_OTLP_ENDPOINT = var.tracing_endpoint
    OTEL_TRACES_SAMPLER         = "parentbased_traceidratio"
    OTEL_TRACES_SAMPLER_ARG     = tostring(var.tracing_sample_ratio)
  }
  # Of a URL without a port. Port 443 is open already (network.tf).
  default_collector_port = startswith(coalesce(var.tracing_endpoint, "https:"), "https:") ? 443 : 80
  collector_port         = tonumber(try(regex("^https?://[^/:]+:([0-9]+)", var.tracing_endpoint)[0], local.default_collector_port))
}

resource "aws_vpc_security_group_egress_rule" "ingest_to_collector" {
  count = local.collector_port == 443 ? 0 : 1

  security_group_id = aws_security_group.ingest.id
  description       = "Spans to the collector of OpenTelemetry"
  ip_protocol       = "tcp"
  from_port         = local.collector_port
  to_port           = local.collector_port
  cidr_ipv4         = data.aws_vpc.this.cidr_block
}
