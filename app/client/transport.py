"""One HTTP connection to one server: token, time limits, problems as exceptions, bounded retries."""

import ipaddress
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from app.client.problems import ClientProblem, ServerProblem, Unreachable, problem_from_response

DEFAULT_SERVER = "http://127.0.0.1:8000"

#: Seconds without a byte. Reading is long because an upload is inspected before it is answered.
_READ_SECONDS = 600.0

_RETRIED_STATUS = (429, 503)
_MAX_TRIES = 5
_MAX_PAUSE_SECONDS = 30.0
_FIRST_PAUSE_SECONDS = 0.5


@dataclass(frozen=True)
class Call:
    """One request. `content` makes the body anew for each try; `repeatable` says that sending it twice is the same."""

    method: str
    path: str
    params: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    json: Any = None
    content: Callable[[], Any] | None = None
    repeatable: bool = True
    read_seconds: float | None = None


class Transport:
    """Sends calls to the server at `url`. Raises ServerProblem and Unreachable only."""

    def __init__(self, url: str = DEFAULT_SERVER, token: str | None = None) -> None:
        self.url = url.rstrip("/")
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        # a proxy of the environment cannot lead to this machine's own server
        self._http = httpx.Client(
            base_url=_checked(self.url),
            headers=headers,
            timeout=_timeout(_READ_SECONDS),
            trust_env=not is_loopback(self.url),
        )

    def close(self) -> None:
        self._http.close()

    def send(self, call: Call) -> httpx.Response:
        """Return the answer, its body read. A repeatable call is tried up to 5 times on 429 and 503."""
        for attempt in range(_MAX_TRIES):
            try:
                return self._send_once(call)
            except ServerProblem as problem:
                if not call.repeatable or problem.status not in _RETRIED_STATUS or attempt == _MAX_TRIES - 1:
                    raise
                time.sleep(_pause_seconds(problem, attempt))
        raise AssertionError("unreachable: the last try returns or raises")

    def json(self, call: Call) -> Any:
        """Return the answer's JSON."""
        response = self.send(call)
        try:
            return response.json()
        except ValueError as error:
            raise ServerProblem({"detail": f"{self.url} is no Enginesmith server: no JSON came"}, 502) from error

    @contextmanager
    def stream(self, call: Call) -> Iterator[httpx.Response]:
        """Yield the answer with its body still to come. A break while it is read is Unreachable too."""
        with self._reaching(), self._http.stream(call.method, call.path, **_arguments(call)) as response:
            if response.is_error:
                response.read()
                raise problem_from_response(response)
            yield response

    def _send_once(self, call: Call) -> httpx.Response:
        with self._reaching():
            response = self._http.request(call.method, call.path, **_arguments(call))
        if not response.is_success:
            raise problem_from_response(response)
        return response

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except httpx.RequestError as error:
            raise Unreachable(self.url, str(error) or type(error).__name__) from error


def is_loopback(url: str) -> bool:
    """Return whether the URL's host is this machine itself."""
    host = httpx.URL(url).host
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _checked(url: str) -> httpx.URL:
    try:
        parsed = httpx.URL(url)
        if parsed.scheme in ("http", "https") and parsed.host and not parsed.query:
            return parsed
    except httpx.InvalidURL:
        pass
    raise ClientProblem(f"{url!r} is no server address. Give one like {DEFAULT_SERVER}.")


def _arguments(call: Call) -> dict[str, Any]:
    arguments: dict[str, Any] = {"headers": dict(call.headers)}
    # params={} would drop a query that is already in the path
    if call.params:
        arguments["params"] = {name: value for name, value in call.params.items() if value is not None}
    if call.json is not None:
        arguments["json"] = call.json
    if call.content is not None:
        arguments["content"] = call.content()
    if call.read_seconds is not None:
        arguments["timeout"] = _timeout(call.read_seconds)
    return arguments


def _timeout(read_seconds: float) -> httpx.Timeout:
    return httpx.Timeout(connect=5, read=read_seconds, write=120, pool=5)


def _pause_seconds(problem: ServerProblem, attempt: int) -> float:
    wished = problem.retry_after_seconds
    return min(_MAX_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2**attempt if wished is None else wished)
