"""The root of the tree: a problem has a status, a slug, facts, and a message that says what to do."""

import inspect
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

_MAX_FACT_CHARACTERS = 400
_MAX_LISTED = 100


def printable(fact: object) -> str:
    """Return fact as one line that is safe in logs, headers and terminals, cut to 400 characters."""
    if isinstance(fact, (list, tuple)):
        fact = ", ".join(str(item) for item in fact[:8]) + (f" and {len(fact) - 8} more" if len(fact) > 8 else "")
    text = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in str(fact))
    return text if len(text) <= _MAX_FACT_CHARACTERS else text[:_MAX_FACT_CHARACTERS] + "..."


def words_of(error: Exception, file: Path | None = None) -> str:
    """Return what a runtime says in one line; the file that it was given, and those beside it, by their names alone."""
    words = " ".join(str(error).split())
    return words.replace(f"{file.parent}{os.sep}", "") if file is not None else words


class Problem(Exception):
    """Something failed inside the service. Try again; if it stays, the server's log names this request: {reason}"""

    status: ClassVar[int] = 500
    slug: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False

    def __init__(self, **facts: Any) -> None:
        self.facts = facts
        template = " ".join((inspect.getdoc(type(self)) or "").split())
        self.detail = template.format(**{name: printable(fact) for name, fact in facts.items()})
        super().__init__(self.detail)

    @property
    def title(self) -> str:
        return self.slug.replace("-", " ").capitalize()

    @property
    def code(self) -> str:
        """The code of a failed job."""
        return self.slug.replace("-", "_")

    def to_job_error(self) -> dict[str, Any]:
        """Return the `error` of a job that failed with this problem."""
        return {"code": self.code, "detail": self.detail, "retryable": self.retryable}

    def to_json(self) -> dict[str, Any]:
        """Return what another process needs to raise the same problem again (`problem_from_json`)."""
        facts = {name: _bounded(fact) for name, fact in self.facts.items()}
        return {"slug": self.slug, "facts": facts, "detail": self.detail}


def _bounded(fact: Any) -> Any:
    if isinstance(fact, (list, tuple)):
        return [_bounded(item) for item in fact[:_MAX_LISTED]]
    return fact if isinstance(fact, (int, float, bool)) or fact is None else printable(fact)


def problem_from_json(value: dict[str, Any]) -> Problem:
    """Return the problem that a child reported; an unknown slug becomes the root with the child's words."""
    kind = next((kind for kind in all_problems() if kind.slug == value["slug"]), None)
    return kind(**value["facts"]) if kind else Problem(reason=value["detail"])


def all_problems(root: type[Problem] = Problem) -> Iterator[type[Problem]]:
    """Yield every class of the tree, the root first."""
    yield root
    for child in root.__subclasses__():
        yield from all_problems(child)
