"""Server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html), as far as a job's story needs."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Event:
    """One event of a job: kind is stage, progress, log or done; `id` is what Last-Event-ID resumes after."""

    kind: str
    body: dict[str, Any]
    id: str | None = None


def lines_from_chunks(chunks: Iterable[bytes]) -> Iterator[str]:
    """Yield the lines of a stream without their ends; a last line that was cut off is dropped.

    Only \\n and \\r\\n end a line: str.splitlines would break a log line at U+2028 as well.
    """
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line.removesuffix(b"\r").decode("utf-8", "replace")


def events_from_lines(lines: Iterable[str]) -> Iterator[Event]:
    """Yield the events of a stream given line by line, without line ends.

    An event that is cut off before its empty line is dropped, as the standard asks; comments (pings) and events
    whose data is no JSON object are skipped.
    """
    fields: dict[str, str] = {}
    last_id: str | None = None
    for line in lines:
        if line:
            _add_field(fields, line)
            continue
        last_id = fields.get("id", last_id)
        body = _body_from_text(fields.get("data"))
        if body is not None:
            yield Event(fields.get("event", "message"), body, last_id)
        fields = {}


def _add_field(fields: dict[str, str], line: str) -> None:
    name, _, value = line.partition(":")
    value = value.removeprefix(" ")
    if name == "data" and "data" in fields:
        value = f"{fields['data']}\n{value}"
    if name in ("id", "event", "data"):
        fields[name] = value


def _body_from_text(text: str | None) -> dict[str, Any] | None:
    try:
        body = json.loads(text or "")
    except ValueError:
        return None
    return body if isinstance(body, dict) else None
