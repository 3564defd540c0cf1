"""A download that survives broken connections, is checked, and appears in one piece or not at all."""

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path

import httpx

from app.client.problems import DownloadDamaged, LocalProblem, ServerProblem, Unreachable
from app.client.transport import Call, Transport
from app.client.upload import Progress, ignore_progress

_MAX_BREAKS = 5
_PAUSE_SECONDS = 0.5
_READ_SECONDS = 60.0
_RANGE_REFUSED = 416


@dataclass(frozen=True)
class Download:
    """What to fetch: the address, the sha256 hex that it must have, and where it goes."""

    path: str
    digest: str
    destination: Path
    progress: Progress = ignore_progress

    @property
    def part(self) -> Path:
        """The file that grows: named after the digest, so that only the same bytes are ever continued."""
        return self.destination.with_name(f".{self.destination.name}.{self.digest[:16]}.part")


def fetch(transport: Transport, download: Download) -> Path:
    """Download to `destination`, going on from what an earlier try left, and rename it into place.

    Raises DownloadDamaged, Unreachable after 5 breaks in a row that brought nothing, LocalProblem, ServerProblem.
    """
    try:
        _fetch_part(transport, download)
        actual = _digest(download.part)
        if actual != download.digest:
            download.part.unlink()
            raise DownloadDamaged(str(download.destination), download.digest, actual)
        return download.part.replace(download.destination)
    except OSError as error:
        raise LocalProblem(f"Cannot write {download.destination}: {error.strerror}.") from error


def _fetch_part(transport: Transport, download: Download) -> None:
    breaks = 0
    while True:
        before = _size(download.part)
        try:
            _continue_part(transport, download)
            return
        except Unreachable:
            breaks = breaks + 1 if _size(download.part) <= before else 1
            if breaks == _MAX_BREAKS:
                raise
            time.sleep(_PAUSE_SECONDS * breaks)
        except ServerProblem as problem:
            # the part is as long as the whole, or longer: its digest says whether it is the whole
            if problem.status != _RANGE_REFUSED or not before:
                raise
            return


def _continue_part(transport: Transport, download: Download) -> None:
    have = _size(download.part)
    headers = {"Accept-Encoding": "identity"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": f'"{download.digest}"'}
    call = Call("GET", download.path, headers=headers, read_seconds=_READ_SECONDS)
    with transport.stream(call) as response:
        _check_etag(response, download)
        have = have if response.status_code == httpx.codes.PARTIAL_CONTENT else 0
        _write(response, download, have)


def _write(response: httpx.Response, download: Download, have: int) -> None:
    total = have + int(response.headers.get("content-length", 0))
    with download.part.open("ab" if have else "wb") as stream:
        download.progress(have, total)
        # as they come: a chunk size would hold bytes back, which a break then loses
        for chunk in response.iter_bytes():
            stream.write(chunk)
            have += len(chunk)
            download.progress(have, total)


def _check_etag(response: httpx.Response, download: Download) -> None:
    etag = response.headers.get("etag", "").removeprefix("W/").strip('"')
    if etag and etag != download.digest:
        raise DownloadDamaged(str(download.destination), download.digest, etag)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
