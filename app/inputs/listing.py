"""The listing of a dataset: one entry for each image, sorted by path. Pure functions; nothing is parsed here.

An entry is {"path", "sha256", "offset", "size", "width", "height", "format", "mode"}, and once it is stored also
"pack", the digest of the file that holds its bytes at offset. The format of an image whose header cannot be read is
"unreadable", its width and height are 0.
"""

from collections.abc import Sequence
from typing import Any, TypeVar

from app import keys
from app.inputs.labels import LABELS_FILE, label_counts

Item = TypeVar("Item")

UNREADABLE = "unreadable"


def merge_listings(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Return old with new's images added; the same path and labels.txt are replaced. Both must carry "pack"."""
    files = {file["path"]: file for file in [*old["files"], *new["files"]]}
    labels_from = old if new["labels_txt"] is None else new
    return {
        "files": [files[path] for path in sorted(files)],
        "labels_txt": labels_from["labels_txt"],
        "labels_sha256": labels_from["labels_sha256"],
        "ignored": old["ignored"] + new["ignored"],
    }


def summary_from_listing(listing: dict[str, Any]) -> dict[str, Any]:
    """Return {"images", "bytes", "digest", "labels", "ignored"}. Raises LabelsInvalid."""
    return {
        "images": len(listing["files"]),
        "bytes": sum(file["size"] for file in listing["files"]),
        "digest": digest_from_listing(listing),
        "labels": label_counts(listing),
        "ignored": listing["ignored"],
    }


def digest_from_listing(listing: dict[str, Any]) -> str:
    """Return the dataset digest: of the images' and labels.txt's paths and bytes alone."""
    files = [(file["path"], file["sha256"]) for file in listing["files"]]
    if listing["labels_sha256"]:
        files.append((LABELS_FILE, listing["labels_sha256"]))
    return keys.dataset_digest(files)


def select_evenly(items: Sequence[Item], count: int | None) -> list[Item]:
    """Return count items, those at floor(i * n / count) of n (DESIGN 3.5); all where count is None or too large."""
    total = len(items)
    if count is None or count >= total:
        return list(items)
    return [items[index * total // count] for index in range(count)]


def spread_order(items: Sequence[Item]) -> list[Item]:
    """Return all items so that however few are taken from the front, they are spread evenly over the whole.

    The place of item j is floor(r * n / 2^b), r = the b bits of j reversed (van der Corput), places met before left
    out. So the first 2^m are those that `select_evenly` takes, and each further 2^m fall between them.
    """
    bits = max(len(items) - 1, 0).bit_length()
    places = dict.fromkeys(_reversed_bits(number, bits) * len(items) >> bits for number in range(1 << bits))
    return [items[place] for place in places] if items else []


def _reversed_bits(number: int, bits: int) -> int:
    return int(format(number, f"0{bits}b")[::-1], 2) if bits else 0
