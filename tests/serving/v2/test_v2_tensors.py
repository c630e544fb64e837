"""Tensors, bodies and messages without a service: round trips, and the place of every fault."""

import gzip
import json
import math
import struct
import zlib
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.config import SettingsError, parse_config
from serving.errors import HTTP_STATUS, RequestError
from serving.v2 import body, rpc, rpc_messages
from serving.v2.infer import InferAnswer, InferRequest, Requested
from serving.v2.outputs import outputs_of
from serving.v2.protos import message
from serving.v2.settings import GrpcSettings
from serving.v2.tensors import InputTensor, OutputTensor, pack_bytes, texts_of, unpack_bytes
from serving.wire import BundleFacts, HeadFacts

TEXTS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), max_size=8)
NUMPY = {"BOOL": np.bool_, "INT32": np.int32, "FP32": np.float32}
READ = {"BOOL": "?", "INT32": "<i4", "FP32": "<f4"}


@st.composite
def arrays(draw: st.DrawFn) -> tuple[str, np.ndarray]:
    datatype = draw(st.sampled_from(sorted(NUMPY)))
    shape = draw(st.sampled_from([(0,), (3,), (2, 3), (0, 4), (1, 1)]))
    element = {
        "BOOL": st.booleans(),
        "INT32": st.integers(-(2**31), 2**31 - 1),
        "FP32": st.floats(width=32, allow_nan=False, allow_infinity=False),
    }[datatype]
    count = math.prod(shape)
    flat = draw(st.lists(element, min_size=count, max_size=count))
    return datatype, np.array(flat, dtype=NUMPY[datatype]).reshape(shape)


def answer_of(*tensors: OutputTensor) -> InferAnswer:
    return InferAnswer("tiny", "1", "", tensors)


def refused(call: Any, *args: Any) -> tuple[str, str | None]:
    with pytest.raises(RequestError) as caught:
        call(*args)
    return caught.value.code, caught.value.field


@given(st.lists(st.binary(max_size=300), max_size=20))
@settings(deadline=None)
def test_bytes_come_back(elements: list[bytes]) -> None:
    raw = pack_bytes(elements)
    assert len(raw) == sum(map(len, elements)) + 4 * len(elements)
    assert unpack_bytes(raw, "x") == unpack_bytes(memoryview(raw), "x") == elements


def test_bytes_are_laid_out_as_tritonclient_reads_them() -> None:
    assert pack_bytes([b"ab", b""]) == b"\x02\x00\x00\x00ab\x00\x00\x00\x00"


@given(st.binary(max_size=40))
@settings(deadline=None)
def test_any_bytes_are_elements_or_a_fault_of_the_client(raw: bytes) -> None:
    try:
        elements = unpack_bytes(raw, "x")
    except RequestError as fault:
        assert (fault.code, fault.field) == ("invalid_request", "x")
    else:
        assert pack_bytes(elements) == raw


@given(arrays())
@settings(deadline=None)
def test_numbers_come_back_from_bytes_and_from_json(given_array: tuple[str, np.ndarray]) -> None:
    datatype, array = given_array
    tensor = OutputTensor("x", datatype, array)
    assert tensor.shape == array.shape
    np.testing.assert_array_equal(np.frombuffer(tensor.to_bytes(), READ[datatype]).reshape(array.shape), array)
    np.testing.assert_array_equal(np.array(json.loads(json.dumps(tensor.to_list())), NUMPY[datatype]), array.ravel())


@given(TEXTS, st.booleans(), st.booleans())
@settings(deadline=None)
def test_texts_come_out_of_json_and_of_bytes(texts: list[str], is_binary: bool, is_column: bool) -> None:
    shape = [len(texts), 1] if is_column else [len(texts)]
    tensor: dict[str, Any] = {"name": "text", "shape": shape, "datatype": "BYTES"}
    raw = pack_bytes(text.encode() for text in texts)
    if is_binary:
        tensor["parameters"] = {"binary_data_size": len(raw)}
    else:
        tensor["data"] = [[text] for text in texts] if is_column else texts
    head = json.dumps({"id": "7", "inputs": [tensor]}).encode()
    found = body.decode(head + raw, str(len(head))) if is_binary else body.decode(head, None)
    assert found.id == "7"
    assert texts_of(found.inputs[0], "x") == texts


