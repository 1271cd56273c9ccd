"""The server's gate: decides which requests are answered, and what a browser may load on its page."""

import hmac
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse

__all__ = ["HEADER", "Gate"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

HEADER = "x-difftrack"
"""Header of every request below /api: the token, or any text if no token is required. Browsers let pages of other sites
send it only with this server's permission, which it never gives.
"""

LOCAL_HOSTS = ("127.0.0.1", "localhost", "[::1]")

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors {ancestors}"
)


class Gate:
    """Refuse requests from other pages, and forbid browsers to load content from elsewhere.

    Args:
        app: The protected application.
        token: Required in every request below /api; None accepts any page of this server.
        local: Whether the server only listens on a local address: then other host names, which a foreign page may point
            to this machine, are refused.
        framed: Whether a notebook on this machine may embed the page.
    """

    def __init__(self, app: Application, *, token: str | None, local: bool, framed: bool) -> None:
        self._app = app
        self._token = token
        self._local = local
        ancestors = "http://localhost:* http://127.0.0.1:* vscode-webview:" if framed else "'none'"
        self._headers = {
            "content-security-policy": _POLICY.format(ancestors=ancestors),
            "cross-origin-resource-policy": "same-origin",
            "referrer-policy": "no-referrer",
            "x-content-type-options": "nosniff",
            **({} if framed else {"x-frame-options": "DENY"}),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(self._headers)
            await send(message)

        refusal = self._refusal(Headers(scope=scope), scope["path"])
        answer = self._app if refusal is None else refusal
        await answer(scope, receive, with_headers)

    def _refusal(self, headers: Headers, path: str) -> JSONResponse | None:
        host = headers.get("host", "")
        if self._local and host.rpartition(":")[0] not in LOCAL_HOSTS and host not in LOCAL_HOSTS:
            return JSONResponse({"error": f"this server does not answer for {host[:100]!r}"}, status_code=421)
        if not path.startswith("/api/"):
            return None
        given = headers.get(HEADER)
        if given is None or (self._token is not None and not hmac.compare_digest(given.encode(), self._token.encode())):
            return JSONResponse(
                {"error": "the token is missing or wrong; open the link that `difftrack explore` printed"},
                status_code=401,
            )
        return None
