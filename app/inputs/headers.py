"""What a picture's header says, without decoding a pixel."""

import io
import struct
import zlib
from typing import Any

from PIL import Image, ImageFile

from app.errors import ImageCorrupt, ImageTooLarge
from app.inputs.limits import InputLimits
from app.inputs.listing import UNREADABLE

#: The closed list of formats, as Pillow calls them.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP")

#: What Pillow's readers raise on bytes that are not as they should be: their tree has no common root.
DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    AssertionError,
    EOFError,
    RuntimeError,
    MemoryError,
    struct.error,
    zlib.error,
)

_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def begins_like_image(head: bytes) -> bool:
    """Tell whether the first 12 bytes of a file are those of a format on the list."""
    return head.startswith(_MAGIC) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")


def read_header(content: bytes, name: str, limits: InputLimits) -> dict[str, Any]:
    """Return {"width", "height", "format", "mode"} of an image; format "unreadable" where its header is damaged.

    Raises ImageTooLarge.
    """
    try:
        with open_image(content, name, limits) as image:
            return {"width": image.width, "height": image.height, "format": image.format, "mode": image.mode}
    except ImageCorrupt:
        return {"width": 0, "height": 0, "format": UNREADABLE, "mode": ""}


def open_image(content: bytes, name: str, limits: InputLimits) -> ImageFile.ImageFile:
    """Return the image with its header read and its size checked. Raises ImageTooLarge and ImageCorrupt."""
    # Pillow checks a second time where it makes buffers from other sizes than the image's (tiles, frames, canvas).
    Image.MAX_IMAGE_PIXELS = limits.image_pixels
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageTooLarge(image=name, pixels="too many", limit=limits.image_pixels) from error
    except DECODE_ERRORS as error:
        raise corrupt(name, error) from error
    if image.width * image.height > limits.image_pixels:
        raise ImageTooLarge(image=name, pixels=image.width * image.height, limit=limits.image_pixels)
    return image


def corrupt(name: str, reason: object) -> ImageCorrupt:
    """Return the problem of one image that cannot be decoded."""
    return ImageCorrupt(count=1, names=[f"{name} ({reason})"])
