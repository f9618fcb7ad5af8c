"""Values of the options that are valid, and yet wrong. Each assertion says why."""

import re

from gate import options, program


def option_values(require):
    templates = options.templates()
    _web_acl(require, templates["waf"])
    _api_gateway(require, templates["api-gateway"])
    _lifecycle(require, options.lifecycle())


def _web_acl(require, template):
    acl, limit = template["Resources"]["WebAcl"]["Properties"], template["Parameters"]["RequestsPerAddress"]["Default"]
    require(
        acl["DefaultAction"] == {"Allow": {}},
        "waf.yml: whoever sends few requests is let through by the default action",
    )
    require(acl["Scope"] == "REGIONAL", "waf.yml: only a regional web ACL protects a load balancer")
    for rule in acl["Rules"]:
        require(
            rule["Action"]["Block"]["CustomResponse"]["ResponseCode"] == 429,
            "waf.yml: clients must learn that they send too much, and not that they may not",
        )
        rate = rule["Statement"]["RateBasedStatement"]
        require(rate["AggregateKeyType"] == "IP", "waf.yml: a client can forge the header with a forwarded address")
        require(
            500 <= limit * 300 / rate["EvaluationWindowSec"] <= 100_000,
            "waf.yml: 500 to 100,000 requests in five minutes: the page sends one for each letter",
        )


def _api_gateway(require, template):
    where, resources = "api-gateway.yml", template["Resources"]
    defaults = {name: parameter.get("Default") for name, parameter in template["Parameters"].items()}
    require(defaults["KeyRequired"] == "true", f"{where}: whoever wants no keys must say so")
    require(
        1 <= defaults["RequestsPerSecondOfKey"] < defaults["RequestsPerSecond"] <= 10_000
        and defaults["RequestsAtOnceOfKey"] < defaults["RequestsAtOnce"] <= 5_000,
        f"{where}: one client must leave room for others, within the quota of an account",
    )
    for name in ("RequestsAtOnce", "RequestsAtOnceOfKey"):
        rate = defaults[name.replace("AtOnce", "PerSecond")]
        require(rate <= defaults[name], f"{where}: {name} below the rate would never let it be reached")
    of = {name: resource["Properties"] for name, resource in resources.items()}
    require(
        of["Api"]["DisableExecuteApiEndpoint"] is True
        and of["Api"]["EndpointConfiguration"] == {"Types": ["REGIONAL"]},
        f"{where}: clients use the host of the ingress only; at an edge endpoint a stream ends after 30 idle seconds",
    )
    require(of["Api"]["ApiKeySourceType"] == "HEADER", f"{where}: clients send the key as x-api-key")
    require(of["Api"]["BinaryMediaTypes"] == ["*/*"], f"{where}: a body with gzip must not be treated as text")
    methods = {name: resource for name, resource in of.items() if name.endswith("Method")}
    require(
        {str(method["ResourceId"]) for method in methods.values()}
        == {"{'!GetAtt': 'Api.RootResourceId'}", "{'!Ref': 'Path'}"}
        and of["Path"]["PathPart"] == "{proxy+}",
        f"{where}: the root and every other path must pass",
    )
    for name, method in methods.items():
        integration = method["Integration"]
        require(
            method["ApiKeyRequired"] == {"!If": ["NeedsKey", True, False]}
            and template["Conditions"]["NeedsKey"] == {"!Equals": [{"!Ref": "KeyRequired"}, "true"]},
            f"{where}, {name}: without a key nobody may pass, if keys are required",
        )
        require(
            method["HttpMethod"] == integration["IntegrationHttpMethod"] == "ANY", f"{where}, {name}: not every method"
        )
        require(
            (integration["Type"], integration["ConnectionType"]) == ("HTTP_PROXY", "VPC_LINK")
            and integration["ConnectionId"] == {"!Ref": "VpcLink"}
            and integration["IntegrationTarget"] == {"!Ref": "LoadBalancerArn"},
            f"{where}, {name}: requests must reach the internal load balancer",
        )
        require(
            integration["Uri"]["!Sub"].startswith("https://${Host}/"),
            f"{where}, {name}: by HTTPS, with the host that the rules of the ingress and the certificate name",
        )
        longest = program.seconds("rest-api/src/http/export.rs", "DEADLINE")
        require(
            integration["ResponseTransferMode"] == "STREAM"
            and longest * 1000 < integration["TimeoutInMillis"] <= 900_000,
            f"{where}, {name}: exports take up to {longest} s, and events do not end; 15 minutes are the longest",
        )
        require(
            integration["RequestParameters"].get("integration.request.header.X-Forwarded-For")
            == "context.identity.sourceIp",
            f"{where}, {name}: a client must not choose its address",
        )
    require(
        of["PathMethod"]["Integration"]["RequestParameters"].get("integration.request.path.proxy")
        == "method.request.path.proxy"
        and of["PathMethod"]["Integration"]["Uri"]["!Sub"].endswith("/{proxy}"),
        f"{where}: the path must be passed on",
    )
    require(
        set(resources["Deployment"]["DependsOn"]) == set(methods),
        f"{where}: the stage would serve an API without methods",
    )
    (settings,) = of["Stage"]["MethodSettings"]
    require(
        (settings["ResourcePath"], settings["HttpMethod"]) == ("/*", "*")
        and settings["ThrottlingRateLimit"] == {"!Ref": "RequestsPerSecond"}
        and settings["ThrottlingBurstLimit"] == {"!Ref": "RequestsAtOnce"},
        f"{where}: the limit of all clients holds for every method",
    )
    require(
        of["UsagePlan"]["Throttle"]
        == {"RateLimit": {"!Ref": "RequestsPerSecondOfKey"}, "BurstLimit": {"!Ref": "RequestsAtOnceOfKey"}},
        f"{where}: each key has a limit",
    )
    log = of["Stage"]["AccessLogSetting"]["Format"]
    require(
        "$context.identity.apiKeyId" in log and not re.search(r"identity\.apiKey\b|authorizer|\$input|query", log),
        f"{where}: the log says which key was used, and has no credentials",
    )
    require("$context.requestId" in log, f"{where}: API Gateway refuses a format without the request's id")
    require(of["AccessLog"]["RetentionInDays"] >= 30, f"{where}: the log must be there when somebody asks")
    (egress,) = of["SecurityGroup"]["SecurityGroupEgress"]
    require(
        (egress["IpProtocol"], egress["FromPort"], egress["ToPort"], egress["CidrIp"])
        == ("tcp", 443, 443, {"!Ref": "VpcCidr"})
        and "SecurityGroupIngress" not in of["SecurityGroup"],
        f"{where}: the VPC link reaches the load balancers of the VPC, and nothing reaches it",
    )
    require(of["DomainName"]["SecurityPolicy"] == "TLS_1_2", f"{where}: TLS 1.2 is the least")
    require("BasePath" not in of["Mapping"], f"{where}: the paths are those of the service")


def _lifecycle(require, rules):
    require(
        rules["untagged"]["selection"]["countUnit"] == "days" and rules["untagged"]["selection"]["countNumber"] >= 7,
        "ecr-lifecycle.json: an image of a release under way has no tag; keep it for a week",
    )
    require(
        rules["tagged"]["selection"]["countType"] == "imageCountMoreThan"
        and rules["tagged"]["selection"]["countNumber"] >= 20,
        "ecr-lifecycle.json: a rollback needs images of earlier releases, however old; keep twenty",
    )
