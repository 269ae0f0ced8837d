"""What browsers may do with an answer: fields of the head that every answer has."""

from __future__ import annotations

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.config import Settings
from api.front.site import Site

# An answer is no page: a browser that is led to it runs nothing, and shows it in no frame.
SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
# What a script of an allowed page may read, beside the fields that it always may.
RATES = [f"X-RateLimit-{what}" for what in ("Limit", "Remaining", "Reset")]
EXPOSED = [
    *("ETag", "Location", "Retry-After", "WWW-Authenticate", "X-Request-Id"),
    *(f"{rate}-{kind}" for rate in RATES for kind in ("Requests", "Tokens")),
]
ONLY_TLS = "max-age=31536000"  # seconds: a year (RFC 6797)


class SecurityHeadersMiddleware:
    """Adds the fields that an answer does not set itself, as the pages do."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
                if scope["scheme"] == "https" and not _on_localhost(scope):
                    headers["Strict-Transport-Security"] = ONLY_TLS
            await send(message)

        await self.app(scope, receive, send_with_headers)


def _on_localhost(scope: Scope) -> bool:
    """There, the field would keep the user from every other server of the machine that has no TLS."""
    name = Headers(scope=scope).get("host", "").partition(":")[0]
    return name.lower().rstrip(".") == "localhost"


class PagesMiddleware(CORSMiddleware):
    """Leaves requests under other names than this server's to the routes, which refuse them."""

    def __init__(self, app: ASGIApp, origins: list[str], site: Site) -> None:
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"],
            allow_headers=["*"],
            expose_headers=EXPOSED,
            allow_private_network=True,  # a page of the internet may ask a server in the user's own network
        )
        self._site = site

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        hosts = Headers(scope=scope).getlist("host") if scope["type"] == "http" else []
        if all(map(self._site.answers_as, hosts)):
            await super().__call__(scope, receive, send)
        else:
            await self.app(scope, receive, send)


def cors(settings: Settings, site: Site) -> list[Middleware]:
    """For the pages of `LMAAS_CORS_ORIGINS`; without it no page of another origin can read an answer.

    Cookies are not in use: a page sends its key itself. api/front/site.py refuses all other pages.
    """
    if not settings.page_origins:
        return []
    return [Middleware(PagesMiddleware, origins=settings.page_origins, site=site)]