@given(TEXTS, st.booleans())
@settings(deadline=None)
def test_texts_come_out_of_messages(texts: list[str], is_raw: bool) -> None:
    elements = [text.encode() for text in texts]
    tensor: dict[str, Any] = {"name": "text", "datatype": "BYTES", "shape": [len(texts)]}
    if not is_raw:
        tensor["contents"] = {"bytes_contents": elements}
    kind = message("ModelInferRequest")
    sent = kind(inputs=[tensor], raw_input_contents=[pack_bytes(elements)] if is_raw else [], id="7")
    found = rpc_messages.decode(rpc_messages.parse(kind, sent.SerializeToString()))
    assert found.id == "7"
    assert texts_of(found.inputs[0], "x") == texts


@given(st.lists(arrays(), max_size=3), st.lists(st.binary(max_size=9), max_size=3), st.lists(st.booleans(), max_size=4))
@settings(deadline=None)
def test_answers_are_read_back_whatever_is_binary(
    numbers: list[tuple[str, np.ndarray]], elements: list[bytes], binary: list[bool]
) -> None:
    texts = OutputTensor("label", "BYTES", [element.hex().encode() for element in elements])
    tensors = [OutputTensor(f"t{n}", datatype, array) for n, (datatype, array) in enumerate(numbers)] + [texts]
    wanted = [Requested(one.name, {"binary_data": flag}) for one, flag in zip(tensors, binary, strict=False)]
    written, json_length = body.encode(answer_of(*tensors), InferRequest([], wanted))
    assert (json_length is not None) == any(flag for _, flag in zip(tensors, binary, strict=False))
    head = json.loads(written[:json_length])
    rest = written[json_length:] if json_length is not None else b""
    for tensor, told in zip(tensors, head["outputs"], strict=True):
        assert (told["name"], told["datatype"], tuple(told["shape"])) == (tensor.name, tensor.datatype, tensor.shape)
        if "data" in told:
            assert told["data"] == tensor.to_list()
        else:
            size = told["parameters"]["binary_data_size"]
            assert rest[:size] == tensor.to_bytes()
            rest = rest[size:]
    assert rest == b""


def test_binary_is_asked_for_by_request_and_by_output() -> None:
    tensors = [OutputTensor(name, "INT32", np.array([1], np.int32)) for name in ("a", "b")]

    def binary(outputs: list[Requested], **parameters: bool) -> list[str]:
        written, length = body.encode(answer_of(*tensors), InferRequest([], outputs, parameters=parameters))
        return [one["name"] for one in json.loads(written[:length])["outputs"] if "data" not in one]

    assert binary([]) == []
    assert binary([], binary_data_output=True) == ["a", "b"]
    assert binary([Requested("b", {"binary_data": False})], binary_data_output=True) == ["a"]
    assert binary([Requested("b", {"binary_data": True})]) == ["b"]


def test_an_id_is_told_only_if_there_was_one() -> None:
    assert json.loads(body.encode(answer_of(), InferRequest([]))[0]) == {
        "model_name": "tiny",
        "model_version": "1",
        "outputs": [],
    }
    assert json.loads(body.encode(InferAnswer("tiny", "1", "7", []), InferRequest([]))[0])["id"] == "7"


def inputs(**more: Any) -> bytes:
    return json.dumps({"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", **more}]}).encode()


