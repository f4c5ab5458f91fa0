# SPDX-License-Identifier: Apache-2.0
"""Stands in for Keystone, Nova and Glance on loopback, with the JSON that they answer with."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

PASSWORD = "secret"
TOKEN = "a-token"
PROJECT = "3a860f8e599440c4a4b9bd07363d4f24"


@dataclass
class Cloud:
    """What this cloud has, and what is wrong with it."""

    #: Flavor name and extra specs of each server, by host and UUID.
    servers: dict[str, dict[str, tuple[str, Mapping[str, str]]]] = field(default_factory=dict)
    #: What the operator set max_limit to.
    page: int = 1000
    #: Answers to a path instead of the right one: status and body.
    spoilt: dict[str, tuple[int, str]] = field(default_factory=dict)
    has_nova: bool = True
    shows_extra_specs: bool = True
    #: Nova does not say that it ignores a filter which the user may not use.
    filters_by_host: bool = True
    #: Extra specs of each flavor, by its name.
    flavors: dict[str, dict[str, str]] = field(default_factory=dict)
    #: Properties of each image, by its id and name.
    images: dict[tuple[str, str], dict[str, str]] = field(default_factory=dict)
    #: Properties of the image that a server was made from, None for a volume, by its UUID.
    made_from: dict[str, Mapping[str, str] | None] = field(default_factory=dict)
    #: The newest microversion.
    newest: str = "2.100"
    #: Whether the user has the role that changes need.
    is_admin: bool = True
    #: Held back until this is set.
    mute: threading.Event | None = None
    #: Path and query of what was asked of Nova.
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    #: Path and body of each change.
    changed: list[tuple[str, object]] = field(default_factory=list)

    def server(
        self, uuid: str, host: str, flavor: str, specs: Mapping[str, str], version: str = "2.47"
    ) -> dict[str, Any]:
        """A server as of microversion 2.47 or 2.98."""
        embedded: dict[str, Any] = {"vcpus": 1, "ram": 512, "disk": 1, "ephemeral": 0, "swap": 0}
        embedded["original_name"] = flavor
        if self.shows_extra_specs:
            embedded["extra_specs"] = dict(specs)
        return {
            "id": uuid,
            "name": f"name-{uuid[-4:]}",
            "status": "ACTIVE",
            "tenant_id": PROJECT,
            "user_id": "beaacb7edc13484fbae1443499726012",
            "metadata": {},
            "hostId": "2091634baaccdc4c5a1d57069c833e402921df696b7f970791b12ec6",
            "image": self._image_of(uuid, version),
            "flavor": embedded,
            "created": "2026-01-01T00:00:00Z",
            "updated": "2026-01-01T00:00:00Z",
            "addresses": {},
            "accessIPv4": "",
            "accessIPv6": "",
            "links": [],
            "OS-EXT-SRV-ATTR:host": host,
            "OS-EXT-SRV-ATTR:instance_name": "instance-00000001",
            "OS-EXT-STS:vm_state": "active",
            "OS-EXT-STS:power_state": 1,
            "locked": False,
            "tags": [],
        }

    def _image_of(self, uuid: str, version: str) -> dict[str, Any] | str:
        properties = self.made_from.get(uuid, {})
        if properties is None:
            return ""
        image: dict[str, Any] = {"id": "70a599e0-31e7-49b7-b260-868f441e862b", "links": []}
        return {**image, "properties": dict(properties)} if version == "2.98" else image


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing: a client that goes early is no error, and standard error is the test's."""


class NovaStandIn:
    """Serves a Cloud until `stop`; ``url`` is Keystone's."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        stand_in = self

        class Request(_Request):
            cloud = stand_in.cloud

        self._server = _Server(("127.0.0.1", 0), Request)
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        self.url = f"{self.address}/identity/v3"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def stop(self) -> None:
        """Ends the threads."""
        if self.cloud.mute is not None:
            self.cloud.mute.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _flavor_of(path: str) -> str:
    """The flavor's name, from the path of its extra specs."""
    return path.split("/flavors/")[1].split("/")[0].removeprefix("id-")


