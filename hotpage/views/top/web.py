# SPDX-License-Identifier: Apache-2.0
"""``top --web``: textual-serve on the loopback interface, for who has the token and nobody else."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import secrets
import shlex
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from urllib.parse import urlsplit

from aiohttp import web
from textual_serve.server import Server

from hotpage.errors import UsageError

_HOST = "127.0.0.1"
_COOKIE = "hotpage-token"
_NOTHING_FROM_ELSEWHERE = "style-src 'self' 'unsafe-inline'; font-src 'self' data:"
"""textual-serve's page asks a public server for its font."""
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def serve(command: Sequence[str], port: int) -> int:
    """Serve the application that ``command`` runs, one process per browser page, until a signal ends it.

    Raises UsageError when the port is taken. Prints the address with its token once connections are accepted.
    """
    with _listen(port) as listener:
        server = _TokenServer(command, listener.getsockname()[1])
        logging.basicConfig(level=logging.WARNING, format="hotpage: %(message)s", stream=sys.stderr)
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(server.run(listener))
    return 0


def _listen(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((_HOST, port))
    except OSError as error:
        listener.close()
        raise UsageError(
            f"cannot listen on port {port}: {error.strerror}", "choose another --port"
        ) from error
    listener.listen()
    return listener


class _TokenServer(Server):
    """Asks for the token: in the address once, then in a cookie that no other site gets sent along.

    Browsers send a cookie to all ports of a host. So everything lies under a secret path, and the cookie is
    for that path alone: no other server on this machine gets it, nor does a second one of these replace it.
    """

    def __init__(self, command: Sequence[str], port: int) -> None:
        super().__init__(f"exec {shlex.join(command)}", host=_HOST, port=port, title="hotpage top")
        self.token = secrets.token_urlsafe(32)
        self._path = f"/{secrets.token_urlsafe(16)}"
        self._watching: set[asyncio.Task[object]] = set()

    async def run(self, listener: socket.socket) -> None:
        """Serve until SIGINT, SIGTERM or SIGHUP; on return every application has ended."""
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:
                asyncio.get_running_loop().add_signal_handler(number, stop.set)
        app = web.Application(middlewares=[self._check])
        app.add_subapp(self._path, await self._make_app())
        runner = web.AppRunner(app, handle_signals=False, shutdown_timeout=30.0)
        await runner.setup()
        await web.SockSite(runner, listener).start()
        try:
            print(f"hotpage: http://{_HOST}:{self.port}/?token={self.token}", flush=True)
            print(
                "hotpage: whoever has this address can watch, record and move pages; Ctrl-C ends it",
                file=sys.stderr,
                flush=True,
            )
            await stop.wait()
        finally:
            await runner.cleanup()

    async def on_startup(self, app: web.Application) -> None:
        """Say nothing: ``run`` says where to look."""

    async def on_shutdown(self, app: web.Application) -> None:
        """End the applications, and wait until they have put everything back."""
        for task in self._watching:
            task.cancel()
        await asyncio.gather(*self._watching, return_exceptions=True)

    async def handle_websocket(self, request: web.Request) -> web.WebSocketResponse:
        """Run an application for one browser page."""
        task = asyncio.current_task()
        assert task is not None
        self._watching.add(task)
        try:
            return await super().handle_websocket(request)
        finally:
            self._watching.discard(task)

    @web.middleware
    async def _check(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if not self._is_own(request):
            raise web.HTTPForbidden(text="not for requests from other sites\n")
        if self._matches(request.query.get("token", "")) and request.path == "/":
            if request.headers["Host"] != f"{_HOST}:{self.port}":
                # What the page loads is under the other name, for which there would be no cookie.
                raise web.HTTPFound(f"http://{_HOST}:{self.port}/?token={self.token}")
            # The address bar and the history keep no token.
            response = web.HTTPFound(f"{self._path}/")
            response.set_cookie(_COOKIE, self.token, path=self._path, httponly=True, samesite="Strict")
            raise response
        if not any(map(self._matches, _values(request.headers.get("Cookie", "")))):
            raise web.HTTPForbidden(text="wrong or missing token: use the address that hotpage printed\n")
        response_ = await handler(request)
        response_.headers.setdefault("Referrer-Policy", "no-referrer")
        response_.headers.setdefault("Content-Security-Policy", _NOTHING_FROM_ELSEWHERE)
        return response_

    def _matches(self, token: str) -> bool:
        return hmac.compare_digest(token.encode(errors="replace"), self.token.encode())

    def _is_own(self, request: web.Request) -> bool:
        """Under a name of this server (no rebound name), and from a page of its own, if from any."""
        names = {f"{_HOST}:{self.port}", f"localhost:{self.port}"}
        origin = request.headers.get("Origin")
        return request.headers.get("Host") in names and (origin is None or urlsplit(origin).netloc in names)


def _values(cookies: str) -> Iterator[str]:
    """What the cookies of our name hold. Others are passed over, however odd: any server on this machine may
    have set them, and http.cookies gives up at the first that it does not like.
    """
    for cookie in cookies.split(";"):
        name, _, value = cookie.partition("=")
        if name.strip() == _COOKIE:
            yield value.strip()
