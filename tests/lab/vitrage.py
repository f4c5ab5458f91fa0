# SPDX-License-Identifier: Apache-2.0
"""A private Vitrage: graph, persistor and API over sqlite, without Keystone and without Nova."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import time
import urllib.error
import urllib.request
import uuid as uuids
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Callable

import kombu

from tests.lab import processes
from tests.lab.layout import CACHE, ROOT, VITRAGE_ETC, VITRAGE_VENV, LabError, require

Row = dict[str, Any]

COLLECTD_CONF = ROOT / "vitrage_notifier" / "templates" / "collectd_conf.yaml"

_SERVICES = ("graph", "persistor", "api")

# A snapshot forgets every collectd alarm: a day apart, unless a test is about just that.
_CONF = """\
[DEFAULT]
log_dir = {directory}
transport_url = {broker_url}
[api]
host = 127.0.0.1
port = {port}
auth_mode = noauth
paste_config = {etc}/api-paste.ini
[database]
connection = sqlite:///{directory}/vitrage.sqlite
[datasources]
types = {datasources}
snapshots_interval = {snapshots_interval}
[static]
directory = {directory}/static
[collectd]
config_file = {collectd_conf}
[entity_graph]
datasources_values_dir = {etc}/datasources_values
"""

# Nova's API would tell of the hosts; without it, a host is but a shadow of its VMs.
_HOSTS = """\
metadata:
  name: hosts
  description: compute nodes
definitions:
  entities: {entities}
  relationships: []
"""

# sqlite counts up INTEGER keys alone; Vitrage declares this one a BIGINT.
_EVENTS_TABLE = """\
DROP TABLE events;
CREATE TABLE events (id INTEGER PRIMARY KEY AUTOINCREMENT, payload TEXT NOT NULL,
    is_vertex BOOLEAN NOT NULL, created_at DATETIME, updated_at DATETIME);
"""

_HEADERS = {"X-Roles": "admin", "X-User-Id": "admin", "X-Project-Id": "admin"}


class VitrageAwayError(LabError):
    """Vitrage's API gives no answer: for a while it may not, as after a restart of graph."""


