"""One picture becomes one array. Every mode has one result:

* L, RGB: as they are; 1-bit: 0 and 255; palette: its colours; YCbCr: RGB; CMYK and YCCK: RGB by Pillow's formula.
* LA, RGBA, and any palette, grey or RGB with a transparent colour: laid on black.
* 16 bits a channel: the high byte. It scales 0..65535 to 0..255, for grey by hand, for RGB in Pillow's decoder.
* 32-bit integers, floats, 12-bit and CIELAB TIFFs have no 0..255 and are refused.
* ICC profiles are ignored. Of an animation or a TIFF with pages the first frame counts.
* EXIF orientation turns the picture with `exif: true` only, except that a TIFF's orientation always does (libtiff's
  readers all apply it). An EXIF block that cannot be read counts as none.

Colours are converted before the picture is resized. Grey from colour is ITU-R 601-2 luma.
"""

import io

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image

from app.errors import ImageProblem
from app.inputs.headers import DECODE_ERRORS, FORMATS, corrupt, open_image
from app.inputs.limits import InputLimits
from app.spec import PreprocessSpec

#: Part of the observation key: another decoder gives other pixels.
DECODER_VERSION = f"pillow-{PIL.__version__}"

_RESAMPLES = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
}
_OPAQUE = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr")
_TRANSPARENT = ("LA", "PA", "RGBA", "RGBa")
_ORIENTATION_TAG, _BITS_TAG = 0x0112, 258
#: What to do for EXIF orientations 2 to 8; 1 is upright.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode_image(content: bytes, spec: PreprocessSpec, limits: InputLimits, name: str = "") -> NDArray[np.float32]:
    """Return float32[C, H, W] (or [H, W, C] for NHWC) of an encoded picture by a resolved spec.

    value = (pixel * scale - mean) / std in float32 in this order, pixel 0..255.
    Raises ImageTooLarge, ImageCorrupt and ImageProblem, each naming the image.
    """
    return values_from_pixels(decode_pixels(content, spec, limits, name), spec)


def values_from_pixels(pixels: NDArray[np.uint8], spec: PreprocessSpec) -> NDArray[np.float32]:
    """Return what decode_image does, of uint8[H, W, C]."""
    mean = np.asarray(spec.mean, np.float32)
    std = np.asarray(spec.std, np.float32)
    values = (pixels.astype(np.float32) * np.float32(spec.scale) - mean) / std
    return np.ascontiguousarray(values.transpose(2, 0, 1)) if spec.layout == "NCHW" else values


def is_one_colour(pixels: NDArray[np.uint8]) -> bool:
    """Whether all of uint8[H, W, C] is the same: a blank frame, or what a broken pipeline makes of a picture."""
    first, middle = pixels[0, 0], pixels[len(pixels) // 2, pixels.shape[1] // 2]
    return first.tolist() == middle.tolist() and bool((pixels == first).all())


def decode_pixels(content: bytes, spec: PreprocessSpec, limits: InputLimits, name: str = "") -> NDArray[np.uint8]:
    """Return uint8[H, W, C] of an encoded picture, resized and in the spec's colour order. Raises as decode_image."""
    if spec.size is None or spec.color is None or spec.layout is None:
        raise ValueError("the preprocess spec must be resolved first")
    height, width = spec.size
    image = _resize(_convert(_load(content, spec, limits, name), spec, name), spec, (width, height))
    pixels = np.asarray(image)
    if spec.color == "L":
        return pixels[:, :, np.newaxis]
    return pixels[:, :, ::-1] if spec.color == "BGR" else pixels


def _load(content: bytes, spec: PreprocessSpec, limits: InputLimits, name: str) -> Image.Image:
    image = open_image(content, name, limits)
    try:
        if image.format == "PNG":
            # Pillow decodes a PNG without comparing all its checksums; verify() does, on an image of its own.
            Image.open(io.BytesIO(content), formats=FORMATS).verify()
        if spec.decoder == "draft" and spec.size:
            # A picture may be turned afterwards, so both sides must stay large enough for both.
            image.draft(None, (max(spec.size), max(spec.size)) if spec.exif else (spec.size[1], spec.size[0]))
        image.load()
    except DECODE_ERRORS as error:
        raise corrupt(name, error) from error
    return _turn(image) if spec.exif else image


def _turn(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG)
    except DECODE_ERRORS:
        return image
    turn = _TURNS.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


def _convert(image: Image.Image, spec: PreprocessSpec, name: str) -> Image.Image:
    mode = "L" if spec.color == "L" else "RGB"
    if image.mode.startswith("I;16"):
        image = _high_bytes(image, name)
    elif image.mode in _TRANSPARENT or (image.mode in _OPAQUE and "transparency" in image.info):
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, (0, 0, 0, 255)), layer).convert("RGB")
    elif image.mode not in _OPAQUE:
        raise ImageProblem(image=name, reason=f"pixels of mode {image.mode} are not 0 to 255")
    if mode == "L" and image.mode not in ("1", "L"):
        image = image.convert("RGB")
    return image if image.mode == mode else image.convert(mode)


def _high_bytes(image: Image.Image, name: str) -> Image.Image:
    bits = getattr(image, "tag_v2", {}).get(_BITS_TAG, (16,))
    if tuple(bits) != (16,):
        raise ImageProblem(image=name, reason=f"{bits[0]} bits a channel are not read")
    return Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))


def _resize(image: Image.Image, spec: PreprocessSpec, size: tuple[int, int]) -> Image.Image:
    resample = _RESAMPLES[spec.resample]
    if spec.resize == "stretch":
        return image.resize(size, resample)
    if spec.resize == "crop":
        return image.resize(size, resample, box=_middle_box(image.size, size))
    scale = min(size[0] / image.width, size[1] / image.height)
    inner = (
        min(size[0], max(1, round(image.width * scale))),
        min(size[1], max(1, round(image.height * scale))),
    )
    canvas = Image.new(image.mode, size)  # black
    canvas.paste(image.resize(inner, resample), ((size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2))
    return canvas


def _middle_box(have: tuple[int, int], want: tuple[int, int]) -> tuple[float, float, float, float]:
    # The largest box of the wanted shape, in the middle: the shorter side is kept whole.
    scale = max(want[0] / have[0], want[1] / have[1])
    width, height = min(have[0], want[0] / scale), min(have[1], want[1] / scale)
    left, top = (have[0] - width) / 2, (have[1] - height) / 2
    return left, top, min(have[0], left + width), min(have[1], top + height)
