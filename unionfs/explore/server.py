"""A small web server for one reader: the page of `unionfs explore`, and what it asks for.

Made by the command. It listens on loopback alone, answers GET alone, and only below a path that begins with a token
which nobody can guess; a page of another site, which may have our address but not the token, gets nothing, nor does
one that reaches us by a name of its own (DNS rebinding): the Host header must be ours.

    /TOKEN/               the page            /TOKEN/api/union    the stack          /TOKEN/api/list?path=&start=
    /TOKEN/style.css      and its other files /TOKEN/api/facts    sizes and waste    /TOKEN/api/lookup?path=
    /TOKEN/api/live       the requests of the mount as server-sent events               /TOKEN/api/search?q=
"""

from __future__ import annotations

import hmac
import json
import os
import secrets
from contextlib import closing
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qs, urlsplit

from unionfs import events
from unionfs.errors import UnionfsError
from unionfs.explore import view
from unionfs.explore.view import Subject
from unionfs.fuse.listen import HOUSEKEEPING, Watch, asked_by

ADDRESS = "127.0.0.1"
_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript"}
_FILES = ("index.html", "style.css", "page.js", "draw.js")
_PATIENCE = 10
"""Seconds without a request after which a reader of live requests is told that all is well."""
_POLICY = "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"


class Server(ThreadingHTTPServer):
    """Serves `subject` until `shutdown`. `port` 0: any that is free. Raises OSError when the port is taken."""

    daemon_threads = True

    def __init__(self, subject: Subject, port: int = 0) -> None:
        super().__init__((ADDRESS, port), _Handler)
        self.subject = subject
        self.token = secrets.token_urlsafe(24)

    @property
    def url(self) -> str:
        return f"http://{ADDRESS}:{self.server_port}/{self.token}/"


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    timeout = 60

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        token, _, rest = parts.path.lstrip("/").partition("/")
        if not self._is_ours() or not hmac.compare_digest(token.encode(), self.server.token.encode()):
            self._send(HTTPStatus.FORBIDDEN, b"the address lacks its token: use the one that unionfs explore printed\n")
            return
        query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
        try:
            self._serve(rest or "index.html", query)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        except (OSError, UnionfsError, ValueError) as failure:
            why = failure.strerror if isinstance(failure, OSError) and failure.strerror else str(failure)
            self._send_json({"error": why.lower()}, HTTPStatus.NOT_FOUND)

    def _is_ours(self) -> bool:
        port = self.server.server_port
        return self.headers.get("Host") in (f"{ADDRESS}:{port}", f"localhost:{port}")

    def _serve(self, what: str, query: dict[str, str]) -> None:
        subject = self.server.subject
        if what in _FILES:
            content = files("unionfs.explore").joinpath("page", what).read_bytes()
            self._send(HTTPStatus.OK, content, _TYPES[what.rpartition(".")[2]])
        elif what == "api/union":
            self._send_json(view.union(subject))
        elif what == "api/facts":
            self._send_json(view.facts(subject))
        elif what == "api/list":
            self._send_json(view.listing(subject, query.get("path", ""), int(query.get("start", 0))))
        elif what == "api/search":
            self._send_json(view.search(subject, query.get("q", "")))
        elif what == "api/lookup":
            self._send_json(view.lookup(subject, query.get("path", "")))
        elif what == "api/live" and subject.mountpoint is not None:
            self._live(subject.mountpoint)
        else:
            self._send(HTTPStatus.NOT_FOUND, b"there is no such page\n")

    def _send_json(self, answer: Any, status: HTTPStatus = HTTPStatus.OK) -> None:
        self._send(status, json.dumps(answer).encode(), "application/json")

    def _send(self, status: HTTPStatus, content: bytes, kind: str = "text/plain") -> None:
        self._head(status, kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _head(self, status: HTTPStatus, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Security-Policy", _POLICY)
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cache-Control", "no-store")

    def _live(self, mountpoint: bytes) -> None:
        """Server-sent events (HTML standard, 9.2) until the reader goes away, or the union is unmounted."""
        with closing(Watch(mountpoint)) as watch:
            self._head(HTTPStatus.OK, "text/event-stream")
            self.send_header("Connection", "close")
            self.end_headers()
            self.close_connection = True
            while (seen := watch.read(_PATIENCE)) is not None:
                wanted = [one for one in seen if one["op"] not in HOUSEKEEPING and not asked_by(one, os.getpid())]
                text = "".join(f"data: {json.dumps(one)}\n\n" for one in wanted)
                self.wfile.write((text or ": nothing was asked\n\n").encode())
            self.wfile.write(b"event: end\ndata: {}\n\n")

    def log_message(self, form: str, *arguments: object) -> None:
        """Nothing: each request would be a line."""

    def log_error(self, form: str, *arguments: object) -> None:
        events.warning(form % arguments)
