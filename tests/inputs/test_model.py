import hashlib
import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import rfc8785
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper, numpy_helper

from app import errors
from app.inputs import operators
from app.inputs.limits import InputLimits
from app.inputs.model import inspect_model
from tests.inputs.archives import tar_bytes, zip_bytes

DIGITS = Path(__file__).parents[2] / "app/client/digits/mnist-cnn.onnx"
LIMITS = InputLimits()


def inspect(folder: Path, content: bytes, limits: InputLimits = LIMITS) -> dict[str, Any]:
    upload, target = folder / "upload", folder / "model"
    upload.write_bytes(content)
    target.mkdir(exist_ok=True)
    for left in target.iterdir():
        left.unlink()
    request = {"path": str(upload), "folder": str(target), "limits": limits.model_dump(mode="json")}
    return inspect_model(request, lambda _: None)


def small_model(opset: int = 17) -> ModelProto:
    weight = numpy_helper.from_array(np.ones((4, 3, 3, 3), np.float32), "weight")
    nodes = [helper.make_node("Conv", ["x", "weight"], ["c"], "conv"), helper.make_node("Relu", ["c"], ["y"], "relu")]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "g", [x], [y], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8, producer_name="us")


def test_describes_a_model(tmp_path: Path) -> None:
    content = small_model().SerializeToString()
    found = inspect(tmp_path, content)
    digest = hashlib.sha256(content).hexdigest()
    assert found["digest"] == digest
    assert found["files"] == [{"name": "model.onnx", "path": str(tmp_path / "upload"), "sha256": digest, "size": len(content)}]
    assert found["inputs"] == [{"name": "x", "dtype": "float32", "shape": ["N", 3, 8, 8]}]
    assert found["outputs"] == [{"name": "y", "dtype": "float32", "shape": ["N", 4, 6, 6]}]
    assert (found["opset"], found["ir_version"], found["producer"]) == (17, 8, "us")
    assert (found["nodes"], found["operators"], found["parameters"]) == (2, {"Conv": 1, "Relu": 1}, 108)


def test_sizes_that_paddle_does_not_know_have_no_name(tmp_path: Path) -> None:
    model = small_model()
    batch, _, height, width = model.graph.input[0].type.tensor_type.shape.dim
    batch.dim_value, height.dim_param, width.dim_param = -1, "?", "?"
    found = inspect(tmp_path, model.SerializeToString())
    assert found["inputs"][0]["shape"] == [None, 3, None, None]
    assert found["outputs"][0]["shape"][:2] == [None, 4]


def test_digits_model(tmp_path: Path) -> None:
    found = inspect(tmp_path, DIGITS.read_bytes())
    assert found["inputs"] == [{"name": "input", "dtype": "float32", "shape": ["N", 1, 28, 28]}]
    assert found["outputs"][0]["shape"] == ["N", 10]


def test_inputs_that_are_initializers_do_not_count(tmp_path: Path) -> None:
    model = small_model()
    model.ir_version = 3
    model.graph.input.append(helper.make_tensor_value_info("weight", TensorProto.FLOAT, [4, 3, 3, 3]))
    assert [value["name"] for value in inspect(tmp_path, model.SerializeToString())["inputs"]] == ["x"]


def test_all_opsets_that_are_taken_run_in_onnx_runtime() -> None:
    for opset in (operators.MIN_OPSET, operators.MAX_OPSET):
        model = small_model(opset)
        model.ir_version = operators.MAX_IR_VERSION if opset == operators.MAX_OPSET else 8
        onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def edited(change: Callable[[ModelProto], Any]) -> bytes:
    model = small_model()
    change(model)
    return model.SerializeToString()


def quantized(model: ModelProto) -> None:
    model.graph.node[1].op_type = "QuantizeLinear"


def add_node(model: ModelProto, op: str, takes: list[str], makes: list[str], **attributes: Any) -> None:
    model.graph.node.append(helper.make_node(op, takes, makes, **attributes))


def cycle(model: ModelProto) -> None:
    model.graph.node[0].input[0] = "y"


def nested(depth: int) -> Callable[[ModelProto], None]:
    def change(model: ModelProto) -> None:
        body = helper.make_graph([helper.make_node("Identity", ["x"], ["i"])], "g", [], [value("i")])
        for number in range(depth):
            node = helper.make_node("If", ["b"], [f"o{number}"], then_branch=body, else_branch=body)
            body = helper.make_graph([node], "g", [], [value(f"o{number}")])
        model.graph.input.append(helper.make_tensor_value_info("b", TensorProto.BOOL, []))
        model.graph.node.append(body.node[0])

    return change


def value(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, None)


def rename_x(name: str) -> Callable[[ModelProto], None]:
    def change(model: ModelProto) -> None:
        model.graph.input[0].name = model.graph.node[0].input[0] = name

    return change


