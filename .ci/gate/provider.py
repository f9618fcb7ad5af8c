"""A stand-in for terraform's AWS provider that plans from its schema alone, without AWS.

What AWS would decide it fills with readable references: the ARN of the queue `failures` becomes
`{aws_sqs_queue.failures.arn}`. So a plan shows what refers to what, also inside of policies.
"""

import concurrent.futures
import contextlib
import json
import os

import grpc
import msgpack
from tfplugin_proto import tfplugin6_5_pb2 as messages
from tfplugin_proto import tfplugin6_5_pb2_grpc as services

ADDRESS = "registry.terraform.io/hashicorp/aws"
UNKNOWN = msgpack.ExtType(0, b"\x00")
NESTINGS = {"single": 1, "list": 2, "set": 3, "map": 4, "group": 5}
# What names a resource in references, the first that it has.
NAMES = ("name", "identifier", "cluster_identifier", "bucket", "function_name", "service_name", "description", "role")
# The account in names, as in the documents.
ACCOUNT = "111122223333"
# The offline schema lacks the types of these computed lists of objects.
SHAPES = {
    "vpc_config": ["list", ["object", {"cluster_security_group_id": "string"}]],
    "master_user_secret": ["list", ["object", {"secret_arn": "string"}]],
}


def _attribute(name, spec):
    flags = {flag: bool(spec.get(flag)) for flag in ("required", "optional", "computed", "sensitive", "write_only")}
    if nested := spec.get("nested_type"):
        attributes = [_attribute(*item) for item in nested["attributes"].items()]
        nesting = NESTINGS[nested["nesting_mode"]]
        shape = {"nested_type": messages.Schema.Object(nesting=nesting, attributes=attributes)}
    else:
        shape = {"type": json.dumps(spec["type"]).encode()}
    known = messages.Schema.Attribute.DESCRIPTOR.fields_by_name
    return messages.Schema.Attribute(name=name, **shape, **{k: v for k, v in flags.items() if k in known})


def _block(spec):
    return messages.Schema.Block(
        attributes=[_attribute(*item) for item in spec.get("attributes", {}).items()],
        block_types=[
            messages.Schema.NestedBlock(
                type_name=name,
                block=_block(nested["block"]),
                nesting=NESTINGS[nested["nesting_mode"]],
                min_items=nested.get("min_items", 0),
                max_items=nested.get("max_items", 0),
            )
            for name, nested in spec.get("block_types", {}).items()
        ],
    )


def _schemas(specs):
    return {
        name: messages.Schema(version=spec.get("version", 0), block=_block(spec["block"]))
        for name, spec in specs.items()
    }


def _reference(kind, path, otherwise):
    """Returns a value of this type that names where it comes from, or else `otherwise`."""
    if kind == "string":
        return "{" + path + "}"
    if isinstance(kind, list) and kind[0] in ("list", "set"):
        if kind[1] == "string":
            return [_reference("string", f"{path}.{number}", otherwise) for number in range(3)]
        if kind[1][0] == "object":
            return [{name: _reference(inner, f"{path}.{name}", otherwise) for name, inner in kind[1][1].items()}]
    return otherwise


def _fill(kind, spec, values, otherwise):
    """Fills the attributes that the provider computes, and that the configuration leaves out."""
    name = next((values[name] for name in NAMES if isinstance(values.get(name), str)), None)
    prefix = f"{kind}.{name.strip('{}')}" if name else kind
    for attribute, attribute_spec in spec["block"].get("attributes", {}).items():
        if not attribute_spec.get("computed") or values.get(attribute) is not None:
            continue
        shape = attribute_spec.get("type")
        if attribute == "account_id":
            values[attribute] = ACCOUNT
        elif shape == "dynamic" and attribute in SHAPES:
            shape = SHAPES[attribute]
            # A dynamic value carries its type.
            values[attribute] = [json.dumps(shape).encode(), _reference(shape, f"{prefix}.{attribute}", otherwise)]
        else:
            values[attribute] = _reference(shape, f"{prefix}.{attribute}", otherwise)
    return values


def _encode(values):
    return messages.DynamicValue(msgpack=msgpack.packb(values))


def _decode(value):
    return msgpack.unpackb(value.msgpack, ext_hook=lambda code, data: UNKNOWN)


class _Provider(services.ProviderServicer):
    def __init__(self, schema):
        self.schema = schema

    def GetProviderSchema(self, request, context):
        return messages.GetProviderSchema.Response(
            provider=messages.Schema(block=_block(self.schema["provider"]["block"])),
            resource_schemas=_schemas(self.schema["resource_schemas"]),
            data_source_schemas=_schemas(self.schema["data_source_schemas"]),
        )

    def ValidateProviderConfig(self, request, context):
        return messages.ValidateProviderConfig.Response()

    def ValidateResourceConfig(self, request, context):
        return messages.ValidateResourceConfig.Response()

    def ValidateDataResourceConfig(self, request, context):
        return messages.ValidateDataResourceConfig.Response()

    def ConfigureProvider(self, request, context):
        return messages.ConfigureProvider.Response()

    def ReadDataSource(self, request, context):
        spec = self.schema["data_source_schemas"][request.type_name]
        return messages.ReadDataSource.Response(
            state=_encode(_fill(f"data.{request.type_name}", spec, _decode(request.config), None))
        )

    def PlanResourceChange(self, request, context):
        spec = self.schema["resource_schemas"][request.type_name]
        values = _fill(request.type_name, spec, _decode(request.proposed_new_state), UNKNOWN)
        return messages.PlanResourceChange.Response(planned_state=_encode(values), legacy_type_system=True)

    def StopProvider(self, request, context):
        return messages.StopProvider.Response()


@contextlib.contextmanager
def serve(schema):
    """Serves the provider from this process, and returns the variables by which terraform finds it."""
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(8), options=[("grpc.max_send_message_length", -1)])
    services.add_ProviderServicer_to_server(_Provider(schema), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    attachment = {
        "Protocol": "grpc",
        "ProtocolVersion": 6,
        "Pid": os.getpid(),
        "Test": True,
        "Addr": {"Network": "tcp", "String": f"127.0.0.1:{port}"},
    }
    try:
        yield {"TF_REATTACH_PROVIDERS": json.dumps({ADDRESS: attachment})}
    finally:
        server.stop(None)