@pytest.mark.parametrize(
    ("sent", "json_length", "code", "field"),
    [
        (b"", None, "invalid_json", "body"),
        (b"{", None, "invalid_json", "body"),
        (b"\xff", None, "invalid_json", "body"),
        (b"{}", None, "invalid_request", "inputs"),
        (b"[]", None, "invalid_request", "body"),
        (b'{"inputs": 1}', None, "invalid_request", "inputs"),
        (b'{"inputs": [{}]}', None, "invalid_request", "inputs.0.name"),
        (b'{"inputs": [], "id": 1}', None, "invalid_request", "id"),
        (b'{"inputs": [], "parameters": {"a": []}}', None, "invalid_request", "parameters.a.bool"),
        (b'{"inputs": [], "outputs": [{}]}', None, "invalid_request", "outputs.0.name"),
        (inputs(data=None), None, "invalid_request", "inputs[0].data"),
        (inputs(data="a"), None, "invalid_request", "inputs.0.data"),
        (inputs(data=["a"], shape=[True]), None, "invalid_request", "inputs.0.shape.0"),
        (inputs(data=["a"], shape=[1.0]), None, "invalid_request", "inputs.0.shape.0"),
        (inputs(data=["a"], shape=[10**30]), None, "invalid_request", "inputs.0.shape.0"),
        (inputs(data=["a"]) + b"x", str(len(inputs(data=["a"]))), "invalid_request", "body"),
        (inputs(data=["a"]), "x", "invalid_request", body.JSON_LENGTH),
        (inputs(data=["a"]), "-1", "invalid_request", body.JSON_LENGTH),
        (inputs(data=["a"]), "9" * 50, "invalid_request", body.JSON_LENGTH),
        (inputs(data=["a"]), "²", "invalid_request", body.JSON_LENGTH),
        (inputs(parameters={"binary_data_size": 1}), None, "invalid_request", "inputs[0].parameters.binary_data_size"),
        (inputs(parameters={"binary_data_size": -1}), None, "invalid_request", "inputs[0].parameters.binary_data_size"),
        (
            inputs(parameters={"binary_data_size": "0"}),
            None,
            "invalid_request",
            "inputs[0].parameters.binary_data_size",
        ),
        (inputs(parameters={"binary_data_size": 0}, data=["a"]), None, "invalid_request", "inputs[0]"),
    ],
)
def test_faults_of_a_body_are_named(sent: bytes, json_length: str | None, code: str, field: str) -> None:
    assert refused(body.decode, sent, json_length) == (code, field)


def test_unknown_keys_of_a_body_are_skipped() -> None:
    found = body.decode(inputs(data=["a"], more=1), None)
    assert texts_of(found.inputs[0], "x") == ["a"]


@pytest.mark.parametrize(
    ("data", "shape", "field"),
    [
        (["a"], (2,), "x.shape"),
        ([], (1,), "x.shape"),
        ([[["a"], ["b"]]], (1, 1), "x.shape"),
        ([1], (1,), "x.data[0]"),
        (["a", None], (2,), "x.data[1]"),
        ([{"a": 1}], (1,), "x.data[0]"),
        (b"\x01\x00\x00", (1,), "x"),
        (b"\x02\x00\x00\x00a", (1,), "x"),
        (struct.pack("<I", 2**32 - 1), (1,), "x"),
        (pack_bytes([b"a", b"\xff"]), (2,), "x.data[1]"),
        ([b"\xed\xa0\x80"], (1,), "x.data[0]"),
    ],
)
def test_faults_of_texts_are_named(data: Any, shape: tuple[int, ...], field: str) -> None:
    assert refused(texts_of, InputTensor("text", "BYTES", shape, data), "x") == ("invalid_request", field)


@given(st.binary(max_size=60), st.one_of(st.none(), st.text(max_size=4)))
@settings(max_examples=300, deadline=None)
def test_any_body_is_read_or_is_a_fault_of_the_client(sent: bytes, json_length: str | None) -> None:
    try:
        body.decode(sent, json_length)
    except RequestError as fault:
        assert fault.status in (400, 422)


@given(st.binary(max_size=60))
@settings(max_examples=300, deadline=None)
def test_any_message_is_read_or_is_a_fault_of_the_client(sent: bytes) -> None:
    try:
        rpc_messages.decode(rpc_messages.parse(message("ModelInferRequest"), sent))
    except RequestError as fault:
        assert fault.code == "invalid_request"


