"""Paths that stand in archives and models: what is safe, what is the same, what is litter."""

import re
import unicodedata

from app.errors import ArchiveUnsafePath

_DRIVE = re.compile(r"[A-Za-z]:")
#: Names that Windows opens as devices, whatever their extension.
_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)
#: Files that file managers leave behind, compared in lower case.
_LITTER = frozenset({".ds_store", "thumbs.db", "desktop.ini", "ehthumbs.db"})


def check_path(path: str, limit_bytes: int = 1024) -> str:
    """Return a member's path without its leading `./` and trailing `/`; the archive's root is "".

    Raises ArchiveUnsafePath for whatever could point outside, or be read differently by another system.
    """
    parts = path.removesuffix("/").split("/")
    while parts and parts[0] == ".":
        parts = parts[1:]
    reason = _find_path_fault(path, limit_bytes) or next(filter(None, map(_find_part_fault, parts)), None)
    if reason:
        raise ArchiveUnsafePath(member=path, reason=reason)
    return "/".join(parts)


def _find_path_fault(path: str, limit_bytes: int) -> str | None:
    if not path:
        return "it is empty"
    if path.startswith("/") or _DRIVE.match(path):
        return "it is absolute"
    if "\\" in path:
        return "it has a backslash"
    if any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in path):
        return "it has control characters"
    return f"it is longer than {limit_bytes} bytes" if len(path.encode()) > limit_bytes else None


def _find_part_fault(part: str) -> str | None:
    if not part:
        return "it has an empty part"
    if part in (".", ".."):
        return f"it has the part {part}"
    if part != part.rstrip(". "):
        return "a part of it ends in a dot or blank"
    if len(part.encode()) > 255:
        return "a part of it is longer than 255 bytes"
    if ":" in part or _DEVICE.fullmatch(part):
        return "a part of it is no file name on Windows"
    return None


def same_name_key(path: str) -> str:
    """Return what two paths share that some file systems take for one (Unicode NFC)."""
    return unicodedata.normalize("NFC", path)


def is_litter(path: str) -> bool:
    """Tell whether a file manager left this member behind: __MACOSX, ._name, .DS_Store, Thumbs.db."""
    parts = path.split("/")
    return parts[0] == "__MACOSX" or parts[-1].startswith("._") or parts[-1].lower() in _LITTER
