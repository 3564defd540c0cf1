"""Unnamed layers are mapped where only one node can have made them, and never guessed."""

import onnx

from app.quant.coverage import match_names
from tests.quant.nets import Net, resnet


def chain() -> onnx.ModelProto:
    """Conv, Relu, Conv, Relu, MaxPool, Flatten, Gemm."""
    net = Net(["N", 3, 8, 8])
    net.node("Relu", [net.conv("input", "c1", 3, 16)], "r1")
    net.node("Relu", [net.conv("r1", "c2", 16, 16)], "r2")
    net.node("MaxPool", ["r2"], "p", kernel_shape=[8, 8])
    net.node("Flatten", ["p"], "flat")
    net.node("Gemm", ["flat", net.weight("fc", 16, 10)], "output")
    return net.model({"output": ["N", 10]})


def unnamed(*kinds: str) -> dict[str, float]:
    """Return a cache of layers without names; N skips numbers, as constants and shapes do."""
    return {f"(Unnamed Layer* {2 * number}) [{kind}]_output": 1.0 + number for number, kind in enumerate(kinds)}


def test_a_chain_is_mapped_layer_by_layer() -> None:
    layers = unnamed("Convolution", "Activation", "Convolution", "Activation", "Pooling", "Fully Connected")
    found = match_names(chain(), {"input": 9.0} | layers)
    assert list(found.mapped.values()) == ["c1", "r1", "c2", "r2", "p", "output"]
    assert found.amax == {"input": 9.0, "c1": 1.0, "r1": 2.0, "c2": 3.0, "r2": 4.0, "p": 5.0, "output": 6.0}
    assert (found.missing, found.unknown, found.internal) == (["flat"], [], [])


def test_shuffles_count_where_the_cache_has_them() -> None:
    layers = unnamed("Convolution", "Activation", "Convolution", "Activation", "Pooling", "Shuffle", "Fully Connected")
    assert list(match_names(chain(), layers).mapped.values())[-2:] == ["flat", "output"]


def test_another_network_is_not_mapped() -> None:
    for kinds in (
        ("Convolution", "Activation", "Convolution", "Activation", "Pooling"),
        ("Convolution", "Convolution", "Activation", "Activation", "Pooling", "Fully Connected"),
        ("Convolution", "Activation", "Convolution", "Activation", "Plugin V 2", "Fully Connected"),
    ):
        found = match_names(chain(), unnamed(*kinds))
        assert found.mapped == {}
        assert len(found.internal) == len(kinds)


def test_the_parsers_own_internal_layers_are_not_mapped() -> None:
    found = match_names(
        chain(), {"r1": 1.0} | unnamed("Convolution", "Activation", "Convolution", "Pooling", "Matrix Multiply")
    )
    assert (found.mapped, len(found.internal)) == ({}, 5)


def test_constants_are_constants() -> None:
    assert match_names(chain(), {"r1": 1.0, "(Unnamed Layer* 7) [Constant]_output": 1.0}).constants


def test_branches_of_like_layers_stay_open_and_the_rest_is_mapped() -> None:
    model = resnet()
    ops = {"Conv": "Convolution", "Relu": "Activation", "Add": "ElementWise", "Gemm": "Fully Connected"}
    ops |= {"BatchNormalization": "Scale", "GlobalAveragePool": "Reduce"}
    made = [node for node in model.graph.node if node.op_type in ops]
    layers = unnamed(*(ops[node.op_type] for node in made))
    found = match_names(model, layers)
    truth = dict(zip(layers, (node.output[0] for node in made), strict=True))
    assert found.mapped
    assert all(truth[name] == tensor for name, tensor in found.mapped.items())
    assert {"a_sum", "b_sum", "stem"} <= set(found.mapped.values())
    # b1, b2 and the convolution of the shortcut may have been added in another order
    assert "b_short" not in found.mapped.values()
