"""Class labels of a dataset, from its folders. Pure functions of a listing."""

from collections import Counter
from typing import Any

from app.errors import LabelsInvalid

LABELS_FILE = "labels.txt"


def labels_from_listing(listing: dict[str, Any]) -> dict[str, int] | None:
    """Return {path: class index}, or None where an image lies in no folder, or all lie in one that is no class.

    The class is the last folder of the path. Folders of digits only are the index itself; else the index is the line
    of the class in labels.txt, else its place in sorted order. Raises LabelsInvalid where labels.txt lacks a folder.
    """
    classes = {file["path"]: find_class(file["path"]) for file in listing["files"]}
    if not classes or None in classes.values() or _is_one_plain_folder(classes, listing):
        return None
    index = _index_from_classes({name for name in classes.values() if name}, listing.get("labels_txt"))
    return {path: index[name] for path, name in classes.items() if name}


def label_counts(listing: dict[str, Any]) -> dict[str, int] | None:
    """Return {class name: number of images} in the order of the class indices, or None without labels."""
    labels = labels_from_listing(listing)
    if labels is None:
        return None
    counts = Counter(find_class(path) or "" for path in labels)
    index = {find_class(path) or "": label for path, label in labels.items()}
    return {name: counts[name] for name in sorted(counts, key=lambda name: (index[name], name))}


def find_class(path: str) -> str | None:
    """Return the last folder of the path, or None at the root."""
    folders = path.split("/")[:-1]
    return folders[-1] if folders else None


def _index_from_classes(classes: set[str], lines: list[str] | None) -> dict[str, int]:
    if all(name.isascii() and name.isdigit() and len(name) < 10 for name in classes):
        return {name: int(name) for name in classes}
    if lines is None:
        return {name: index for index, name in enumerate(sorted(classes))}
    missing = sorted(classes - set(lines))
    if missing:
        raise LabelsInvalid(reason=f"it does not name {', '.join(missing[:8])}")
    return {name: index for index, name in enumerate(lines)}


def _is_one_plain_folder(classes: dict[str, str | None], listing: dict[str, Any]) -> bool:
    # photos/*.jpg is how people zip a folder, not a dataset of one class.
    only = next(iter(classes.values())) or ""
    return len(set(classes.values())) == 1 and not only.isdigit() and listing.get("labels_txt") is None


def parse_labels(content: bytes) -> list[str]:
    """Return the class names of a labels.txt, one a line. Raises LabelsInvalid for text that is not UTF-8 or repeats."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise LabelsInvalid(reason="it is not UTF-8 text") from error
    lines = [line.strip() for line in text.rstrip().splitlines()]
    repeated = [name for name, count in Counter(lines).items() if name and count > 1]
    if repeated:
        raise LabelsInvalid(reason=f"{repeated[0]} stands in it twice")
    return lines
