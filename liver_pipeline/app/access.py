"""Who is let in: a token as Jupyter has it, the right Host header, no other site's scripts."""

from __future__ import annotations

import secrets
from collections.abc import Collection
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
CAREFUL_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "SAMEORIGIN",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Guard:
    """Answers 403 to a foreign Host header or Origin, 401 without the token; adds headers that keep browsers careful.

    The token comes as ``?token=`` (which becomes a cookie that scripts cannot read), as that cookie, or as
    ``Authorization: Bearer``. Checking the Host keeps a web site out whose name was pointed at this machine.

    Args:
        app: What is behind it.
        token: The secret.
        hosts: Names under which the app may be asked for, without a port.
        cookie: Name of the cookie; browsers share cookies among the ports of a host.
    """

    def __init__(self, app: ASGIApp, token: str, hosts: Collection[str], cookie: str) -> None:
        self.app = app
        self.token = token
        self.hosts = frozenset(host.lower() for host in hosts)
        self.cookie = cookie

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        refusal = self._refusal(scope, headers)
        if refusal is not None:
            await refusal(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                found = MutableHeaders(scope=message)
                for name, value in CAREFUL_HEADERS.items():
                    found.setdefault(name, value)
            await send(message)

        await self.app(scope, receive, guarded)

    def _refusal(self, scope: Scope, headers: Headers) -> JSONResponse | RedirectResponse | None:
        host = headers.get("host", "").lower()
        if scope["type"] != "http" or _without_port(host) not in self.hosts:
            return _answer(403, "FOREIGN_HOST", "the app is not asked for under this name; see --host")
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc.lower() != host:
            return _answer(403, "FOREIGN_ORIGIN", "another web site asks")
        query = parse_qsl(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True)
        asked = dict(query).get("token")
        if asked is not None and self._right(asked) and scope["method"] == "GET":
            rest = urlencode([pair for pair in query if pair[0] != "token"])
            to = RedirectResponse("/" + scope["path"].lstrip("/") + (f"?{rest}" if rest else ""), 303, CAREFUL_HEADERS)
            to.set_cookie(self.cookie, self.token, httponly=True, samesite="strict")
            return to
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        given = (asked or "", bearer if scheme.lower() == "bearer" else "", self._cookie_of(headers))
        if not any(map(self._right, given)):
            return _answer(401, "NO_TOKEN", "open the address that `liver-pipeline app` printed, with its token")
        return None

    def _right(self, given: str) -> bool:
        return secrets.compare_digest(given.encode("utf-8", "replace"), self.token.encode())

    def _cookie_of(self, headers: Headers) -> str:
        try:
            cookies: SimpleCookie = SimpleCookie(headers.get("cookie", ""))
        except CookieError:
            return ""
        return cookies[self.cookie].value if self.cookie in cookies else ""


def _without_port(host: str) -> str:
    return host.partition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0]


def _answer(status: int, code: str, detail: str) -> JSONResponse:
    return JSONResponse({"code": code, "detail": detail}, status, CAREFUL_HEADERS)
