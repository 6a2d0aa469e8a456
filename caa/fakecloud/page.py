"""The page at `/`: what the cloud has in its books, live, for a person with a browser.

It is plain files, and shows what /local/events tells it.
"""

from collections.abc import Awaitable, Callable
from importlib import resources

from aiohttp import hdrs, web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_FILES = {
    "index.html": "text/html",
    "page.css": "text/css",
    "page.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}
_HEADERS = {
    # Names and parameters that the page shows come from callers. It makes text of them; this is what holds
    # if it should ever fail to: nothing from elsewhere, nothing inline, and no markup out of strings.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


class Page:
    def __init__(self) -> None:
        folder = resources.files("caa.fakecloud") / "static"
        self._files = {name: (folder / name).read_bytes() for name in _FILES}

    def routes(self) -> list[web.RouteDef]:
        """What the page loads."""
        return [web.get("/page/{name}", self._file)]

    def or_else(self, api: Handler) -> Handler:
        """The handler of `/`: the page for a browser that just goes there, `api` for all else."""

        async def handle(request: web.Request) -> web.StreamResponse:
            return self._answer("index.html") if _wants_page(request) else await api(request)

        return handle

    async def _file(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name not in _FILES:
            raise web.HTTPNotFound
        return self._answer(name)

    def _answer(self, name: str) -> web.Response:
        return web.Response(
            body=self._files[name], content_type=_FILES[name], charset="utf-8", headers=_HEADERS
        )


def _wants_page(request: web.Request) -> bool:
    """A browser asks for text/html, no SDK does; a call of the API has a query or one of the headers."""
    return (
        request.method in ("GET", "HEAD")
        and "text/html" in request.headers.get(hdrs.ACCEPT, "")
        and not request.query_string
        and request.headers.keys().isdisjoint(("Authorization", "x-acs-action"))
    )
