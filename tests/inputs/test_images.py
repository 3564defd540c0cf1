import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageSequence

from app import errors
from app.inputs.images import DECODER_VERSION, decode_image, decode_pixels
from app.inputs.limits import InputLimits
from app.spec import PreprocessSpec
from tests.inputs.pictures import encode, noise

LIMITS = InputLimits()
PLAIN = PreprocessSpec(size=(20, 30), color="RGB", layout="NHWC", scale=1.0)


def pixels(content: bytes, spec: PreprocessSpec = PLAIN, **changes: object) -> np.ndarray:
    return decode_pixels(content, spec.model_copy(update=changes), LIMITS, "a.png")


def one_colour(mode: str, colour: object) -> Image.Image:
    return Image.new(mode, (30, 20), colour)  # type: ignore[arg-type]


def with_transparency() -> bytes:
    image = Image.new("P", (30, 20), 1)
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((0, 0), 0)
    return encode(image, transparency=0)


DEEP_GREY = Image.fromarray(np.full((20, 30), 0x80FF, np.uint16))

#: Each mode, what a pixel of it becomes in RGB and in L.
GOLDEN = {
    "L": (encode(one_colour("L", 77)), (77, 77, 77), 77),
    "1-bit white": (encode(one_colour("1", 1)), (255, 255, 255), 255),
    "1-bit black": (encode(one_colour("1", 0)), (0, 0, 0), 0),
    "RGB": (encode(one_colour("RGB", (200, 100, 50))), (200, 100, 50), 124),
    "LA on black": (encode(one_colour("LA", (200, 51))), (40, 40, 40), 40),
    "RGBA on black": (encode(one_colour("RGBA", (200, 100, 50, 51))), (40, 20, 10), 25),
    "RGBA clear": (encode(one_colour("RGBA", (200, 100, 50, 0))), (0, 0, 0), 0),
    "P": (encode(one_colour("RGB", (200, 100, 50)).quantize(4)), (200, 100, 50), 124),
    "P with a transparent colour": (with_transparency(), (200, 100, 50), 124),
    "16-bit grey": (encode(DEEP_GREY), (128, 128, 128), 128),
    "16-bit grey TIFF": (encode(DEEP_GREY, "TIFF"), (128, 128, 128), 128),
    "CMYK": (encode(one_colour("CMYK", (55, 155, 205, 0)), "TIFF"), (200, 100, 50), 124),
    "CMYK JPEG": (encode(one_colour("CMYK", (0, 255, 255, 0)), "JPEG", quality=100), (255, 0, 0), 76),
    "L JPEG": (encode(one_colour("L", 77), "JPEG", quality=100), (77, 77, 77), 77),
    "GIF": (encode(one_colour("RGB", (200, 100, 50)), "GIF"), (200, 100, 50), 124),
    "BMP": (encode(one_colour("RGB", (200, 100, 50)), "BMP"), (200, 100, 50), 124),
    "WebP": (encode(one_colour("RGB", (200, 100, 50)), "WEBP", lossless=True), (200, 100, 50), 124),
}


@pytest.mark.parametrize("mode", GOLDEN)
def test_golden_pixel_of_each_mode(mode: str) -> None:
    content, rgb, grey = GOLDEN[mode]
    assert tuple(pixels(content)[10, 10]) == rgb
    assert tuple(pixels(content, color="BGR")[10, 10]) == rgb[::-1]
    assert pixels(content, color="L").shape == (20, 30, 1)
    assert pixels(content, color="L")[10, 10, 0] == grey


def test_transparent_palette_colour_becomes_black() -> None:
    assert tuple(pixels(with_transparency())[0, 0]) == (0, 0, 0)


def test_16_bits_a_colour_are_scaled() -> None:
    deep = np.full((20, 30, 3), 0x80FF, ">u2")
    raw = b"".join(b"\0" + row.tobytes() for row in deep)
    assert tuple(pixels(deep_png(raw))[0, 0]) == (128, 128, 128)


