"""Every error leaves as application/problem+json (RFC 9457)."""

from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from app.errors import (
    AddressUnknown,
    MethodNotAllowed,
    Problem,
    QueryProblem,
    RequestProblem,
    SpecProblem,
    Unauthenticated,
    printable,
)
from app.errors.validation import words_from_errors

log = structlog.get_logger()
_RESERVED = frozenset({"type", "title", "status", "detail", "instance", "code"})
_RETRY_AFTER_SECONDS = "5"


def problem_response(problem: Problem) -> JSONResponse:
    """Return the response that tells a problem."""
    facts = {name: _plain(fact) for name, fact in problem.facts.items() if name not in _RESERVED}
    body = {
        **facts,
        "type": f"urn:enginesmith:problem:{problem.slug}",
        "title": problem.title,
        "status": problem.status,
        "detail": problem.detail,
        "code": problem.slug,
    }
    headers = {"Retry-After": _RETRY_AFTER_SECONDS} if problem.status == 503 else {}
    if isinstance(problem, Unauthenticated):
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(body, problem.status, headers, media_type="application/problem+json")


def install_problem_handlers(app: FastAPI) -> None:
    """Make the app answer every exception with a problem document."""
    app.add_exception_handler(Problem, _on_problem)
    app.add_exception_handler(RequestValidationError, _on_validation)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(ClientDisconnect, _on_disconnect)
    app.add_exception_handler(Exception, _on_unexpected)


async def _on_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    if error.status >= 500 and request.url.path != "/readyz":  # that one is asked until it is well
        log.warning("request failed", problem=error.slug, detail=error.detail)
    return problem_response(error)


async def _on_validation(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    if any(found["type"] == "json_invalid" for found in error.errors()):
        return problem_response(RequestProblem(reason="the body is not JSON"))
    kind = QueryProblem if all(found["loc"][0] == "query" for found in error.errors()) else SpecProblem
    # The first part of a place says that it is in the body or the query.
    told = [found | {"loc": found["loc"][1:]} for found in error.errors()[:8]]
    return problem_response(kind(reason=words_from_errors(told)))


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if isinstance(error.__cause__, Problem):
        return problem_response(error.__cause__)
    if error.status_code == 404:
        return problem_response(AddressUnknown(name=printable(request.url.path)))
    if error.status_code == 405:
        return problem_response(MethodNotAllowed())
    return problem_response(RequestProblem(reason=str(error.detail)))


async def _on_disconnect(_request: Request, _error: Exception) -> Response:
    log.info("client disconnected")
    return Response(status_code=400)


async def _on_unexpected(request: Request, error: Exception) -> Response:
    log.error("unexpected error", path=printable(request.url.path), exc_info=error)
    return problem_response(Problem(reason=type(error).__name__))


def _plain(fact: Any) -> Any:
    if isinstance(fact, (list, tuple)):
        return [_plain(item) for item in fact[:100]]
    if isinstance(fact, dict):
        return {printable(name): _plain(value) for name, value in list(fact.items())[:100]}
    return fact if isinstance(fact, (int, float, bool)) or fact is None else printable(fact)
