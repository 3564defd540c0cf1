"""What a spec leaves out, read from the model's inputs. Pure: no image and no model is touched here.

An input is {"name", "dtype", "shape"} as app.inputs.model describes it: in a shape an int is static, a string symbolic,
None unknown.
"""

from typing import Any

from app.errors import (
    InputLayoutMismatch,
    ModelInputUnsupported,
    PreprocessRequired,
    ShapeProfileInvalid,
    ShapeProfileRequired,
    SpecProblem,
)
from app.spec import PreprocessSpec, ShapeProfile

#: What a dynamic batch gets by itself: min, opt, max.
DEFAULT_BATCH = (1, 8, 32)

_COLORS = {1: "L", 3: "RGB"}
_MAX_SIDE = 16384
_MAX_FLOAT32, _TINY_FLOAT32 = 3.4e38, 1.2e-38


def resolve_preprocess(spec: PreprocessSpec, inputs: list[dict[str, Any]]) -> PreprocessSpec:
    """Return the spec with size, color and layout filled in from the model's only input, float32 with 4 dimensions.

    Raises ModelInputUnsupported, PreprocessRequired where the model leaves it open, InputLayoutMismatch where the
    spec contradicts it, SpecProblem where mean, std and scale do not fit the channels.
    """
    image = get_image_input(inputs)
    layout = spec.layout or _find_layout(image)
    if layout is None:
        raise PreprocessRequired(**_named(image), reason="which dimension holds the channels is open")
    channels, height, width = _split(image["shape"] or [None] * 4, layout)
    color = spec.color or _get_color(image, channels)
    size = spec.size or _get_size(image, height, width)
    resolved = spec.model_copy(update={"size": size, "color": color, "layout": layout})
    _check_fits(resolved, image)
    _check_numbers(resolved)
    return resolved