def weight(**changes: Any) -> Callable[[ModelProto], None]:
    def change(model: ModelProto) -> None:
        tensor = model.graph.initializer[0]
        for name, content in changes.items():
            if name == "dims":
                del tensor.dims[:]
                tensor.dims.extend(content)
            elif isinstance(content, list):
                getattr(tensor, name).extend(content)
            else:
                setattr(tensor, name, content)

    return change


def constant_of_shape(model: ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.array([1 << 20, 1 << 20]), "huge"))
    add_node(model, "ConstantOfShape", ["huge"], ["terabytes"])


NAN = struct.pack("<f", math.nan) + bytes(428)
INFINITE = struct.pack("<f", math.inf) + bytes(428)

REFUSED: dict[str, tuple[type[errors.Problem], bytes]] = {
    "no bytes": (errors.ModelProblem, b""),
    "text": (errors.ModelProblem, b"this is no model, it is a text about models"),
    "html": (errors.ModelProblem, b"<!doctype html><html></html>"),
    "no graph": (errors.ModelProblem, edited(lambda m: m.ClearField("graph"))),
    "no opset": (errors.ModelProblem, edited(lambda m: m.ClearField("opset_import"))),
    "no nodes' output": (errors.ModelInvalidGraph, edited(lambda m: m.graph.output.pop())),
    "quantized": (errors.ModelAlreadyQuantized, edited(quantized)),
    "quantized elsewhere": (
        errors.ModelAlreadyQuantized,
        edited(lambda m: add_node(m, "QLinearAdd", ["x"], ["q"], domain="com.microsoft")),
    ),
    "ConvInteger": (errors.ModelAlreadyQuantized, edited(lambda m: add_node(m, "ConvInteger", ["x", "x"], ["q"]))),
    "custom domain": (
        errors.ModelUnsupportedOp,
        edited(lambda m: add_node(m, "Magic", ["x"], ["q"], domain="org.example")),
    ),
    "unknown operator": (errors.ModelUnsupportedOp, edited(lambda m: add_node(m, "Magic", ["x"], ["q"]))),
    "operator of a later opset": (errors.ModelUnsupportedOp, edited(lambda m: add_node(m, "Gelu", ["x"], ["q"]))),
    "opset too old": (errors.ModelUnsupportedOp, small_model(6).SerializeToString()),
    "opset too new": (errors.ModelUnsupportedOp, small_model(99).SerializeToString()),
    "IR too new": (errors.ModelUnsupportedOp, edited(lambda m: setattr(m, "ir_version", 99))),
    "function": (errors.ModelUnsupportedOp, edited(lambda m: m.functions.add(name="f", domain=""))),
    "two opsets": (errors.ModelInvalidGraph, edited(lambda m: m.opset_import.add(domain="ai.onnx", version=17))),
    "cycle": (errors.ModelInvalidGraph, edited(cycle)),
    "dangling": (errors.ModelInvalidGraph, edited(lambda m: add_node(m, "Relu", ["nothing"], ["q"]))),
    "made twice": (errors.ModelInvalidGraph, edited(lambda m: add_node(m, "Relu", ["x"], ["c"]))),
    "input made": (errors.ModelInvalidGraph, edited(lambda m: add_node(m, "Relu", ["c"], ["x"]))),
    "two nodes alike": (errors.ModelInvalidGraph, edited(lambda m: [setattr(node, "name", "op") for node in m.graph.node])),
    "two inputs alike": (errors.ModelInvalidGraph, edited(lambda m: m.graph.input.append(m.graph.input[0]))),
    "two weights alike": (
        errors.ModelInvalidGraph,
        edited(lambda m: m.graph.initializer.append(m.graph.initializer[0])),
    ),
    "output of nothing": (errors.ModelInvalidGraph, edited(lambda m: m.graph.output.append(value("z")))),
    "weight of a wrong rank": (errors.ModelInvalidGraph, edited(weight(dims=[12, 9]))),
    "negative input dimension": (
        errors.ModelInvalidGraph,
        edited(lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[0], "dim_value", -2)),
    ),
    "nested": (errors.ModelTooComplex, edited(nested(12))),
    "constant of terabytes": (errors.ModelTooComplex, edited(constant_of_shape)),
    "2^20 dimensions": (errors.ModelTooComplex, edited(weight(dims=[1] * (1 << 20)))),
    "dims do not fit": (errors.ModelInitializerInvalid, edited(weight(dims=[4, 3, 3, 4]))),
    "dims negative": (errors.ModelInitializerInvalid, edited(weight(dims=[-4, -3, 3, 3]))),
    "dims overflow": (errors.ModelInitializerInvalid, edited(weight(dims=[1 << 62, 1 << 62, 4]))),
    "data twice": (errors.ModelInitializerInvalid, edited(weight(float_data=[1.0]))),
    "unknown type": (errors.ModelInitializerInvalid, edited(weight(data_type=77))),
    "NaN": (errors.ModelNonfinite, edited(weight(raw_data=NAN))),
    "infinity": (errors.ModelNonfinite, edited(weight(raw_data=INFINITE))),
    "line break": (errors.ModelTensorNameUnsafe, edited(rename_x("a\nb"))),
    "escape": (errors.ModelTensorNameUnsafe, edited(rename_x("a\x1b[0m"))),
    "NUL": (errors.ModelTensorNameUnsafe, edited(rename_x("a\0"))),
    "direction": (errors.ModelTensorNameUnsafe, edited(rename_x("a\u202eb"))),
    "long": (errors.ModelTensorNameUnsafe, edited(rename_x("a" * 1025))),
    "empty name": (errors.ModelTensorNameUnsafe, edited(lambda m: m.graph.input.append(value("")))),
    "zip without": (errors.ModelArchiveInvalid, zip_bytes({"a.txt": b"x"})),
    "zip with two": (errors.ModelArchiveInvalid, zip_bytes({"a.onnx": b"x", "b.onnx": b"y"})),
    "zip that climbs": (errors.ArchiveUnsafePath, zip_bytes({"../a.onnx": b"x"})),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refuses(tmp_path: Path, case: str) -> None:
    kind, content = REFUSED[case]
    with pytest.raises(kind) as caught:
        inspect(tmp_path, content)
    assert caught.type is kind, caught.value.detail
    assert caught.value.detail.isprintable()


