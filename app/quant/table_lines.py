"""Lines of a table that came as text: UTF-8 without control characters, whatever ends them."""

from app.errors import TableProblem

MAX_CACHE_BYTES = 16 << 20


def lines_from_text(content: bytes) -> list[str]:
    """Return the lines of untrusted text, without those at the end that are empty. Raises TableProblem."""
    if len(content) > MAX_CACHE_BYTES:
        raise TableProblem(reason=f"a cache has at most {MAX_CACHE_BYTES} bytes, this one has {len(content)}")
    try:
        lines = content.decode("utf-8-sig").split("\n")  # editors on Windows put a mark in front
    except UnicodeDecodeError as error:
        raise TableProblem(reason=f"byte {error.start} is not UTF-8; save it as UTF-8 text") from None
    lines = [line.removesuffix("\r") for line in lines]
    while lines and not lines[-1]:
        lines.pop()
    if not lines:
        raise TableProblem(reason="the cache is empty")
    return lines


def check_line(number: int, line: str) -> None:
    """Raise TableProblem for a line that holds control characters."""
    if not line.isprintable():
        raise TableProblem(reason=f"line {number} holds control characters")
