"""Engines are built for real: ONNX Runtime on this CPU, TensorRT-RTX ahead of time without a GPU."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from app.engines.backend import BuildRequest, BuildResult, find_installed_backends, get_backend
from app.engines.judge_run import JudgedModels, judge
from app.engines.onnxruntime import open_session, session_options
from app.errors import CalibrationProblem, EngineProblem, JudgeProblem, UnsupportedOption
from app.observers.session import open_session as open_to_observe
from app.quant.graph import find_needed_tensors, prepare_model
from app.quant.placement import PLACEMENTS
from app.quant.qdq import model_to_bytes, quantize_model
from app.spec import Precision, QuantizeSpec, ShapeProfile
from tests.quant.nets import NETS, Net, images, measured_scales
from tests.quant.samples import digits_images, digits_model, efficientnet_model, parse_oracle, photos

DIGITS_SHAPES = {"input": ShapeProfile(min=(1, 1, 28, 28), opt=(8, 1, 28, 28), max=(32, 1, 28, 28))}
PHOTO_SHAPES = {"input": ShapeProfile(min=(1, 3, 224, 224), opt=(8, 3, 224, 224), max=(32, 3, 224, 224))}

INSTALLED = {info.name: info for info in find_installed_backends()}
needs_rtx = pytest.mark.skipif("tensorrt-rtx" not in INSTALLED, reason="tensorrt-rtx is not installed")


def save(model: onnx.ModelProto, path: Path) -> Path:
    path.write_bytes(model_to_bytes(model))
    return path


def digits_request(folder: Path, precision: Precision = "int8", **options: Any) -> BuildRequest:
    spec = QuantizeSpec.model_validate({"float_type": options.get("float_type", "fp32")})
    is_int8 = precision == "int8"
    model = digits_model()
    ready = quantize_model(model, parse_oracle("minmax"), spec).model if is_int8 else prepare_model(model)
    path = save(ready, folder / "model.onnx")
    return BuildRequest(path, folder / "engine.plan", precision, shapes=DIGITS_SHAPES, **options)


def build(backend: str, request: BuildRequest) -> tuple[BuildResult, list[str]]:
    log: list[str] = []
    result = get_backend(backend).build(request, lambda event: log.append(event["log"]))
    assert result.metadata["plan_bytes"] == request.plan.stat().st_size > 0
    return result, log


def test_backends_tell_what_they_are() -> None:
    info = INSTALLED["onnxruntime"].to_json()
    assert info["precisions"] == ["fp32", "int8"]
    assert info["compute_capabilities"] == []
    with pytest.raises(UnsupportedOption, match="cuda"):
        get_backend("cuda")


def test_onnxruntime_runs_digits_in_int8(tmp_path: Path) -> None:
    request = digits_request(tmp_path)
    result, log = build("onnxruntime", request)
    assert result.metadata["layers"]["int8"] == 5  # the sixth convolution feeds the float pooling
    assert result.metadata["session_options"] == {"session.x64quantprecision": "1"}
    assert any("INT8" in line for line in log)
    pictures, labels = digits_images()
    outputs = get_backend("onnxruntime").open(request.plan, 1).run(pictures)["output"]
    assert 0.967 <= (outputs.argmax(axis=1) == labels).mean() <= 0.977


def test_the_added_pairs_of_the_plan_change_no_value(tmp_path: Path) -> None:
    request = digits_request(tmp_path)
    build("onnxruntime", request)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    pictures, _ = digits_images()
    values = [
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]).run(
            None, {"input": pictures[:200]}
        )[0]
        for path in (request.model, request.plan)
    ]
    np.testing.assert_array_equal(np.asarray(values[0]), np.asarray(values[1]))


def test_an_onnxruntime_plan_may_be_fp32(tmp_path: Path) -> None:
    result, _ = build("onnxruntime", digits_request(tmp_path, "fp32"))
    assert result.metadata["layers"]["int8"] == 0
    with pytest.raises(UnsupportedOption):
        build("onnxruntime", digits_request(tmp_path, "fp16"))


def test_a_model_that_does_not_load_fails_with_the_runtimes_words(tmp_path: Path) -> None:
    model = prepare_model(digits_model())
    model.graph.node[0].domain = "no.such"
    model.opset_import.append(onnx.helper.make_opsetid("no.such", 1))
    request = BuildRequest(save(model, tmp_path / "m.onnx"), tmp_path / "plan", "fp32")
    with pytest.raises(EngineProblem, match=r"no\.such"):
        build("onnxruntime", request)


@needs_rtx
@pytest.mark.parametrize(
    ("precision", "float_type", "capabilities"),
    [
        ("int8", "fp32", ("8.6",)),
        ("int8", "fp32", ("8.9", "12.0")),
        ("int8", "fp32", ("8.0", "12.1")),
        ("int8", "fp16", ("8.6",)),
        ("int8", "fp16", ("7.5",)),
        ("fp32", "fp32", ("8.6",)),
        ("fp16", "fp32", ("8.6",)),
        ("fp16", "fp32", ("7.5", "8.9")),
    ],
)
def test_rtx_builds_digits(tmp_path: Path, precision: Precision, float_type: str, capabilities: tuple[str, ...]) -> None:
    request = digits_request(tmp_path, precision, float_type=float_type, compute_capability=capabilities)
    result, log = build("tensorrt-rtx", request)
    assert result.metadata["compute_capability"] == list(capabilities)
    assert any("Engine generation completed" in line for line in log)


@needs_rtx
@pytest.mark.parametrize("float_type", ["fp32", "fp16"])
@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("name", NETS)
def test_rtx_builds_every_net(tmp_path: Path, name: str, placement: str, float_type: str) -> None:
    model = NETS[name]()
    scales = measured_scales(model, images(model), find_needed_tensors(model))
    spec = QuantizeSpec.model_validate({"placement": placement, "float_type": float_type})
    path = save(quantize_model(model, scales, spec).model, tmp_path / "m.onnx")
    sizes = tuple(d.dim_value or 4 for d in model.graph.input[0].type.tensor_type.shape.dim)
    shapes = {"input": ShapeProfile(min=sizes, opt=sizes, max=sizes)}
    build("tensorrt-rtx", BuildRequest(path, tmp_path / "p", shapes=shapes, compute_capability=("8.6",)))


@needs_rtx
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_rtx_builds_fp8(tmp_path: Path, placement: str) -> None:
    spec = QuantizeSpec.model_validate({"format": "fp8", "float_type": "fp16", "placement": placement})
    path = save(quantize_model(digits_model(), parse_oracle("minmax"), spec).model, tmp_path / "m.onnx")
    request = BuildRequest(path, tmp_path / "p", "fp8", shapes=DIGITS_SHAPES, compute_capability=("8.9", "12.0"))
    result, _ = build("tensorrt-rtx", request)
    assert result.metadata["precision"] == "fp8"


@needs_rtx
def test_sizes_that_the_exporter_named_alike_may_differ(tmp_path: Path) -> None:
    net = Net(["N", 3, "?", "?"])
    net.conv("input", "output", 3, 16)
    path = save(net.model({"output": ["N", 16, "?", "?"]}), tmp_path / "m.onnx")
    sizes = (2, 3, 16, 32)
    shapes = {"input": ShapeProfile(min=sizes, opt=sizes, max=sizes)}
    build("tensorrt-rtx", BuildRequest(path, tmp_path / "p", "fp32", shapes=shapes, compute_capability=("8.6",)))
    assert (tmp_path / "p").stat().st_size > 0


@needs_rtx
def test_rtx_tells_its_errors(tmp_path: Path) -> None:
    request = digits_request(tmp_path, "int8", compute_capability=("7.5",))
    with pytest.raises(EngineProblem, match="SM75"):
        build("tensorrt-rtx", request)
    with pytest.raises(UnsupportedOption, match="no GPU"):
        get_backend("tensorrt-rtx").open(request.plan, 1)
    broken = BuildRequest(tmp_path / "no.onnx", tmp_path / "p", "fp32", compute_capability=("8.6",))
    model = prepare_model(digits_model())
    model.graph.node[0].op_type = "NoSuchOp"
    save(model, broken.model)
    with pytest.raises(EngineProblem, match="NoSuchOp"):
        build("tensorrt-rtx", broken)


def save_with_repeated_name(path: Path) -> None:
    model = prepare_model(digits_model())
    model.graph.node[1].name = model.graph.node[0].name = "twice"
    save(model, path)


def save_without_weights(path: Path) -> None:
    onnx.save_model(prepare_model(digits_model()), path, save_as_external_data=True, location="weights", size_threshold=0)
    path.with_name("weights").unlink()


@pytest.mark.parametrize(
    ("write", "word"),
    [(save_with_repeated_name, "twice"), (save_without_weights, "weights"), (lambda _path: None, r"m\.onnx")],
)
def test_onnxruntimes_words_name_no_path_of_this_machine(tmp_path: Path, write: Callable[[Path], None], word: str) -> None:
    path = tmp_path / "m.onnx"
    write(path)
    with pytest.raises(EngineProblem, match=word) as engine:
        open_session(path, session_options(1))
    with pytest.raises(CalibrationProblem, match=word) as observer:
        open_to_observe(path)
    for problem in (engine, observer):
        assert str(tmp_path) not in str(problem.value)


def test_judging_digits_gives_tensorrts_accuracies(tmp_path: Path) -> None:
    pictures, labels = digits_images()
    fp32 = save(digits_model(), tmp_path / "fp32.onnx")
    accuracies: dict[tuple[str, str], float] = {}
    for method in ("minmax", "entropy2"):
        for float_type in ("fp32", "fp16"):
            spec = QuantizeSpec.model_validate({"float_type": float_type})
            tested = save(quantize_model(digits_model(), parse_oracle(method), spec).model, tmp_path / "int8.onnx")
            batches = ((pictures[i : i + 50], labels[i : i + 50]) for i in range(0, 1500, 50))
            events: list[dict] = []
            report = judge(JudgedModels(fp32, tested, images=1500), batches, events.append)
            accuracies[method, float_type] = report["accuracy_int8"]
            assert report["judged_by"] == "onnxruntime"
            assert report["accuracy_fp32"] == pytest.approx(0.9707, abs=1e-3)
            assert events[-1] == {"progress": [1500, 1500]}
    assert all(0.967 <= accuracies["minmax", kind] <= 0.977 for kind in ("fp32", "fp16"))
    assert all(0.61 <= accuracies["entropy2", kind] <= 0.64 for kind in ("fp32", "fp16"))


def test_images_that_do_not_fit_are_a_problem(tmp_path: Path) -> None:
    fp32 = save(digits_model(), tmp_path / "fp32.onnx")
    with pytest.raises(JudgeProblem, match="batch of shape"):
        judge(JudgedModels(fp32, fp32), [(np.zeros((1, 3, 5), np.float32), [None])], lambda _: None)


@needs_rtx
@pytest.mark.parametrize("capabilities", [("8.6",), ("8.9", "12.0")])
def test_efficientnet_builds(tmp_path: Path, capabilities: tuple[str, ...]) -> None:
    model = efficientnet_model()
    scales = measured_scales(model, photos(0, 4), find_needed_tensors(model))
    int8 = save(quantize_model(model, scales, QuantizeSpec()).model, tmp_path / "int8.onnx")
    fp32 = save(prepare_model(model), tmp_path / "fp32.onnx")
    sizes: dict[str, int] = {}
    wanted: list[tuple[Path, Precision]] = [(int8, "int8"), (fp32, "fp32"), (fp32, "fp16")]
    for path, precision in wanted:
        request = BuildRequest(path, tmp_path / "plan", precision, shapes=PHOTO_SHAPES, compute_capability=capabilities)
        sizes[precision] = build("tensorrt-rtx", request)[0].metadata["plan_bytes"]
    assert sizes["fp16"] < 0.6 * sizes["fp32"]
    layers = build("onnxruntime", BuildRequest(int8, tmp_path / "plan", shapes=PHOTO_SHAPES))[0].metadata["layers"]
    assert layers["int8"] >= 25