def test_raw_contents_are_for_all_inputs_or_none() -> None:
    kind = message("ModelInferRequest")
    two = kind(inputs=[{"name": "text"}, {"name": "b"}], raw_input_contents=[b""])
    assert refused(rpc_messages.decode, two) == ("invalid_request", "raw_input_contents")
    both = kind(inputs=[{"name": "text", "contents": {"bytes_contents": [b"a"]}}], raw_input_contents=[b""])
    assert refused(rpc_messages.decode, both) == ("invalid_request", "inputs[0].contents")


def test_parameters_of_messages_have_their_values() -> None:
    values = {"a": {"bool_param": False}, "b": {"int64_param": -3}, "c": {"string_param": "x"}, "d": {}}
    found = rpc_messages.decode(message("ModelInferRequest")(parameters=values))
    assert found.parameters == {"a": False, "b": -3, "c": "x"}


def test_packed_bodies_are_unpacked_within_the_limit() -> None:
    plain = b"a" * 1000
    for packed in (gzip.compress(plain), zlib.compress(plain)):
        assert body.unpack(packed, 1000) == plain
        assert refused(body.unpack, packed, 999) == ("too_large", "body")
        assert refused(body.unpack, packed[:-1], 1000) == ("invalid_request", "body")
        assert refused(body.unpack, packed + b"x", 1000) == ("invalid_request", "body")
    assert refused(body.unpack, b"nothing", 1000) == ("invalid_request", "body")
    assert refused(body.unpack, b"", 1000) == ("invalid_request", "body")


FACTS = BundleFacts(
    "b@1",
    ("en",),
    64,
    "fp32",
    "cpu",
    (
        HeadFacts(
            "sentiment",
            "single",
            ("positive", "negative"),
            (("sentiment", "string"), *((f"prob_{n}", "float") for n in ("negative", "neutral", "positive"))),
        ),
        HeadFacts("n", "ordinal", ("1", "n_1"), (("n", "float"), ("prob_n_1", "float"), ("prob_n_n_1", "float"))),
        HeadFacts("topics", "multi", ("a",), (("topics", "list<item: string>"), ("prob_topics_a", "float"))),
        HeadFacts("spans", "token", ("O", "B-x"), (("spans", "list<…>"),)),
        HeadFacts("vector", "embedding", (), (("vector", "fixed_size_list<item: float>[2]"),)),
    ),
    "",
)
TABLE = pa.table(
    {
        "sentiment": ["negative", "positive"],
        "prob_negative": pa.array([0.75, 0.25], pa.float32()),
        "prob_neutral": pa.nulls(2, pa.float32()),
        "prob_positive": pa.array([0.25, 0.75], pa.float32()),
        "n": pa.array([1.5, 2.5], pa.float32()),
        "prob_n_1": pa.array([0.5, 0.0], pa.float32()),
        "prob_n_n_1": pa.array([0.5, 1.0], pa.float32()),
        "topics": [["a"], []],
        "prob_topics_a": pa.array([1.0, 0.0], pa.float32()),
        "spans": [[{"start": 0, "end": 1, "label": "x", "prob": 1.0}], []],
        "vector": pa.array([[1.0, 0.0], [0.0, 1.0]], pa.list_(pa.float32(), 2)),
        "lang": ["en", "zh"],
        "num_tokens": pa.array([3, 4], pa.int32()),
        "truncated": [True, False],
        "clean_text": ["x", "质"],
    }
)