def deep_png(raw: bytes) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">L", len(content)) + kind + content + struct.pack(">L", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">2L5B", 30, 20, 16, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("mode", ["F", "I", "LAB"])
def test_modes_without_0_to_255_are_refused_by_name(mode: str) -> None:
    with pytest.raises(errors.ImageProblem, match=r"a\.png.*mode"):
        pixels(encode(Image.new(mode, (30, 20)), "TIFF"))


def test_value_is_pixel_times_scale_less_mean_by_std_in_float32() -> None:
    image = noise()
    spec = PLAIN.model_copy(
        update={"scale": 1 / 255, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "layout": "NCHW"}
    )
    values = decode_image(encode(image), spec, LIMITS)
    scaled = np.asarray(image).astype(np.float32) * np.float32(1 / 255)
    expected = (scaled - np.asarray(spec.mean, np.float32)) / np.asarray(spec.std, np.float32)
    assert values.dtype == np.float32
    assert values.shape == (3, 20, 30)
    assert values.flags.c_contiguous
    assert np.array_equal(values, expected.transpose(2, 0, 1))


def test_digit_keeps_its_bytes() -> None:
    image = noise(28, 28, 1)
    spec = PreprocessSpec(size=(28, 28), color="L", layout="NCHW")
    values = decode_image(encode(image), spec, LIMITS)
    assert np.array_equal(values[0], np.asarray(image).astype(np.float32) * np.float32(1 / 255))


@pytest.mark.parametrize("resample", ["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"])
def test_stretch_is_pillow_resize(resample: str) -> None:
    image = noise(50, 40)
    expected = np.asarray(image.resize((30, 20), Image.Resampling[resample.upper()]))
    assert np.array_equal(pixels(encode(image), resample=resample), expected)


def test_crop_keeps_the_middle_and_the_shape() -> None:
    image = Image.new("RGB", (120, 20), (255, 0, 0))
    image.paste((0, 255, 0), (45, 0, 75, 20))  # exactly the middle 30 columns
    assert np.array_equal(pixels(encode(image), resize="crop"), np.full((20, 30, 3), (0, 255, 0)))


def test_pad_puts_the_whole_picture_on_black() -> None:
    image = Image.new("RGB", (60, 20), (10, 20, 30))
    found = pixels(encode(image), resize="pad")
    assert np.array_equal(found[5:15], np.full((10, 30, 3), (10, 20, 30)))
    assert not found[:5].any()
    assert not found[15:].any()


@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
@pytest.mark.parametrize("size", [(1, 1), (1, 900), (900, 1)])
def test_extreme_shapes_become_the_wanted_one(resize: str, size: tuple[int, int]) -> None:
    assert pixels(encode(Image.new("RGB", size, (9, 9, 9))), resize=resize).shape == (20, 30, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_an_option(orientation: int) -> None:
    image = noise(20, 20)
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encode(image, exif=exif)
    rotations = {3: 2, 6: 3, 8: 1}
    plain = np.asarray(image)
    assert np.array_equal(pixels(content, size=(20, 20)), plain)
    turned = pixels(content, size=(20, 20), exif=True)
    if orientation in rotations:
        assert np.array_equal(turned, np.rot90(plain, rotations[orientation]))
    assert np.array_equal(turned, plain) == (orientation == 1)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_exif_that_cannot_be_read_counts_as_none() -> None:
    image = noise(20, 20)
    content = encode(image, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff garbage", quality=95)
    assert np.array_equal(pixels(content, exif=True), pixels(content))


def test_first_frame_of_animations() -> None:
    frames = [Image.new("RGB", (30, 20), (n * 100, 0, 0)) for n in range(1, 3)]
    for kind in ("GIF", "WEBP", "PNG", "TIFF"):
        content = encode(
            frames[0], kind, save_all=True, append_images=frames[1:], **({"lossless": True} if kind == "WEBP" else {})
        )
        assert len(list(ImageSequence.Iterator(Image.open(io.BytesIO(content))))) == 2
        assert tuple(pixels(content)[0, 0]) == (100, 0, 0)


def test_draft_is_close_to_exact_and_only_for_jpeg() -> None:
    smooth = noise(6, 9).resize((900, 600), Image.Resampling.BICUBIC)
    jpeg = encode(smooth, "JPEG", quality=95)
    exact, draft = pixels(jpeg).astype(int), pixels(jpeg, decoder="draft").astype(int)
    assert 0 < np.abs(exact - draft).mean() < 4
    assert np.array_equal(pixels(encode(smooth)), pixels(encode(smooth), decoder="draft"))


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow warns of a TIFF's directory before it fails
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP"])
def test_truncated_images_are_refused(kind: str) -> None:
    content = encode(noise(), kind)
    for length in range(0, len(content) * 9 // 10, max(1, len(content) // 40)):
        with pytest.raises(errors.ImageCorrupt, match=r"a\.png"):
            pixels(content[:length])


def test_any_flipped_bit_in_a_png_is_noticed() -> None:
    content = encode(noise(6, 6), optimize=True)
    untouched = pixels(content, size=(6, 6))
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 4
        try:
            found = pixels(bytes(changed), size=(6, 6))
        except errors.ImageProblem:
            continue
        assert np.array_equal(found, untouched), place


def test_image_above_the_limit_is_not_decoded() -> None:
    with pytest.raises(errors.ImageTooLarge):
        decode_pixels(encode(noise()), PLAIN, LIMITS.model_copy(update={"image_pixels": 500}), "a.png")


def test_decoder_version_names_pillow() -> None:
    assert f"pillow-{Image.__version__}" == DECODER_VERSION


def test_photo_as_draft(tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    content = encode(noise(64, 640), "JPEG", exif=turned)
    assert pixels(content, size=(320, 32), decoder="draft", exif=True).shape == (320, 32, 3)
