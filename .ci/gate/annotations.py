"""The annotations and labels that the controllers in the cluster read."""

# kubernetes-sigs/aws-load-balancer-controller, pkg/annotations/constants.go: the constants IngressSuffix*.
LOAD_BALANCER = frozenset(
    {
        "acm-pca-arn",
        "auth-idp-cognito",
        "auth-idp-oidc",
        "auth-on-unauthenticated-request",
        "auth-scope",
        "auth-session-cookie",
        "auth-session-timeout",
        "auth-type",
        "backend-protocol",
        "backend-protocol-version",
        "certificate-arn",
        "create-acm-cert",
        "customer-owned-ipv4-pool",
        "enable-frontend-nlb",
        "group.name",
        "group.order",
        "healthcheck-interval-seconds",
        "healthcheck-path",
        "healthcheck-port",
        "healthcheck-protocol",
        "healthcheck-timeout-seconds",
        "healthy-threshold-count",
        "inbound-cidrs",
        "ip-address-type",
        "ipam-ipv4-pool-id",
        "jwt-validation",
        "listen-ports",
        "load-balancer-attributes",
        "load-balancer-name",
        "manage-backend-security-group-rules",
        "minimum-load-balancer-capacity",
        "multi-cluster-target-group",
        "mutual-authentication",
        "scheme",
        "security-group-prefix-lists",
        "security-groups",
        "shield-advanced-protection",
        "ssl-policy",
        "ssl-redirect",
        "subnets",
        "success-codes",
        "tags",
        "target-control-port",
        "target-group-attributes",
        "target-node-labels",
        "target-type",
        "unhealthy-threshold-count",
        "use-regex-path-match",
        "waf-acl-id",
        "wafv2-acl-arn",
        "wafv2-acl-name",
    }
)
# The same file. A name, such as that of a listener, follows: listener-attributes.HTTPS-443.
LOAD_BALANCER_PREFIXES = ("listener-attributes.", "actions.", "conditions.", "transforms.")
# kubernetes-sigs/external-dns, source/annotations/annotations.go; of the providers only AWS.
EXTERNAL_DNS = frozenset(
    {
        "access",
        "alias",
        "controller",
        "endpoints-type",
        "hostname",
        "ingress",
        "ingress-hostname-source",
        "internal-hostname",
        "set-identifier",
        "target",
        "ttl",
    }
)
EXTERNAL_DNS_PREFIXES = ("aws-",)
# aws-load-balancer-controller, docs/deploy/pod_readiness_gate.md; Kubernetes, Pod Security Admission.
NAMESPACE_LABELS = {
    "elbv2.k8s.aws/pod-readiness-gate-inject": {"enabled"},
    **{
        f"pod-security.kubernetes.io/{mode}": {"privileged", "baseline", "restricted"}
        for mode in ("enforce", "audit", "warn")
    },
}
# eksctl, pkg/apis/eksctl.io/v1alpha5/types.go (ClusterNameTag), and the tags that EKS documents for subnets of
# internal load balancers.
VPC_TAG = "alpha.eksctl.io/cluster-name"
SUBNET_TAG = "kubernetes.io/role/internal-elb"


def is_known(key):
    """Tells whether a controller knows the annotation; those of others are not looked at."""
    prefix, _, name = key.partition("/")
    if prefix == "alb.ingress.kubernetes.io":
        return name in LOAD_BALANCER or name.startswith(LOAD_BALANCER_PREFIXES)
    if prefix == "external-dns.alpha.kubernetes.io":
        return name in EXTERNAL_DNS or name.startswith(EXTERNAL_DNS_PREFIXES)
    return True