@pytest.mark.parametrize(
    ("name", "datatype", "shape", "data"),
    [
        ("sentiment", "BYTES", (-1,), ["negative", "positive"]),
        ("sentiment.prob", "FP32", (-1, 2), [0.75, 0.25, 0.25, 0.75]),
        ("n", "FP32", (-1,), [1.5, 2.5]),
        ("n.prob", "FP32", (-1, 2), [0.5, 0.5, 0.0, 1.0]),
        ("topics", "BYTES", (-1,), ['["a"]', "[]"]),
        ("topics.prob", "FP32", (-1, 1), [1.0, 0.0]),
        ("spans", "BYTES", (-1,), ['[{"start":0,"end":1,"label":"x","prob":1.0}]', "[]"]),
        ("vector", "FP32", (-1, 2), [1.0, 0.0, 0.0, 1.0]),
        ("lang", "BYTES", (-1,), ["en", "zh"]),
        ("num_tokens", "INT32", (-1,), [3, 4]),
        ("truncated", "BOOL", (-1,), [True, False]),
        ("clean_text", "BYTES", (-1,), ["x", "质"]),
    ],
)
def test_every_output_of_every_kind_of_head(name: str, datatype: str, shape: tuple[int, ...], data: list[Any]) -> None:
    output = outputs_of(FACTS)[name]
    assert (output.datatype, output.shape) == (datatype, shape)
    for table in (TABLE, pa.concat_tables([TABLE.slice(0, 1), TABLE.slice(1)])):
        tensor = output.read(table)
        assert tensor.to_list() == data
        assert tensor.shape == (2, *shape[1:])
    assert len(outputs_of(FACTS)) == 12


def test_probabilities_stand_in_the_order_of_their_labels() -> None:
    outputs = outputs_of(FACTS)
    assert outputs["sentiment.prob"].labels == ("negative", "positive")  # one that the head doesn't know is left out
    assert outputs["n.prob"].labels == ("1", "n_1")


def test_grpc_knows_the_codes_that_the_service_gives() -> None:
    of_http_alone = {"method_not_allowed", "unsupported_media_type", "conflict"}
    assert rpc.CODES.keys() == HTTP_STATUS.keys() - of_http_alone


def test_field_numbers_are_the_published_ones() -> None:
    """Bytes written down by hand from the published .proto: field number and wire type, length, content."""
    tensor = b"\x0a\x04text" + b"\x12\x05BYTES" + b"\x1a\x01\x01"
    parameter = b"\x0a\x01k" + b"\x12\x02\x08\x01"
    sent = (
        b"\x0a\x01m" + b"\x12\x01v" + b"\x1a\x01i" + b"\x22" + bytes([len(parameter)]) + parameter
        + b"\x2a" + bytes([len(tensor)]) + tensor + b"\x32\x03\x0a\x01o" + b"\x3a\x05\x01\x00\x00\x00a"
    )  # fmt: skip
    read = message("ModelInferRequest").FromString(sent)
    assert (read.model_name, read.model_version, read.id, read.outputs[0].name) == ("m", "v", "i", "o")
    assert (read.inputs[0].name, read.inputs[0].datatype, list(read.inputs[0].shape)) == ("text", "BYTES", [1])
    assert read.parameters["k"].bool_param is True
    assert list(read.raw_input_contents) == [b"\x01\x00\x00\x00a"]
    answer = rpc_messages.encode(InferAnswer("m", "v", "i", [OutputTensor("o", "BYTES", [b"a"])]))
    assert answer.SerializeToString(deterministic=True) == (
        b"\x0a\x01m\x12\x01v\x1a\x01i\x2a\x0d\x0a\x01o\x12\x05BYTES\x1a\x01\x01\x32\x05\x01\x00\x00\x00a"
    )


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.9.9.9"])
def test_grpc_listens_on_loopback(host: str) -> None:
    assert GrpcSettings(host=host, port=1).address == (f"[{host}]:1" if host == "::1" else f"{host}:1")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org", ""])  # noqa: S104
def test_grpc_listens_elsewhere_only_behind_tls(host: str) -> None:
    with pytest.raises(SettingsError, match=r"host must be of loopback.*tls_front"):
        parse_config({"host": host}, GrpcSettings, "test")
    assert parse_config({"host": host, "tls_front": True}, GrpcSettings, "test").host == host
