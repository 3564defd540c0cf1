"""What pydantic found wrong, in one line for people."""

from collections.abc import Iterable, Mapping
from typing import Any

#: What pydantic puts before the words of our own validators.
_PREFIX = "Value error, "


def words_from_errors(errors: Iterable[Mapping[str, Any]]) -> str:
    """Return pydantic's errors in one line: each with its field, where it is of one."""
    return "; ".join(_words(error["loc"], error["msg"].removeprefix(_PREFIX)) for error in errors)


def _words(place: Iterable[int | str], message: str) -> str:
    name = ".".join(str(part) for part in place)
    return f"{name}: {message}" if name else message
