"""What every command has at hand: the global options, the screen, a client, and the exit codes."""

from dataclasses import dataclass
from typing import Any

import typer

from app.client.client import Client
from app.client.problems import ClientProblem, JobFailed, ServerProblem, Unreachable
from app.client.screen import Screen

DONE, JOB_FAILED, USAGE, GATE_MISSED, CANNOT_REACH, INTERRUPTED = 0, 1, 2, 3, 4, 130

#: What a proxy says for a server behind it that does not answer, and what ours says when it cannot work now.
_AWAY_STATUS = (502, 503, 504)
_SERVER_ERROR = 500


@dataclass(frozen=True)
class Session:
    """One run of the command line."""

    server: str
    token: str | None
    screen: Screen

    def client(self) -> Client:
        """Return a client of the chosen server; use it in a `with`."""
        return Client(self.server, self.token)


def session_of(context: typer.Context) -> Session:
    """Return the session that the global options made."""
    assert isinstance(context.obj, Session)
    return context.obj


def exit_code_from_problem(problem: ClientProblem) -> int:
    """Return 4 where nobody answered, 2 for what the caller can mend, 1 for a failed job or server."""
    if isinstance(problem, Unreachable):
        return CANNOT_REACH
    if isinstance(problem, JobFailed):
        return JOB_FAILED
    if isinstance(problem, ServerProblem) and problem.status >= _SERVER_ERROR:
        return CANNOT_REACH if problem.status in _AWAY_STATUS else JOB_FAILED
    return USAGE


def exit_code_from_job(job: dict[str, Any]) -> int:
    """Return 0 for a job that succeeded, 3 for one that missed its gate, else 1."""
    if job["state"] == "succeeded":
        return DONE
    return GATE_MISSED if (job.get("error") or {}).get("code") == "gate_missed" else JOB_FAILED