def get_image_input(inputs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the input that images are fed to. Raises ModelInputUnsupported where there is not exactly one."""
    if not inputs:
        raise ModelInputUnsupported(input="(none)", dtype="", shape=[], reason="the model has no input")
    image = inputs[0]
    reason = None
    if len(inputs) > 1:
        image, reason = inputs[1], f"the model has {len(inputs)} inputs, one is served"
    elif image["dtype"] != "float32":
        reason = "images are float32"
    elif image["shape"] is not None and len(image["shape"]) != 4:
        reason = "images have 4 dimensions"
    if reason:
        raise ModelInputUnsupported(dtype=image["dtype"], reason=reason, **_named(image))
    return image


def _named(value: dict[str, Any]) -> dict[str, Any]:
    return {"input": value["name"], "shape": format_shape(value["shape"])}


def format_shape(shape: list[int | str | None] | None) -> str:
    """Return a shape as people write it: [N, 3, ?, 224]."""
    if shape is None:
        return "of unknown rank"
    return f"[{', '.join('?' if dimension is None else str(dimension) for dimension in shape)}]"


def _find_layout(image: dict[str, Any]) -> str | None:
    shape = image["shape"]
    if shape is None:
        return None
    fitting = [layout for layout, channels in (("NCHW", shape[1]), ("NHWC", shape[3])) if channels in _COLORS]
    if not fitting and all(isinstance(dimension, int) for dimension in shape[1:]):
        raise InputLayoutMismatch(made="1 or 3 channels", **_named(image))
    return fitting[0] if len(fitting) == 1 else None


def _split(shape: list[Any], layout: str) -> tuple[Any, Any, Any]:
    return (shape[1], shape[2], shape[3]) if layout == "NCHW" else (shape[3], shape[1], shape[2])


def _get_color(image: dict[str, Any], channels: int | str | None) -> str:
    if not isinstance(channels, int):
        raise PreprocessRequired(**_named(image), reason="its number of channels is dynamic")
    if channels not in _COLORS:
        raise InputLayoutMismatch(made="1 or 3 channels", **_named(image))
    return _COLORS[channels]


def _get_size(image: dict[str, Any], height: int | str | None, width: int | str | None) -> tuple[int, int]:
    if not isinstance(height, int) or not isinstance(width, int):
        raise PreprocessRequired(**_named(image), reason="its height or width is dynamic")
    if max(height, width) > _MAX_SIDE:
        reason = f"images have at most {_MAX_SIDE} pixels a side"
        raise ModelInputUnsupported(dtype=image["dtype"], reason=reason, **_named(image))
    return height, width


def made_shape(spec: PreprocessSpec) -> list[int | str | None]:
    """Return the shape that a resolved spec makes, with N for the batch."""
    height, width = spec.size or (0, 0)
    tail = [spec.channels, height, width] if spec.layout == "NCHW" else [height, width, spec.channels]
    return ["N", *tail]


def _check_fits(spec: PreprocessSpec, image: dict[str, Any]) -> None:
    made = made_shape(spec)
    for dimension, takes in zip(made[1:], (image["shape"] or made)[1:], strict=True):
        if isinstance(takes, int) and takes != dimension:
            raise InputLayoutMismatch(made=format_shape(made), **_named(image))


def _check_numbers(spec: PreprocessSpec) -> None:
    for name, values in (("mean", spec.mean), ("std", spec.std)):
        if len(values) not in (1, spec.channels):
            raise SpecProblem(reason=f"preprocess.{name} has {len(values)} values for {spec.channels} channels")
    ends = [abs((pixel * spec.scale - mean) / std) for pixel in (0, 255) for mean in spec.mean for std in spec.std]
    if min(spec.std) < _TINY_FLOAT32 or max(ends) > _MAX_FLOAT32:
        raise SpecProblem(reason="preprocess.scale, mean and std make values that float32 cannot hold")


def resolve_shapes(shapes: dict[str, ShapeProfile] | None, inputs: list[dict[str, Any]]) -> dict[str, ShapeProfile] | None:
    """Return the optimization profile of every dynamic input, None where there is none.

    A dynamic batch alone gets 1, 8, 32. Raises ShapeProfileRequired for any other dynamic dimension without a profile,
    ShapeProfileInvalid where a given profile does not fit.
    """
    given = shapes or {}
    unknown = sorted(set(given) - {value["name"] for value in inputs})
    if unknown:
        names = ", ".join(value["name"] for value in inputs)
        raise ShapeProfileInvalid(reason=f"there is no input {unknown[0]}; there are {names}")
    resolved: dict[str, ShapeProfile] = {}
    for value in inputs:
        profile = given.get(value["name"]) or _default_profile(value)
        if profile:
            _check_profile(value, profile)
            resolved[value["name"]] = profile
    _check_symbols(resolved, inputs)
    return resolved or None


def _default_profile(value: dict[str, Any]) -> ShapeProfile | None:
    shape = value["shape"]
    if shape is None:
        raise ShapeProfileRequired(dimension="of all", **_named(value))
    for place, dimension in enumerate(shape):
        if not isinstance(dimension, int) and place:
            name = dimension if dimension is not None else f"number {place}"
            raise ShapeProfileRequired(dimension=name, **_named(value))
    if not shape or isinstance(shape[0], int):
        return None
    low, usual, high = ((batch, *shape[1:]) for batch in DEFAULT_BATCH)
    return ShapeProfile(min=low, opt=usual, max=high)


def _check_profile(value: dict[str, Any], profile: ShapeProfile) -> None:
    shape = value["shape"]
    if shape is None:
        return
    if len(profile.min) != len(shape):
        reason = f"{value['name']} has {len(shape)} dimensions, its profile {len(profile.min)}"
        raise ShapeProfileInvalid(reason=reason)
    for place, dimension in enumerate(shape):
        if isinstance(dimension, int) and not profile.min[place] == profile.max[place] == dimension:
            reason = f"dimension {place} of {value['name']} is always {dimension} (shape {format_shape(shape)})"
            raise ShapeProfileInvalid(reason=reason)


def _check_symbols(profiles: dict[str, ShapeProfile], inputs: list[dict[str, Any]]) -> None:
    ranges: dict[str, tuple[int, int, int]] = {}
    for value in inputs:
        profile = profiles.get(value["name"])
        if profile is None or value["shape"] is None:
            continue
        spans = zip(profile.min, profile.opt, profile.max, strict=True)
        for dimension, span in zip(value["shape"], spans, strict=True):
            if isinstance(dimension, str) and ranges.setdefault(dimension, span) != span:
                raise ShapeProfileInvalid(reason=f"dimension {dimension} has two different ranges")
