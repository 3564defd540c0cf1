"""What a client can run into. Each message says what to do.

ClientProblem
├── ServerProblem      the server answered with a problem document
├── Unreachable        no answer came
├── LocalProblem       a file or folder on this side
├── DownloadDamaged    bytes that do not have their digest
└── JobFailed          a job that had to succeed did not
"""

from typing import Any

import httpx


class ClientProblem(Exception):
    """Root of all that the client raises; its text is for people."""

    code = "client-problem"

    @property
    def document(self) -> dict[str, Any]:
        """Return the problem as JSON: `{code, detail}`, and more where the server said more."""
        return {"code": self.code, "detail": str(self)}


class ServerProblem(ClientProblem):
    """An answer of 400 or above. `retry_after_seconds` is the server's wish, None without one."""

    def __init__(self, document: dict[str, Any], status: int, retry_after_seconds: float | None = None) -> None:
        self.status = status
        self.code = str(document.get("code") or f"http-{status}")
        self.detail = str(document.get("detail") or document.get("title") or f"the server answered {status}")
        self.retry_after_seconds = retry_after_seconds
        self._document = document
        super().__init__(self.detail)

    @property
    def document(self) -> dict[str, Any]:
        return {**self._document, "code": self.code, "status": self.status, "detail": self.detail}


class Unreachable(ClientProblem):
    """No answer came from the server: it does not run, is somewhere else, or the connection broke."""

    code = "unreachable"

    def __init__(self, server: str, reason: str) -> None:
        super().__init__(f"Cannot reach {server}: {reason}. Start one with `enginesmith serve`, or name another with --server.")


class LocalProblem(ClientProblem):
    """A file or folder of this machine that cannot be used."""

    code = "local-file"


class DownloadDamaged(ClientProblem):
    """What arrived does not have the digest that the server named; nothing was kept."""

    code = "download-damaged"

    def __init__(self, path: str, expected: str, actual: str) -> None:
        super().__init__(f"{path} arrived with sha256 {actual}, not {expected}; nothing was kept. Download it again.")


class JobFailed(ClientProblem):
    """A job failed or was cancelled where its result was needed."""

    code = "job-failed"

    def __init__(self, job: dict[str, Any]) -> None:
        said = (job.get("error") or {}).get("detail", "")
        super().__init__(f"Job {job['id']} {job['state']}. {said}".strip())


def problem_from_response(response: httpx.Response) -> ServerProblem:
    """Return the problem of an answer whose body was read; a body that is no problem document is quoted, cut."""
    try:
        document = response.json()
    except ValueError:
        document = None
    if not isinstance(document, dict):
        said = " ".join(response.text.split())[:200]
        document = {"detail": f"{response.url} answered {response.status_code}{': ' + said if said else ''}"}
    return ServerProblem(document, response.status_code, _retry_after(response))


def _retry_after(response: httpx.Response) -> float | None:
    # the other form, a date, is not used by our server and counts as no wish
    value = response.headers.get("retry-after", "")
    return float(value) if value.isdecimal() else None
