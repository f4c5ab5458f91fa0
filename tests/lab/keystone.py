# SPDX-License-Identifier: Apache-2.0
"""As much of Keystone as a client of Vitrage needs, in front of a Vitrage that has none.

It gives a token for one password, and a catalog in which Vitrage's endpoint is its own: with that
token a request goes on to Vitrage as the admin's, without it, it is refused.
"""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

USER, PASSWORD = "vmhb", "s3cret"
_TOKEN = "token-of-vmhb"
_ADMIN = {"X-Roles": "admin", "X-User-Id": "admin", "X-Project-Id": "admin"}


class Keystone:
    """Serves from `with` to its end."""

    def __init__(self, vitrage: str) -> None:
        handler = type("Handler", (_Handler,), {"vitrage": vitrage})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def env(self, password: str = PASSWORD) -> dict[str, str]:
        """What an openrc file sets."""
        return {
            "OS_AUTH_TYPE": "password",
            "OS_AUTH_URL": f"{self.url}/v3",
            "OS_USERNAME": USER,
            "OS_PASSWORD": password,
            "OS_PROJECT_NAME": "admin",
            "OS_USER_DOMAIN_NAME": "Default",
            "OS_PROJECT_DOMAIN_NAME": "Default",
            "VITRAGE_ENDPOINT": "",
        }

    def __enter__(self) -> Keystone:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    vitrage = ""

    def do_GET(self) -> None:
        if self.path.startswith("/vitrage/"):
            self._pass_on()
        else:
            link = {"rel": "self", "href": f"{self._here}/v3/"}
            self._answer(200, {"version": {"id": "v3.14", "status": "stable", "links": [link]}})

    def do_POST(self) -> None:
        if self.path.startswith("/vitrage/"):
            self._pass_on()
            return
        asked = json.loads(self._body())
        user = asked["auth"]["identity"]["password"]["user"]
        if (user["name"], user["password"]) != (USER, PASSWORD):
            self._answer(401, {"error": {"code": 401, "message": "No such user or password."}})
        else:
            self._answer(201, {"token": self._token()}, {"X-Subject-Token": _TOKEN})

    do_PUT = do_DELETE = do_POST  # noqa: N815

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    @property
    def _here(self) -> str:
        return f"http://{self.headers['Host']}"

    def _token(self) -> dict[str, Any]:
        endpoint = {
            "id": "e",
            "interface": "public",
            "region": "one",
            "region_id": "one",
            "url": f"{self._here}/vitrage",
        }
        return {
            "methods": ["password"],
            "expires_at": "2099-01-01T00:00:00.000000Z",
            "issued_at": "2026-01-01T00:00:00.000000Z",
            "user": {"id": "u", "name": USER, "domain": {"id": "default", "name": "Default"}},
            "project": {"id": "p", "name": "admin", "domain": {"id": "default", "name": "Default"}},
            "roles": [{"id": "r", "name": "admin"}],
            "catalog": [{"id": "s", "type": "rca", "name": "vitrage", "endpoints": [endpoint]}],
        }

    def _pass_on(self) -> None:
        if self.headers.get("X-Auth-Token") != _TOKEN:
            self._answer(401, {"error": {"code": 401, "message": "Authentication required"}})
            return
        request = urllib.request.Request(
            self.vitrage + self.path[len("/vitrage") :],
            data=self._body() or None,
            headers={**_ADMIN, "Content-Type": "application/json"},
            method=self.command,
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                status, body = answer.status, answer.read()
        except urllib.error.HTTPError as refusal:
            status, body = refusal.code, refusal.read()
        self._send(status, body, {})

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _answer(self, status: int, body: object, headers: dict[str, str] | None = None) -> None:
        self._send(status, json.dumps(body).encode(), headers or {})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
