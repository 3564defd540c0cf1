"""multipart/form-data, streamed: files go to disk as they come, fields stay small. The sender's file names name nothing."""

from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from app.api.staging import Sink, Staged, check_length, read_chunks
from app.errors import MediaTypeUnsupported, PayloadTooLarge, RequestProblem
from app.settings import Settings

_MAX_FIELD_BYTES = 1 << 20
_MAX_PARTS = 16
_MAX_HEADER_BYTES = 16 << 10


@dataclass
class Form:
    """A parsed form: files on disk, fields as text, and what the sender called the files."""

    files: dict[str, Staged] = field(default_factory=dict)
    fields: dict[str, str] = field(default_factory=dict)
    file_names: dict[str, str] = field(default_factory=dict)

    def file(self, name: str) -> Staged:
        """Return the file of that field. Raises RequestProblem."""
        if name not in self.files:
            raise RequestProblem(reason=f"the form has no file {name}; with curl: -F {name}=@FILE")
        return self.files[name]

    def stem(self, name: str) -> str:
        """Return what the sender called a file, without folders and endings."""
        return PurePosixPath(self.file_names.get(name, "").replace("\\", "/")).name.split(".")[0]


@dataclass
class _Part:
    headers: dict[str, str] = field(default_factory=dict)
    name: str = ""
    sink: Sink | None = None
    text: bytearray = field(default_factory=bytearray)


class _Reader:
    """The parser's callbacks put events in a list; each chunk's events are then worked off, files asynchronously."""

    def __init__(self, folder: Path, fields: "Fields") -> None:
        self.form = Form()
        self._folder, self._fields = folder, fields
        self._events: list[tuple[str, bytes]] = []
        self._part = _Part()
        self._parts = 0
        self._header = [bytearray(), bytearray()]
        self.is_complete = False

    def callbacks(self) -> dict[str, object]:
        def spanned(kind: str) -> object:
            return lambda data, start, end: self._events.append((kind, bytes(data[start:end])))

        def plain(kind: str) -> object:
            return lambda: self._events.append((kind, b""))

        spans = {f"on_{kind}": spanned(kind) for kind in ("header_field", "header_value", "part_data")}
        marks = ("part_begin", "header_end", "headers_finished", "part_end", "end")
        return spans | {f"on_{kind}": plain(kind) for kind in marks}

    async def work_off(self) -> None:
        events, self._events = self._events, []
        for kind, data in events:
            if kind == "part_data":
                await self._take(data)
            else:
                self._mark(kind, data)

    def _mark(self, kind: str, data: bytes) -> None:
        if kind == "part_begin":
            self._begin()
        elif kind in ("header_field", "header_value"):
            self._add_header(kind == "header_value", data)
        elif kind == "header_end":
            name, value = (bytes(part).decode("utf-8", "replace") for part in self._header)
            self._part.headers[name.lower()] = value
            self._header = [bytearray(), bytearray()]
        elif kind == "headers_finished":
            self._open()
        elif kind == "part_end":
            self._end_part()
        else:
            self.is_complete = True

    def _begin(self) -> None:
        self._part = _Part()
        self._parts += 1
        if self._parts > _MAX_PARTS:
            raise RequestProblem(reason=f"the form has more than {_MAX_PARTS} parts")

    def _add_header(self, is_value: bool, data: bytes) -> None:
        self._header[is_value] += data
        if len(self._header[is_value]) > _MAX_HEADER_BYTES:
            raise RequestProblem(reason="a part of the form has too long a header")

    def _open(self) -> None:
        disposition, options = parse_options_header(self._part.headers.get("content-disposition", ""))
        self._part.name = options.get(b"name", b"").decode("utf-8", "replace")
        allowed = self._fields.files + self._fields.texts
        if disposition != b"form-data" or self._part.name not in allowed:
            raise RequestProblem(reason=f"the form may have the fields {', '.join(allowed)}, and not {self._part.name!r}")
        if self._part.name in self.form.files or self._part.name in self.form.fields:
            raise RequestProblem(reason=f"the field {self._part.name} is in the form twice")
        if self._part.name in self._fields.files:
            if b"filename" not in options:
                raise RequestProblem(reason=f"{self._part.name} is a file; with curl: -F {self._part.name}=@FILE")
            self.form.file_names[self._part.name] = options[b"filename"].decode("utf-8", "replace")
            self._part.sink = Sink(self._folder / f"part-{self._parts}")

    async def _take(self, data: bytes) -> None:
        if self._part.sink is not None:
            return await self._part.sink.write(data)
        self._part.text += data
        if len(self._part.text) > _MAX_FIELD_BYTES:
            raise PayloadTooLarge(limit_bytes=_MAX_FIELD_BYTES)
        return None

    def _end_part(self) -> None:
        if self._part.sink is not None:
            self.form.files[self._part.name] = self._part.sink.close()
        else:
            self.form.fields[self._part.name] = self._part.text.decode("utf-8", "replace")


@dataclass(frozen=True)
class Fields:
    """What a form may have: files, and texts (curl's `-F spec=@spec.json` sends a text with a file's name)."""

    files: tuple[str, ...]
    texts: tuple[str, ...]


async def stage_form(request: Request, settings: Settings, folder: Path, fields: Fields) -> Form:
    """Read the request's form, its files to disk in folder.

    Raises MediaTypeUnsupported, RequestProblem, and what `stage_body` raises.
    """
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind != b"multipart/form-data" or b"boundary" not in options:
        raise MediaTypeUnsupported(expected="multipart/form-data (curl -F)", received=kind.decode("latin-1") or "nothing")
    reader = _Reader(folder, fields)
    received = 0
    try:
        parser = MultipartParser(options[b"boundary"], reader.callbacks())  # type: ignore[arg-type]
        async for chunk in read_chunks(request, settings.upload_idle_seconds):
            received += len(chunk)
            parser.write(chunk)
            await reader.work_off()
    except FormParserError as error:
        raise RequestProblem(reason="the multipart form is malformed") from error
    check_length(request, received)
    if not reader.is_complete:
        raise RequestProblem(reason="the multipart form ends before its last boundary")
    return reader.form
