"""The messages of `inference.GRPCInferenceService`, made when this is imported from the protocol's field numbers.

Field names and numbers are those of the published protocol (kserve/open-inference-protocol), and of Triton's additions
for the configuration, the stream and the index, as far as this service fills them: receivers skip what isn't there.
Nothing is generated, so no compiler is needed and no generated file can be too old for the protobuf that Ray brings;
and the descriptors live in a pool of their own, so that another `inference` package in the process, such as
tritonclient's, doesn't clash with it.
"""

from __future__ import annotations

from typing import Any

from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

PACKAGE = "inference"
SERVICE = f"{PACKAGE}.GRPCInferenceService"

_TENSOR = {"name": "1 string", "datatype": "2 string", "shape": "3 repeated int64"}
_NAMED = {"name": "1 string", "version": "2 string"}
_SERVER = {**_NAMED, "extensions": "3 repeated string"}
_DATA = {**_TENSOR, "parameters": "4 map InferParameter", "contents": "5 InferTensorContents"}
_CONTENTS = ("bool", "int32 int", "int64", "uint32 uint", "uint64", "float fp32", "double fp64", "bytes")
_MESSAGES: dict[str, dict[str, str]] = {
    "ServerLiveRequest": {},
    "ServerLiveResponse": {"live": "1 bool"},
    "ServerReadyRequest": {},
    "ServerReadyResponse": {"ready": "1 bool"},
    "ModelReadyRequest": _NAMED,
    "ModelReadyResponse": {"ready": "1 bool"},
    "ServerMetadataRequest": {},
    "ServerMetadataResponse": _SERVER,
    "ModelMetadataRequest": _NAMED,
    "ModelMetadataResponse": {
        "name": "1 string",
        "versions": "2 repeated string",
        "platform": "3 string",
        "inputs": "4 repeated ModelMetadataResponse.TensorMetadata",
        "outputs": "5 repeated ModelMetadataResponse.TensorMetadata",
    },
    "ModelMetadataResponse.TensorMetadata": _TENSOR,
    "InferParameter": {
        "bool_param": "1 oneof bool",
        "int64_param": "2 oneof int64",
        "string_param": "3 oneof string",
        "double_param": "4 oneof double",
        "uint64_param": "5 oneof uint64",
    },
    "InferTensorContents": {
        f"{kind.split()[-1]}_contents": f"{number} repeated {kind.split()[0]}"
        for number, kind in enumerate(_CONTENTS, start=1)
    },
    "ModelInferRequest": {
        "model_name": "1 string",
        "model_version": "2 string",
        "id": "3 string",
        "parameters": "4 map InferParameter",
        "inputs": "5 repeated ModelInferRequest.InferInputTensor",
        "outputs": "6 repeated ModelInferRequest.InferRequestedOutputTensor",
        "raw_input_contents": "7 repeated bytes",
    },
    "ModelInferRequest.InferInputTensor": _DATA,
    "ModelInferRequest.InferRequestedOutputTensor": {"name": "1 string", "parameters": "2 map InferParameter"},
    "ModelInferResponse": {
        "model_name": "1 string",
        "model_version": "2 string",
        "id": "3 string",
        "parameters": "4 map InferParameter",
        "outputs": "5 repeated ModelInferResponse.InferOutputTensor",
        "raw_output_contents": "6 repeated bytes",
    },
    "ModelInferResponse.InferOutputTensor": _DATA,
    "ModelStreamInferResponse": {"error_message": "1 string", "infer_response": "2 ModelInferResponse"},
    "ModelConfigRequest": _NAMED,
    "ModelConfigResponse": {"config": "1 ModelConfig"},
    "ModelConfig": {
        "name": "1 string",
        "platform": "2 string",
        "max_batch_size": "4 int32",
        "input": "5 repeated ModelInput",
        "output": "6 repeated ModelOutput",
        "parameters": "14 map ModelParameter",
        "backend": "17 string",
    },
    "ModelInput": {"name": "1 string", "data_type": "2 enum DataType", "dims": "4 repeated int64"},
    "ModelOutput": {"name": "1 string", "data_type": "2 enum DataType", "dims": "3 repeated int64"},
    "ModelParameter": {"string_value": "1 string"},
    "RepositoryIndexRequest": {"repository_name": "1 string", "ready": "2 bool"},
    "RepositoryIndexResponse": {"models": "1 repeated RepositoryIndexResponse.ModelIndex"},
    "RepositoryIndexResponse.ModelIndex": {**_NAMED, "state": "3 string", "reason": "4 string"},
}
_DATA_TYPES = {"INVALID": 0, "BOOL": 1, "INT32": 8, "FP32": 11, "STRING": 13}
_LABELS = {"repeated": FieldDescriptorProto.LABEL_REPEATED, "map": FieldDescriptorProto.LABEL_REPEATED}


def message(name: str) -> Any:
    """The class of a message; protobuf's classes have no types that a checker could read."""
    return GetMessageClass(_POOL.FindMessageTypeByName(f"{PACKAGE}.{name}"))


def _file() -> FileDescriptorProto:
    file = FileDescriptorProto(name="open_inference_protocol.proto", package=PACKAGE, syntax="proto3")
    types = file.enum_type.add(name="DataType")
    for name, number in _DATA_TYPES.items():
        types.value.add(name=f"TYPE_{name}", number=number)
    made: dict[str, DescriptorProto] = {}
    for path, fields in _MESSAGES.items():  # an outer message stands before those within it
        outer, _, name = path.rpartition(".")
        made[path] = made[outer].nested_type.add(name=name) if outer else file.message_type.add(name=name)
        for field_name, field in fields.items():
            _add(made[path], path, field_name, field.split())
    return file


def _add(to: DescriptorProto, path: str, name: str, spec: list[str]) -> None:
    """Add a field: its number, perhaps `repeated`, `map`, `oneof` or `enum`, and its type."""
    number, *kind, of = spec
    field = to.field.add(name=name, number=int(number), label=_LABELS.get("".join(kind), 1))
    if kind == ["map"]:
        entry = to.nested_type.add(name=f"{name.title()}Entry")
        entry.options.map_entry = True
        _add(entry, f"{path}.{entry.name}", "key", ["1", "string"])
        _add(entry, f"{path}.{entry.name}", "value", ["2", of])
        of = f"{path}.{entry.name}"
    if kind == ["oneof"]:
        if not to.oneof_decl:
            to.oneof_decl.add(name="parameter_choice")
        field.oneof_index = 0
    if of[0].islower():
        field.type = FieldDescriptorProto.Type.Value(f"TYPE_{of.upper()}")
    else:
        field.type = FieldDescriptorProto.TYPE_ENUM if kind == ["enum"] else FieldDescriptorProto.TYPE_MESSAGE
        field.type_name = f".{PACKAGE}.{of}"


_POOL = DescriptorPool()
_POOL.AddSerializedFile(_file().SerializeToString())
