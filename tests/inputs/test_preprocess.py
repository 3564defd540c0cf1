from typing import Any

import pytest

from app import errors
from app.inputs.preprocess import resolve_preprocess, resolve_shapes
from app.spec import PreprocessSpec, ShapeProfile

LEFT_OUT = PreprocessSpec()


def inputs(shape: list[Any] | None, dtype: str = "float32") -> list[dict[str, Any]]:
    return [{"name": "x", "dtype": dtype, "shape": shape}]


@pytest.mark.parametrize(
    ("shape", "size", "color", "layout"),
    [
        (["N", 1, 28, 28], (28, 28), "L", "NCHW"),
        ([8, 3, 224, 200], (224, 200), "RGB", "NCHW"),
        ([None, 32, 48, 3], (32, 48), "RGB", "NHWC"),
        ([1, 28, 28, 1], (28, 28), "L", "NHWC"),
        ([1, 3, 3, 5], (3, 5), "RGB", "NCHW"),
    ],
)
def test_left_out_fields_come_from_the_input(shape: list[Any], size: tuple, color: str, layout: str) -> None:
    resolved = resolve_preprocess(LEFT_OUT, inputs(shape))
    assert (resolved.size, resolved.color, resolved.layout) == (size, color, layout)
    assert resolve_preprocess(resolved, inputs(shape)) == resolved


@pytest.mark.parametrize(
    ("shape", "given"),
    [
        (["N", 3, "H", "W"], {"size": (64, 64)}),
        (["N", "C", "H", "W"], {"size": (64, 64), "color": "BGR", "layout": "NCHW"}),
        (None, {"size": (64, 64), "color": "L", "layout": "NHWC"}),
        ([1, 3, 64, 3], {"layout": "NCHW"}),
    ],
)
def test_what_the_model_leaves_open_can_be_given(shape: list[Any] | None, given: dict[str, Any]) -> None:
    resolved = resolve_preprocess(PreprocessSpec(**given), inputs(shape))
    assert {name: getattr(resolved, name) for name in given} == given


@pytest.mark.parametrize(
    ("kind", "shape", "given"),
    [
        (errors.PreprocessRequired, ["N", 3, "H", 224], {}),
        (errors.PreprocessRequired, ["N", "C", 224, 224], {}),
        (errors.PreprocessRequired, ["N", 3, 224, 3], {}),
        (errors.PreprocessRequired, None, {"size": (8, 8)}),
        (errors.PreprocessRequired, ["N", "C", 8, 8], {"layout": "NCHW"}),
        (errors.InputLayoutMismatch, ["N", 4, 28, 28], {}),
        (errors.InputLayoutMismatch, ["N", 1, 28, 28], {"color": "RGB"}),
        (errors.InputLayoutMismatch, ["N", 1, 28, 28], {"size": (28, 29)}),
        (errors.InputLayoutMismatch, ["N", 3, 28, 28], {"layout": "NHWC"}),
        (errors.InputLayoutMismatch, ["N", 3, 28, 28], {"layout": "NHWC", "color": "RGB"}),
        (errors.ModelInputUnsupported, ["N", 10], {}),
        (errors.ModelInputUnsupported, ["N", 3, 20_000, 20_000], {}),
        (errors.SpecProblem, ["N", 1, 28, 28], {"mean": (0.1, 0.2, 0.3)}),
        (errors.SpecProblem, ["N", 3, 28, 28], {"std": (0.1, 0.2)}),
        (errors.SpecProblem, ["N", 3, 28, 28], {"std": (1e-42,)}),
        (errors.SpecProblem, ["N", 3, 28, 28], {"scale": 1e38}),
    ],
)
def test_refuses(kind: type[errors.Problem], shape: list[Any] | None, given: dict[str, Any]) -> None:
    with pytest.raises(kind) as caught:
        resolve_preprocess(PreprocessSpec(**given), inputs(shape))
    assert caught.type is kind


def test_models_that_take_no_image() -> None:
    shape = ["N", 3, 8, 8]
    for refused in (inputs(shape) * 2, [], inputs(shape, "int64"), inputs(shape, "float16")):
        with pytest.raises(errors.ModelInputUnsupported):
            resolve_preprocess(LEFT_OUT, refused)


def profile(low: tuple, usual: tuple, high: tuple) -> ShapeProfile:
    return ShapeProfile(min=low, opt=usual, max=high)


def test_a_dynamic_batch_gets_a_profile_by_itself() -> None:
    assert resolve_shapes(None, inputs(["N", 3, 8, 9])) == {"x": profile((1, 3, 8, 9), (8, 3, 8, 9), (32, 3, 8, 9))}
    assert resolve_shapes(None, inputs([None, 3])) == {"x": profile((1, 3), (8, 3), (32, 3))}
    assert resolve_shapes(None, inputs([4, 3, 8, 9])) is None
    assert resolve_shapes({}, inputs([])) is None


@pytest.mark.parametrize(("shape", "dimension"), [(["N", 3, "H", 8], "H"), ([1, 3, 8, None], "number 3"), (None, "of all")])
def test_other_dynamic_dimensions_need_one(shape: list[Any] | None, dimension: str) -> None:
    with pytest.raises(errors.ShapeProfileRequired) as caught:
        resolve_shapes(None, inputs(shape))
    assert caught.value.facts["dimension"] == dimension
    assert caught.value.facts["input"] == "x"


def test_given_profiles_are_taken_where_they_fit() -> None:
    given = {"x": profile((1, 3, 8, 8), (2, 3, 16, 16), (4, 3, 32, 32))}
    assert resolve_shapes(given, inputs(["N", 3, "S", "S"])) == given
    assert resolve_shapes(given, inputs(None)) == given
    for shape in (["N", 1, "H", "W"], ["N", 3, "H"], ["N", 3, 8, "W"], ["N", 3, "N", "W"]):
        with pytest.raises(errors.ShapeProfileInvalid):
            resolve_shapes(given, inputs(shape))
    with pytest.raises(errors.ShapeProfileInvalid, match="no input x"):
        resolve_shapes(given, [{"name": "y", "dtype": "float32", "shape": ["N", 3, "H", "W"]}])