def test_an_infinite_bound_is_no_weight(tmp_path: Path) -> None:
    def clip(model: ModelProto) -> None:
        model.graph.initializer.append(numpy_helper.from_array(np.array(np.inf, np.float32), "bound"))
        add_node(model, "Clip", ["x", "", "bound"], ["q"])

    assert inspect(tmp_path, edited(clip))["nodes"] == 3


def test_subgraphs_see_outer_names(tmp_path: Path) -> None:
    assert inspect(tmp_path, edited(nested(3)))["operators"]["If"] == 7


@pytest.mark.parametrize("name", ["model_nodes", "model_attributes", "model_initializers", "tensor_elements"])
def test_limits(tmp_path: Path, name: str) -> None:
    def grow(model: ModelProto) -> None:
        add_node(model, "Elu", ["x"], ["q"], alpha=0.1)
        add_node(model, "Elu", ["q"], ["r"], alpha=0.1)
        model.graph.initializer.append(numpy_helper.from_array(np.ones(3, np.float32), "more"))

    with pytest.raises(errors.ModelTooComplex):
        inspect(tmp_path, edited(grow), LIMITS.model_copy(update={name: 1}))


def test_more_than_2_gib_in_one_file(tmp_path: Path) -> None:
    upload = tmp_path / "upload"
    with upload.open("wb") as file:
        file.truncate((1 << 31) + 1)
    with pytest.raises(errors.ModelTooLarge):
        inspect_model({"path": str(upload), "folder": str(tmp_path), "limits": LIMITS.model_dump()}, lambda _: None)


def test_every_truncation_of_a_small_model_is_refused(tmp_path: Path) -> None:
    whole = small_model().SerializeToString()
    for length in range(len(whole)):
        with pytest.raises(errors.ModelProblem):
            inspect(tmp_path, whole[:length])


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 600), st.integers(0, 255)), min_size=1, max_size=4))
def test_mutated_models_are_described_or_refused(tmp_path: Path, changes: list[tuple[int, int]]) -> None:
    content = bytearray(small_model().SerializeToString())
    for place, byte in changes:
        content[place % len(content)] = byte
    try:
        assert inspect(tmp_path, bytes(content))["nodes"] >= 1
    except errors.ModelProblem:
        return


def test_text_that_is_no_utf8(tmp_path: Path) -> None:
    content = small_model().SerializeToString()
    with pytest.raises(errors.ModelInvalidGraph, match="x has a dimension whose name is not UTF-8"):
        inspect(tmp_path, content.replace(b"\n\x03\x12\x01N", b"\n\x03\x12\x01\x80"))
    assert inspect(tmp_path, content.replace(b"\x12\x02us", b"\x12\x02u\x80"))["producer"] == "u\ufffd"


WEIGHT = np.arange(108, dtype="<f4").tobytes()


def external(location: str = "w.bin", **entries: str) -> ModelProto:
    model = small_model()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, content in ({"location": location} | entries).items():
        tensor.external_data.add(key=key, value=content)
    return model