class _Request(BaseHTTPRequestHandler):
    cloud: Cloud
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""

    def do_GET(self) -> None:
        """Answers a question."""
        path = urlsplit(self.path).path.rstrip("/")
        query = {key: values[-1] for key, values in parse_qs(urlsplit(self.path).query).items()}
        if path == "/identity/v3":
            self._answer(200, {"version": self._version("v3.14", "/identity/v3/")})
        elif path == "/compute/v2.1":
            self._answer(200, {"version": self._version("v2.1", "/compute/v2.1/")})
        elif path == "/image":
            self._answer(300, {"versions": [self._version("v2.16", "/image/v2/")]})
        elif path.startswith("/image/v2/"):
            self._list_images(query)
        else:
            self._nova(path.removeprefix("/compute/v2.1"), query)

    def do_POST(self) -> None:
        """Gives a token for the right password, or sets extra specs."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path.startswith("/compute/"):
            self._change_flavor(lambda specs: specs.update(body["extra_specs"]), body)
            return
        user = body["auth"]["identity"]["password"]["user"]
        if user["password"] != PASSWORD:
            self._fail(401, "The request you have made requires authentication.", "Unauthorized")
            return
        endpoint = {"interface": "public", "region": "RegionOne", "region_id": "RegionOne"}
        services = {"compute": "/compute/v2.1", "identity": "/identity/v3", "image": "/image"}
        if not self.cloud.has_nova:
            del services["compute"]
        catalog = [
            {
                "type": kind,
                "name": kind,
                "id": kind,
                "endpoints": [{**endpoint, "id": kind, "url": self._here + path}],
            }
            for kind, path in services.items()
        ]
        token = {
            "methods": ["password"],
            "user": {"id": "u", "name": user["name"], "domain": {"id": "default"}},
            "project": {"id": PROJECT, "name": "admin", "domain": {"id": "default"}},
            "roles": [{"id": "r", "name": "admin"}],
            "expires_at": "2099-01-01T00:00:00.000000Z",
            "issued_at": "2026-01-01T00:00:00.000000Z",
            "catalog": catalog,
        }
        self._answer(201, {"token": token}, {"X-Subject-Token": TOKEN})

    @property
    def _here(self) -> str:
        return f"http://{self.headers['Host']}"

    def _version(self, name: str, path: str) -> dict[str, Any]:
        links = [{"rel": "self", "href": self._here + path}]
        return {
            "id": name,
            "status": "CURRENT",
            "version": self.cloud.newest if name == "v2.1" else "",
            "min_version": "2.1" if name == "v2.1" else "",
            "updated": "2013-07-23T11:33:21Z",
            "links": links,
        }

    def _nova(self, path: str, query: dict[str, str]) -> None:
        self.cloud.asked.append((path, query))
        if self.cloud.mute is not None:
            self.cloud.mute.wait(30)
        if path in self.cloud.spoilt:
            status, body = self.cloud.spoilt[path]
            self._send(status, body.encode(), {})
        elif self.headers["X-Auth-Token"] != TOKEN:
            self._fail(401, "Unauthorized", "Unauthorized")
        elif path == "/servers/detail":
            self._list_servers(query)
        elif path == "/flavors/detail":
            self._answer(200, {"flavors": [self._flavor(name) for name in self.cloud.flavors]})
        elif path.endswith("/os-extra_specs"):
            self._answer(200, {"extra_specs": self.cloud.flavors[_flavor_of(path)]})
        elif path == "/os-services":
            hosts = [host for host in self.cloud.servers if host == query["host"]]
            services = [{"binary": "nova-compute", "host": host, "state": "up"} for host in hosts]
            self._answer(200, {"services": services})
        else:
            self._fail(404, "The resource could not be found.", "Not Found")

    def _list_servers(self, query: dict[str, str]) -> None:
        version = str(self.headers.get("OpenStack-API-Version")).removeprefix("compute ")
        if version not in ("2.47", "2.98"):
            self._fail(400, "this stand-in knows 2.47 and 2.98 alone", "Bad Request")
            return
        if int(version[2:]) > int(self.cloud.newest[2:]):
            self._fail(406, f"Version {version} is not supported by the API.", "Not Acceptable")
            return
        assert query.get("all_tenants") == "1"
        hosts = [query["host"]] if "host" in query else list(self.cloud.servers)
        if not self.cloud.filters_by_host:
            hosts = ["compute-2"]
        where = {uuid: host for host in hosts for uuid in self.cloud.servers.get(host, {})}
        here = sorted((uuid, self.cloud.servers[host][uuid]) for uuid, host in where.items())
        uuids = [uuid for uuid, _ in here]
        begin = uuids.index(query["marker"]) + 1 if "marker" in query else 0
        end = begin + min(self.cloud.page, int(query["limit"]))
        page = [
            self.cloud.server(uuid, where[uuid], *flavor, version)
            for uuid, flavor in here[begin:end]
        ]
        answer: dict[str, Any] = {"servers": page}
        if end < len(here):
            href = f"http://nova.internal/servers/detail?marker={page[-1]['id']}"
            answer["servers_links"] = [{"rel": "next", "href": href}]
        self._answer(200, answer)

    def _flavor(self, name: str) -> dict[str, Any]:
        size = {"vcpus": 1, "ram": 512, "disk": 1, "OS-FLV-EXT-DATA:ephemeral": 0, "swap": ""}
        access = {"os-flavor-access:is_public": True, "OS-FLV-DISABLED:disabled": False}
        return {"id": f"id-{name}", "name": name, "rxtx_factor": 1.0, "links": [], **size, **access}

    def _change_flavor(self, change: Callable[[dict[str, str]], object], body: object) -> None:
        if not self.cloud.is_admin:
            self._fail(403, "Policy doesn't allow this to be performed.", "Forbidden")
            return
        path = urlsplit(self.path).path
        change(self.cloud.flavors[_flavor_of(path)])
        self.cloud.changed.append((path.removeprefix("/compute/v2.1"), body))
        self._answer(200, {} if body is None else {"extra_specs": body})

    def do_DELETE(self) -> None:
        """Removes an extra spec."""
        key = unquote(urlsplit(self.path).path.rsplit("/", 1)[1])
        self._change_flavor(lambda specs: specs.pop(key), None)

    def do_PATCH(self) -> None:
        """Changes an image, by the steps that Glance takes."""
        assert self.headers["Content-Type"] == "application/openstack-images-v2.1-json-patch"
        steps = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        identity = self.path.rsplit("/", 1)[1]
        (image,) = (each for each in self.cloud.images if each[0] == identity)
        properties = self.cloud.images[image]
        for step in steps:
            key = step["path"].removeprefix("/")
            assert (step["op"] == "add") == (key not in properties), "Glance answers 409"
            if step["op"] == "remove":
                del properties[key]
            else:
                properties[key] = step["value"]
        self.cloud.changed.append((self.path, steps))
        self._answer(200, self._image(image))

    def _list_images(self, query: dict[str, str]) -> None:
        found = [
            self._image(image)
            for image in self.cloud.images
            if query.get("id", image[0]) == image[0] and query.get("name", image[1]) == image[1]
        ]
        self._answer(200, {"images": found, "first": "/v2/images", "schema": "/v2/schemas/images"})

    def _image(self, image: tuple[str, str]) -> dict[str, Any]:
        identity, name = image
        fixed = {"status": "active", "visibility": "public", "os_hidden": False, "tags": []}
        return {"id": identity, "name": name, **fixed, **self.cloud.images[image]}

    def _fail(self, status: int, message: str, title: str) -> None:
        self._answer(status, {"error": {"code": status, "message": message, "title": title}})

    def _answer(
        self, status: int, fields: Mapping[str, Any], headers: Mapping[str, str] | None = None
    ) -> None:
        self._send(status, json.dumps(fields).encode(), headers or {})

    def _send(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