class Vitrage:
    """Runs below `directory` on the broker at `broker_url`.

    A second object for the same directory and port speaks to the same Vitrage.
    """

    def __init__(self, directory: Path, broker_url: str, port: int = 0) -> None:
        self.directory = directory
        self.broker_url = broker_url
        self.port = port or _free_port()
        self.snapshots_interval = 86400
        #: Compute nodes that Vitrage knows from its start on.
        self.hosts: tuple[str, ...] = ()
        #: Appended to vitrage.conf; what is named there may lie below the repository.
        self.conf = ""
        self.datasources = "nova.host,nova.instance,nova.zone,static,collectd"
        self.collectd_conf = COLLECTD_CONF
        self.endpoint = f"http://127.0.0.1:{self.port}"
        #: What graph was started with; empty: we did not start it.
        self._runs_with = ""

    def be_ready(self) -> None:
        """Have it run with what it is to be configured with now, and list no alarms.

        What a test before left is used where that will do: a start takes its time.
        """
        if not self._runs_with:
            self.start()
        elif self._runs_with != self._settings():
            self.restart_graph(self.snapshots_interval)
        if self.alarms_now():
            self.start()

    def start(self, timeout: float = 60.0) -> None:
        """Start with an empty database; return when it listens to the bus and to the API."""
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)
        (self.directory / "static").mkdir(parents=True)
        self._configure()
        shutil.copy(_database(), self.directory / "vitrage.sqlite")
        self.start_services(*_SERVICES, timeout=timeout)

    def restart_graph(self, snapshots_interval: int, timeout: float = 60.0) -> None:
        """Restart graph alone, with another time between two of its snapshots."""
        self.stop_services("graph")
        self.snapshots_interval = snapshots_interval
        self._configure()
        self.start_services("graph", timeout=timeout)

    def snapshots(self) -> int:
        """Count the snapshots that were taken so far, restarts included."""
        return self._log("graph").count("run driver get_all: collectd done")

    def graph_pids(self) -> set[int]:
        """Return the processes of graph."""
        return processes.printing_below(self._output("graph"))

    def _settings(self) -> str:
        """Return what is to stand in vitrage.conf."""
        conf = _CONF.format(
            directory=self.directory,
            broker_url=self.broker_url,
            port=self.port,
            etc=require(VITRAGE_ETC),
            datasources=self.datasources,
            snapshots_interval=self.snapshots_interval,
            collectd_conf=self.collectd_conf,
        )
        return conf + self.conf

    def _configure(self) -> None:
        self._runs_with = self._settings()
        self._conf.write_text(self._runs_with)
        entities = [
            {"static_id": host, "type": "nova.host", "id": host, "name": host, "state": "available"}
            for host in self.hosts
        ]
        hosts = _HOSTS.format(entities=json.dumps(entities))
        (self.directory / "static" / "hosts.yaml").write_text(hosts)

    def start_services(self, *services: str, timeout: float = 60.0) -> None:
        """Start some of the services, keeping what is in the database; return when ready."""
        listened = self._times_listened()
        deadline = time.monotonic() + timeout
        running = {service: self._spawn(service) for service in services}
        ready: dict[str, Callable[[], bool]] = {
            "graph": lambda: self._times_listened() > listened,
            "persistor": lambda: "Starting" in self._log("persistor"),
            "notifier": lambda: "Started!" in self._log("notifier"),
            "api": self._answers,
        }
        for service, process in running.items():
            log = self.directory / f"vitrage-{service}.log"
            while not ready[service]():
                if process.exit_status() is not None:
                    raise LabError(f"vitrage-{service} ended: see {self._output(service)}")
                if time.monotonic() > deadline:
                    raise LabError(f"vitrage-{service} is not ready in {timeout:g} s: see {log}")
                time.sleep(0.05)

    def stop_services(self, *services: str) -> None:
        """End graph, persistor, api or notifier; the database stays."""
        for service in services:
            processes.end(processes.printing_below(self._output(service)))

    def stop(self) -> None:
        """End all of it; its logs stay."""
        self._runs_with = ""
        processes.end(processes.printing_below(self.directory))

    def alarm_list(self) -> list[Row]:
        """All alarms that Vitrage lists, as the API gives them; VitrageAwayError for no answer."""
        return self._list("/v1/alarm?all_tenants=1&vitrage_id=all")

    def alarms_of(self, project: str) -> list[Row]:
        """The alarms that a member of a project sees; VitrageAwayError for no answer."""
        headers = {"X-Roles": "member", "X-User-Id": project, "X-Project-Id": project}
        return self._list("/v1/alarm?vitrage_id=all", headers)

    def resource(self, vitrage_id: str) -> Row:
        """The row of `vitrage resource list` for the resource that an alarm is against."""
        rows = self.resources()
        for row in rows:
            if row["ID"] == vitrage_id:
                return row
        raise LabError(f"Vitrage lists no resource {vitrage_id}, but {rows}")

    def resources(self, timeout: float = 20.0) -> list[Row]:
        """The rows of `vitrage resource list`, as soon as Vitrage answers."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            with contextlib.suppress(VitrageAwayError):
                return self._resources()
            time.sleep(0.5)
        return self._resources()

    def _resources(self) -> list[Row]:
        rows: list[Row] = json.loads(self.cli("resource", "list", "--all", "-f", "json"))
        return rows

    def alarms_now(self, timeout: float = 20.0, project: str = "") -> list[Row]:
        """The alarms, or those of a project, as soon as Vitrage answers."""
        return self.wait_for(lambda rows: True, timeout, project)

    def wait_for(
        self, wanted: Callable[[list[Row]], bool], timeout: float, project: str = ""
    ) -> list[Row]:
        """Return the alarms, or those of a project, as soon as they are as `wanted`.

        An API that gives no answer is asked again. LabError says what was seen last.
        """
        deadline = time.monotonic() + timeout
        while True:
            try:
                rows = self.alarms_of(project) if project else self.alarm_list()
            except VitrageAwayError as error:
                seen = str(error)
            else:
                if wanted(rows):
                    return rows
                seen = f"it lists {[(row.get('name'), row.get('severity')) for row in rows]}"
            if time.monotonic() > deadline:
                raise LabError(f"Vitrage does not get there within {timeout:g} s; {seen}")
            time.sleep(0.1)

    def watch(self, seconds: float) -> Iterator[list[Row]]:
        """Yield the alarms for so long, each time that the API answers; LabError if it never does.

        One answer more may come after that time: a last look is always taken.
        """
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with contextlib.suppress(VitrageAwayError):
                yield self.alarm_list()
            time.sleep(0.5)
        yield self.alarms_now(seconds)

    def announce_instance(self, uuid: str, name: str, host: str, project: str) -> None:
        """Tell Vitrage of a VM, as Nova does when it has made one."""
        self._notify_as_nova("instance.create.end", uuid, name, host, project)

    def forget_instance(self, uuid: str, name: str, host: str, project: str) -> None:
        """Tell Vitrage that a VM was deleted, as Nova does."""
        self._notify_as_nova("instance.delete.end", uuid, name, host, project)

    def cli_argv(self, *argv: str) -> list[str]:
        """Return the command that an operator types, by its path."""
        return [str(require(VITRAGE_VENV) / "bin" / "vitrage"), *argv]

    def cli_env(self) -> dict[str, str]:
        """Return what the command needs in its environment, instead of Keystone's variables."""
        return {
            "OS_AUTH_TYPE": "vitrage-noauth",
            "VITRAGE_USER_ID": "admin",
            "VITRAGE_PROJECT_ID": "admin",
            "VITRAGE_ROLES": "admin",
            "VITRAGE_ENDPOINT": self.endpoint,
        }

    def cli(self, *argv: str) -> str:
        """Run the command line client; return what it prints. VitrageAwayError: it may later."""
        done = subprocess.run(
            self.cli_argv(*argv),
            env={**os.environ, **self.cli_env()},
            capture_output=True,
            text=True,
            timeout=60,
        )
        if done.returncode:
            away = re.search("HTTP 50[0-4]", done.stderr)
            kind = VitrageAwayError if away else LabError
            raise kind(f"vitrage {' '.join(argv)} fails: {done.stderr.strip()}")
        return done.stdout

    @property
    def _conf(self) -> Path:
        return self.directory / "vitrage.conf"

    def _spawn(self, service: str) -> processes.Process:
        program = require(VITRAGE_VENV) / "bin" / f"vitrage-{service}"
        path = f"PYTHONPATH={ROOT}"
        argv = ["/usr/bin/env", path, str(program), "--config-file", str(self._conf)]
        return processes.spawn(argv, self._output(service))

    def _output(self, service: str) -> Path:
        return self.directory / f"{service}.out"

    def _log(self, service: str) -> str:
        try:
            return (self.directory / f"vitrage-{service}.log").read_text(errors="replace")
        except FileNotFoundError:
            return ""

    def _times_listened(self) -> int:
        return self._log("graph").count("Listening on vitrage_notifications")

    def _answers(self) -> bool:
        try:
            self.alarm_list()
        except VitrageAwayError:
            return False
        return True

    def _list(self, path: str, headers: Mapping[str, str] = _HEADERS) -> list[Row]:
        rows = self._get(path, headers)
        if not isinstance(rows, list):
            raise LabError(f"Vitrage lists no alarms but {rows!r}")
        return rows

    def _get(self, path: str, headers: Mapping[str, str] = _HEADERS) -> Any:
        request = urllib.request.Request(self.endpoint + path, headers=dict(headers))
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.load(answer)
        except (OSError, ValueError) as error:
            log = self.directory / "vitrage-api.log"
            raise VitrageAwayError(
                f"Vitrage's API does not answer {path}: {error}; see {log}"
            ) from error

    def _notify_as_nova(self, event: str, uuid: str, name: str, host: str, project: str) -> None:
        instance = {
            "uuid": uuid,
            "host_name": name,
            "display_name": name,
            "host": host,
            "state": "active",
            "tenant_id": project,
        }
        message = {
            "event_type": event,
            "message_id": str(uuids.uuid4()),
            "publisher_id": f"nova-compute:{host}",
            "priority": "INFO",
            "timestamp": time.strftime("%Y-%m-%d %H:%M:%S.000000", time.gmtime()),
            "payload": {"nova_object.data": instance},
        }
        envelope = {"oslo.version": "2.0", "oslo.message": json.dumps(message)}
        with kombu.Connection(self.broker_url.replace("rabbit://", "amqp://")) as connection:
            # The default exchange leads straight to the queue, whatever Vitrage bound it to.
            connection.Producer().publish(envelope, routing_key="vitrage_notifications.info")


def _database() -> Path:
    """Return an empty database; made once, as Vitrage takes seconds to make its tables."""
    database = CACHE / "vitrage.sqlite"
    if not database.exists():
        partial = CACHE / f"vitrage-{os.getpid()}.sqlite"
        conf = CACHE / f"vitrage-{os.getpid()}.conf"
        conf.write_text(f"[database]\nconnection = sqlite:///{partial}\n")
        program = require(VITRAGE_VENV) / "bin" / "vitrage-dbsync"
        argv = [str(program), "--config-file", str(conf)]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=120)
        conf.unlink()
        if done.returncode:
            raise LabError(f"vitrage-dbsync fails: {done.stderr.strip()}")
        with sqlite3.connect(partial) as connection:
            connection.executescript(_EVENTS_TABLE)
        connection.close()
        partial.rename(database)
    return database


def _free_port() -> int:
    with socket.socket() as any_port:
        any_port.bind(("127.0.0.1", 0))
        return int(any_port.getsockname()[1])
