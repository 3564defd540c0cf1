"""Who may come in: tokens where there are any; on a token-free loopback, nobody whom another web page sent."""

import hashlib
import hmac
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.problems import problem_response
from app.errors import EncodedBody, ForeignOrigin, PayloadTooLarge, Problem, Unauthenticated
from app.quant.foreign import MAX_TABLE_BYTES
from app.settings import LOOPBACK, Settings

_OPEN_PATHS = frozenset({"/healthz", "/readyz"})
_UPLOAD_PATHS = ("/v1/models", "/v1/datasets", "/v1/engines", "/v1/tables/migrate")
_TABLE_PATH = "/v1/tables/import"
#: Of bodies that are no uploads.
MAX_JSON_BYTES = 1 << 20


class Guard:
    """ASGI middleware; pure ASGI, because a response that streams must not be buffered on its way."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app, self._settings = app, settings
        self._tokens = [_hashed(token.get_secret_value()) for token in settings.tokens]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        try:
            self._admit(scope, headers)
            limit = self._limit(scope, headers)
        except Problem as problem:
            return await problem_response(problem)(scope, receive, send)
        return await self._app(scope, _bounded(receive, limit), send)

    def _admit(self, scope: Scope, headers: dict[str, str]) -> None:
        if scope["path"] in _OPEN_PATHS:
            return
        if self._tokens:
            scheme, _, token = headers.get("authorization", "").partition(" ")
            given = _hashed(token.strip())
            if scheme.lower() != "bearer" or not any(hmac.compare_digest(given, token) for token in self._tokens):
                raise Unauthenticated
        else:
            _refuse_foreigners(headers)

    def _limit(self, scope: Scope, headers: dict[str, str]) -> int:
        encoding = headers.get("content-encoding", "identity")
        if encoding != "identity":
            raise EncodedBody(encoding=encoding)
        is_upload = scope["path"].startswith(_UPLOAD_PATHS)
        limit = self._settings.max_upload_bytes if is_upload else MAX_JSON_BYTES
        if scope["path"] == _TABLE_PATH:
            limit = MAX_TABLE_BYTES
        declared = headers.get("content-length", "0")
        if not declared.isdecimal() or int(declared) > limit:
            raise PayloadTooLarge(limit_bytes=limit)
        return limit


def _refuse_foreigners(headers: dict[str, str]) -> None:
    host = headers.get("host", "")
    if _host_name(f"//{host}") not in LOOPBACK:
        raise ForeignOrigin(reason=f"Host is {host}")
    origin = headers.get("origin")
    if origin is not None and _host_name(origin) not in LOOPBACK:
        raise ForeignOrigin(reason=f"Origin is {origin}")
    if headers.get("sec-fetch-site") == "cross-site":
        raise ForeignOrigin(reason="Sec-Fetch-Site is cross-site")


def _host_name(address: str) -> str | None:
    try:
        return urlsplit(address).hostname
    except ValueError:
        return None


def _bounded(receive: Receive, limit: int) -> Receive:
    received = 0

    async def bounded() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > limit:
            raise PayloadTooLarge(limit_bytes=limit)
        return message

    return bounded


def _hashed(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
