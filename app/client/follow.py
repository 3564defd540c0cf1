"""A job's events from the first to the last, whatever happens to the connection."""

import time
from collections.abc import Iterator

from app.client.events import Event, events_from_lines, lines_from_chunks
from app.client.problems import ServerProblem, Unreachable
from app.client.transport import Call, Transport

ENDED_STATES = ("succeeded", "failed", "cancelled")

#: A server that is restarted is back within that.
_PATIENCE_SECONDS = 60.0
_PAUSE_SECONDS = 0.5
#: The server sends a ping at least every 15 seconds.
_READ_SECONDS = 45.0
_SERVER_ERROR = 500


class Follower:
    """Reads the events of the job at `path` and resumes after the last one that came."""

    def __init__(self, transport: Transport, path: str) -> None:
        self._transport = transport
        self._path = path
        self._last_id: str | None = None
        self._heard_at: float | None = None

    def events(self) -> Iterator[Event]:
        """Yield each event once, until the job has ended.

        Raises Unreachable when the first connection fails, or when a later one stays broken for 60 seconds, and
        ServerProblem.
        """
        while True:
            try:
                for event in self._stream():
                    yield event
                    if event.kind == "done":
                        return
                if self._has_ended():
                    return
            except (Unreachable, ServerProblem) as problem:
                self._bear(problem)
            time.sleep(_PAUSE_SECONDS)

    def _stream(self) -> Iterator[Event]:
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": self._last_id} if self._last_id else {})
        call = Call("GET", f"{self._path}/events", headers=headers, read_seconds=_READ_SECONDS)
        with self._transport.stream(call) as response:
            self._heard()
            for event in events_from_lines(lines_from_chunks(response.iter_bytes())):
                self._heard()
                self._last_id = event.id or self._last_id
                yield event

    def _has_ended(self) -> bool:
        # a proxy may hold the stream back; the document then says when it is over
        job = self._transport.json(Call("GET", self._path))
        self._heard()
        return job["state"] in ENDED_STATES

    def _heard(self) -> None:
        self._heard_at = time.monotonic()

    def _bear(self, problem: Unreachable | ServerProblem) -> None:
        if isinstance(problem, ServerProblem) and problem.status < _SERVER_ERROR:
            raise problem
        if self._heard_at is None or time.monotonic() - self._heard_at > _PATIENCE_SECONDS:
            raise problem
