# SPDX-License-Identifier: Apache-2.0
"""top --web over loopback: who has the token sees the application, nobody else starts one."""

import asyncio
import http.client
import json
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from aiohttp import ClientSession, WSMsgType
from patience import PATIENCE_S

from hotpage.cli import top
from hotpage.views.top import web

ROOT = Path(__file__).parents[2]

# The application on a frozen session; it says when it starts and when it ends.
APPLICATION = """
    import sys
    sys.path[:0] = [{tests!r}, {unit!r}, {root!r}]
    from topfeed import frozen_feed
    from hotpage.views.top.app import TopApp
    log = open({log!r}, "a", buffering=1)
    log.write("started\\n")
    try:
        TopApp(frozen_feed()).run()
    finally:
        log.write("ended\\n")
"""
SERVER = """
    import sys
    sys.path[:0] = [{root!r}]
    from hotpage.views.top.web import serve
    sys.exit(serve([sys.executable, {application!r}], {port}))
"""


class Serving:
    """A server process, where it listens, its token, where that leads, and what its applications said."""

    def __init__(self, directory: Path, port: int = 0) -> None:
        self.log = directory / "log"
        self.log.touch()
        application, server = directory / "application.py", directory / "server.py"
        tests = ROOT / "tests"
        application.write_text(
            textwrap.dedent(APPLICATION).format(
                tests=str(tests), unit=str(tests / "unit"), root=str(ROOT), log=str(self.log)
            )
        )
        server.write_text(
            textwrap.dedent(SERVER).format(root=str(ROOT), application=str(application), port=port)
        )
        self.process = subprocess.Popen(
            [sys.executable, str(server)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("hotpage: http://127.0.0.1:"), line
        self.url = line.split()[1]
        parts = urlsplit(self.url)
        self.port = parts.port or 0
        self.token = parts.query.removeprefix("token=")
        self.home = self.get(f"/?token={self.token}").headers["Location"]

    def get(self, path: str, **headers: str) -> http.client.HTTPResponse:
        """A response; its body is kept in ``body``."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        self.body = response.read()
        connection.close()
        return response

    def await_said(self, words: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while words not in self.log.read_text():
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)


@contextmanager
def serving(directory: Path) -> Iterator[Serving]:
    server = Serving(directory)
    try:
        yield server
    finally:
        server.process.kill()
        server.process.communicate()


WEBSOCKET = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
}


@pytest.mark.parametrize("page", ["", "ws", "static/js/textual.js", "download/1", "nowhere"])
def test_nothing_without_the_token(tmp_path: Path, page: str) -> None:
    with serving(tmp_path) as server:
        wrong = "x" * len(server.token)
        more = WEBSOCKET if page == "ws" else {}
        for path in (f"/{page}", f"{server.home}{page}"):
            assert server.get(path, **more).status == 403
            assert server.get(f"{path}?token={wrong}", **more).status == 403
            assert server.get(f"{path}?token=", **more).status == 403
            assert server.get(f"{path}?token=%ff", **more).status == 403
            assert server.get(path, **more, Cookie=f"hotpage-token={wrong}").status == 403
            assert server.get(path, **more, Cookie="hotpage-token=").status == 403
            assert server.get(path, **more, Cookie="hotpage-token=\xe9").status == 403
        assert server.log.read_text() == ""


def test_the_token_moves_from_the_address_into_a_cookie(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        assert len(server.token) >= 32
        response = server.get(f"/?token={server.token}")
        assert (response.status, response.headers["Location"]) == (302, server.home)
        cookie = response.headers["Set-Cookie"]
        assert "HttpOnly" in cookie and "SameSite=Strict" in cookie
        page = server.get(server.home, Cookie=cookie.split(";")[0])
        assert page.status == 200
        policy = page.headers["Content-Security-Policy"]
        assert "style-src 'self'" in policy and "font-src 'self'" in policy, "nothing from other servers"
        here = f"//127.0.0.1:{server.port}{server.home}"
        assert f'"ws:{here}ws"'.encode() in server.body, "what it loads is where the cookie goes"
        script = "static/js/textual.js"
        assert f'"http:{here}{script}"'.encode() in server.body
        assert server.get(f"{server.home}{script}", Cookie=cookie.split(";")[0]).status == 200
        # The token in the address opens the front page only.
        assert server.get(f"{server.home}ws?token={server.token}", **WEBSOCKET).status == 403


def test_the_cookie_is_for_a_secret_path_alone(tmp_path: Path) -> None:
    with serving(tmp_path) as server, serving(tmp_path) as other:
        cookie = server.get(f"/?token={server.token}").headers["Set-Cookie"]
        assert f"Path={server.home.removesuffix('/')}" in cookie.split("; "), "no other port gets it"
        assert len(server.home) > 20 and server.home != other.home, "nor does another one replace it"
        assert server.token not in server.home


@pytest.mark.parametrize(
    "odd", ['a={"x":1}', "user name=1", "foo", "a/b=1", "n=a b", "\xe9=1", "hotpage-token=x"]
)
def test_cookies_of_other_servers_here_do_no_harm(tmp_path: Path, odd: str) -> None:
    with serving(tmp_path) as server:
        assert server.get(server.home, Cookie=f"{odd}; hotpage-token={server.token}").status == 200


def test_under_the_name_of_localhost_it_leads_to_where_the_page_is(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        here = {"Host": f"localhost:{server.port}"}
        response = server.get(f"/?token={server.token}", **here)
        assert (response.status, response.headers["Location"]) == (302, server.url)
        assert server.get("/?token=wrong", **here).status == 403


def test_other_sites_and_names_are_refused(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        mine = {"Cookie": f"hotpage-token={server.token}"}
        home, neighbour = server.home, f"http://localhost:{server.port + 1}"
        assert server.get(home, **mine).status == 200
        assert server.get(home, **mine, Origin="http://evil.example").status == 403
        assert server.get(home, **mine, Host="evil.example").status == 403
        assert server.get(f"{home}ws", **mine, **WEBSOCKET, Origin=neighbour).status == 403


async def watch(server: Serving, *keys: str) -> str:
    """What the browser would get after some keys, until the application has drawn a table or ended."""
    cookies = {"hotpage-token": server.token}
    drawn = b""
    async with ClientSession(cookies=cookies) as session:
        address = f"http://127.0.0.1:{server.port}{server.home}ws?width=100&height=30"
        async with session.ws_connect(address) as socket:
            sent = False
            async for message in socket:
                if message.type == WSMsgType.BINARY:
                    drawn += message.data
                if not sent and b"redis-server" in drawn:
                    sent = True
                    for key in keys:
                        await socket.send_str(json.dumps(["stdin", key]))
                    if not keys:
                        break
    return drawn.decode()


def test_with_the_token_it_is_the_application(tmp_path: Path) -> None:

    with serving(tmp_path) as server:
        drawn = asyncio.run(asyncio.wait_for(watch(server, "q"), PATIENCE_S))
        assert "hotpage top" in drawn and "postgres" in drawn
        server.await_said("ended")


def test_a_page_that_is_closed_ends_its_application(tmp_path: Path) -> None:

    with serving(tmp_path) as server:
        asyncio.run(asyncio.wait_for(watch(server), PATIENCE_S))
        server.await_said("ended")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_the_applications_end_with_the_server(tmp_path: Path, number: signal.Signals) -> None:

    with serving(tmp_path) as server:

        async def end_it() -> None:
            cookies = {"hotpage-token": server.token}
            async with ClientSession(cookies=cookies) as session:
                address = f"http://127.0.0.1:{server.port}{server.home}ws"
                async with session.ws_connect(address) as socket:
                    async for message in socket:
                        if message.type == WSMsgType.BINARY:
                            server.process.send_signal(number)
                            break
                    async for _ in socket:
                        pass

        asyncio.run(asyncio.wait_for(end_it(), PATIENCE_S))
        assert server.process.wait(PATIENCE_S) == (0 if number != signal.SIGKILL else -number)
        server.await_said("ended")


def test_a_port_that_is_taken_is_one_line(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        code = (
            "from hotpage.views.top.web import serve\n"
            "from hotpage.errors import UsageError\n"
            f"try: serve(['true'], {server.port})\n"
            "except UsageError as error: print(error)"
        )
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
        assert f"cannot listen on port {server.port}" in done.stdout and "--port" in done.stdout


def test_what_it_starts_imports_nothing_from_the_directory_it_is_called_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(web, "serve", lambda command, port: started.append(command))
    monkeypatch.setattr(sys, "argv", ["hotpage", "top", "--web", "--port", "8000", "--help"])
    top._serve(8000)
    for module in ("hotpage", "json", "typer"):
        (tmp_path / f"{module}.py").write_text("raise SystemExit('somebody else runs')")
    done = subprocess.run(started[0], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.startswith("Usage: hotpage top"), done.stderr
