"""A JobSpec of what a form or a query asks for: a problem says what is wrong with it."""

import json
from typing import Any

from pydantic import ValidationError

from app.errors import SpecProblem
from app.errors.validation import words_from_errors
from app.spec import JobSpec


def spec_from_fields(fields: dict[str, Any]) -> JobSpec:
    """Return the spec of these fields. Raises SpecProblem."""
    try:
        return JobSpec.model_validate(fields)
    except ValidationError as error:
        raise SpecProblem(reason=words_from_errors(error.errors()[:1])) from error


def preprocess_from_text(text: str | None) -> dict[str, Any]:
    """Return a spec's field preprocess, of JSON text or a preset's name; no field for None. Raises SpecProblem."""
    if text is None:
        return {}
    if not text.lstrip().startswith("{"):
        return {"preprocess": text}
    try:
        return {"preprocess": json.loads(text)}
    except (ValueError, RecursionError) as error:
        raise SpecProblem(reason=f"preprocess is neither a preset's name nor JSON ({error})") from error
