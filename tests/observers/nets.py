"""Small nets that the tests observe, and what a plain session says about them."""

import io
import zipfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

DIGITS = Path(__file__).parents[2] / "app" / "client" / "digits"
DIGITS_MODEL = DIGITS / "mnist-cnn.onnx"


def read_digits(count=500):
    """Return the calibration digits in sorted path order, float32[N, 1, 28, 28] in 0..1."""
    with zipfile.ZipFile(DIGITS / "mnist-calibration-500.zip") as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".png"))[:count]
        images = [np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("L"), np.float32) for name in names]
    return (np.stack(images) * np.float32(1 / 255))[:, None]


def save_net(folder, nodes, weights, output, shape=("N", 3, 12, 12)):
    """Save a net with input `x` of that shape; return its path."""
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(shape))],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = Path(folder, "net.onnx")
    onnx.save_model(model, path)
    return path


def save_mixing_net(folder, shape):
    """Save a net that takes the mean of the images of a batch, `s` being what is left; return its path."""
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[0]),
        helper.make_node("Sub", ["x", "mean"], ["s"]),
        helper.make_node("Conv", ["s", "w"], ["y"]),
    ]
    weight = np.random.default_rng(1).normal(size=(16, shape[1], 3, 3)).astype(np.float32)
    return save_net(folder, nodes, {"w": weight}, "y", shape)


def save_zoo_net(folder, batch: str | int = "N", layout="NCHW"):
    """Save a net with every kind of node that tensors are derived through, blocked and unblocked convolutions."""
    rng = np.random.default_rng(7)
    node = helper.make_node
    weights = {
        "w1": rng.normal(size=(32, 3, 3, 3)).astype(np.float32),
        "w2": rng.normal(size=(32, 32, 3, 3)).astype(np.float32) * np.float32(0.1),
        "w3": rng.normal(size=(24, 32, 1, 1)).astype(np.float32),
        "w4": rng.normal(size=(10, 24)).astype(np.float32),
        "low": np.float32(-0.5).reshape(()),
        "six": np.float32(6).reshape(()),
        "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
        "flat": np.array([0, -1]),
    }
    first = [node("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2])] if layout == "NHWC" else []
    nodes = [
        *first,
        node("Pad", ["t" if first else "x", "pads"], ["padded"]),
        node("Conv", ["padded", "w1"], ["c1"]),
        node("Relu", ["c1"], ["r1"]),
        node("Conv", ["r1", "w2"], ["c2"], pads=[1, 1, 1, 1]),
        node("Add", ["c2", "r1"], ["a2"]),
        node("Clip", ["a2", "low", "six"], ["k2"]),
        node("Pad", ["k2", "pads"], ["padded2"]),
        node("Conv", ["padded2", "w3"], ["c3"]),
        node("LeakyRelu", ["c3"], ["l3"]),
        node("MaxPool", ["l3"], ["m3"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Identity", ["m3"], ["i3"]),
        node("GlobalAveragePool", ["i3"], ["g"]),
        node("Reshape", ["g", "flat"], ["f"]),
        node("Gemm", ["f", "w4"], ["logits"], transB=1),
        node("Softmax", ["logits"], ["y"]),
    ]
    shape = (batch, 12, 12, 3) if layout == "NHWC" else (batch, 3, 12, 12)
    return save_net(folder, nodes, weights, "y", shape)


_FETCHED = ["c1", "c2", "a2", "c3", "l3", "m3", "g", "logits", "y"]
ZOO = ["x", *_FETCHED, "padded", "r1", "k2", "padded2", "i3", "f"]


def run_zoo(path, images, grid="mergeable"):
    """Return the values of all tensors of the zoo net; what follows from others is computed here.

    The runtime rounds differently where a padded tensor is fetched, for it cannot fuse the Pad then. On grid tensorrt what
    stands for the output of a MaxPool is its input.
    """
    values = run_all(path, images, _FETCHED)
    pads = np.array([[0, 0], [0, 0], [1, 1], [1, 1]])
    values["x"] = images
    values["padded"] = np.pad(images if images.shape[1] == 3 else images.transpose(0, 3, 1, 2), pads)
    values["r1"] = np.maximum(values["c1"], 0)
    values["k2"] = np.clip(values["a2"], np.float32(-0.5), np.float32(6))
    values["padded2"] = np.pad(values["k2"], pads)
    values["m3"] = values["l3"] if grid == "tensorrt" else values["m3"]
    values["i3"], values["f"] = values["m3"], values["g"].reshape(len(images), -1)
    return values


def run_all(path, images, names):
    """Return the values of the named tensors for images, run one by one by a session that fetches them all."""
    model = onnx.load(path)
    given = model.graph.input[0].name
    fetched = [name for name in names if name != given]
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in fetched)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    fixed = session.get_inputs()[0].shape[0]
    step = fixed if isinstance(fixed, int) else 1
    runs = [session.run(fetched, {given: images[start : start + step]}) for start in range(0, len(images), step)]
    values = {name: np.concatenate(parts) for name, parts in zip(fetched, zip(*runs, strict=True), strict=True)}
    return values | ({given: images} if given in names else {})