@pytest.mark.parametrize("pack", [zip_bytes, tar_bytes])
@pytest.mark.parametrize("folder", ["", "deep/down/"])
def test_external_data(tmp_path: Path, pack: Callable[[dict[str, bytes]], bytes], folder: str) -> None:
    content = external().SerializeToString()
    files = {f"{folder}w.bin": WEIGHT, "README.md": b"x", f"{folder}net.onnx": content, "._net.onnx": b"x"}
    found = inspect(tmp_path, pack(files))
    sums = {"model.onnx": hashlib.sha256(content).hexdigest(), "w.bin": hashlib.sha256(WEIGHT).hexdigest()}
    assert [(file["name"], file["sha256"]) for file in found["files"]] == list(sums.items())
    assert found["digest"] == hashlib.sha256(rfc8785.dumps([list(pair) for pair in sorted(sums.items())])).hexdigest()
    assert found["parameters"] == 108
    session = onnxruntime.InferenceSession(found["files"][0]["path"], providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].name == "x"


def test_archive_of_a_bare_model_has_the_bare_digest(tmp_path: Path) -> None:
    content = small_model().SerializeToString()
    assert inspect(tmp_path, zip_bytes({"m.onnx": content}))["digest"] == inspect(tmp_path, content)["digest"]


EXTERNAL: dict[str, tuple[type[errors.Problem], ModelProto, dict[str, bytes]]] = {
    "missing": (errors.ModelExternalDataMissing, external(), {}),
    "climbs": (errors.ModelExternalDataUnsafe, external("../w.bin"), {}),
    "absolute": (errors.ModelExternalDataUnsafe, external("/etc/passwd"), {}),
    "NUL": (errors.ModelExternalDataUnsafe, external("w\0.bin"), {}),
    "itself": (errors.ModelExternalDataUnsafe, external("net.onnx"), {}),
    "a folder": (errors.ModelExternalDataMissing, external("w"), {"w/x": b""}),
    "empty": (errors.ModelExternalDataUnsafe, external(""), {}),
    "too short": (errors.ModelExternalDataInvalid, external(), {"w.bin": WEIGHT[:-1]}),
    "offset behind": (errors.ModelExternalDataInvalid, external(offset="4"), {"w.bin": WEIGHT}),
    "negative": (errors.ModelExternalDataInvalid, external(offset="-4"), {"w.bin": WEIGHT}),
    "2^64": (errors.ModelExternalDataInvalid, external(offset=str((1 << 64) - 4)), {"w.bin": WEIGHT}),
    "hexadecimal": (errors.ModelExternalDataInvalid, external(offset="0x0"), {"w.bin": WEIGHT}),
    "length": (errors.ModelExternalDataInvalid, external(length="8"), {"w.bin": WEIGHT}),
    "unknown key": (errors.ModelExternalDataInvalid, external(basepath="/"), {"w.bin": WEIGHT}),
    "NaN": (errors.ModelNonfinite, external(), {"w.bin": NAN}),
}


@pytest.mark.parametrize("case", EXTERNAL)
def test_refuses_external_data(tmp_path: Path, case: str) -> None:
    kind, model, files = EXTERNAL[case]
    with pytest.raises(kind) as caught:
        inspect(tmp_path, zip_bytes({"net.onnx": model.SerializeToString()} | files))
    assert caught.type is kind, caught.value.detail


def test_external_data_of_a_bare_upload_is_missing(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(WEIGHT)
    with pytest.raises(errors.ModelExternalDataMissing):
        inspect(tmp_path, external().SerializeToString())


def test_weights_may_share_all_bytes_never_some(tmp_path: Path) -> None:
    def with_second(offset: int) -> bytes:
        model = external(offset="0")
        second = TensorProto()
        second.CopyFrom(model.graph.initializer[0])
        second.name = "second"
        second.external_data[1].value = str(offset)
        model.graph.initializer.append(second)
        return zip_bytes({"net.onnx": model.SerializeToString(), "w.bin": WEIGHT * 2})

    assert inspect(tmp_path, with_second(0))["parameters"] == 216
    assert inspect(tmp_path, with_second(432))["parameters"] == 216
    with pytest.raises(errors.ModelExternalDataUnsafe, match="overlap"):
        inspect(tmp_path, with_second(4))


@given(st.integers(-(1 << 65), 1 << 65) | st.sampled_from([1 << 31, 1 << 32, 1 << 63, (1 << 63) - 432]))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_offset_but_zero_is_refused(tmp_path: Path, offset: int) -> None:
    content = zip_bytes({"net.onnx": external(offset=str(offset or 1)).SerializeToString(), "w.bin": WEIGHT})
    with pytest.raises(errors.ModelExternalDataInvalid):
        inspect(tmp_path, content)
