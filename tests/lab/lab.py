# SPDX-License-Identifier: Apache-2.0
"""The whole lab: a broker, Vitrage and one compute node with guests, all private, all real."""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable, TextIO

from tests.lab import image, processes
from tests.lab.broker import Broker, BrokerError
from tests.lab.guest import Guest
from tests.lab.layout import INSTALLED, NODE_VENV, RUN, LabError
from tests.lab.node import Node
from tests.lab.vitrage import Vitrage

Say = Callable[[str, float], None]


class Lab:
    """Everything below `directory`; up() makes it, down() leaves nothing of it.

    Another process sees the same lab through attach(), as long as down() was not called. A `bare`
    one is as an operator has it before: its Vitrage does not know of collectd, and the product is
    for roll_out() to install.
    """

    vitrage: Vitrage

    def __init__(self, directory: Path = RUN, *, bare: bool = False) -> None:
        self.directory = directory
        self._bare = bare
        self.node = Node(directory / "compute-0")
        self.guests: dict[str, Guest] = {}  # by display name
        self._broker: Broker | None = None
        self._lock: TextIO | None = None

    @classmethod
    def attach(cls, directory: Path = RUN) -> Lab:
        """Return the lab that another process left running; LabError when there is none.

        Its broker can be reached (vitrage.broker_url), but not stopped and started.
        """
        lab = cls(directory)
        try:
            record = json.loads(lab._record.read_text())
        except FileNotFoundError:
            raise LabError(f"no lab is up in {directory}") from None
        lab.vitrage = Vitrage(directory / "vitrage", record["broker_url"], record["vitrage_port"])
        for options in record["guests"]:
            lab.guests[options["display_name"]] = Guest(lab.node, **options)
        return lab

    @property
    def broker(self) -> Broker:
        """The broker, to stop and start; LabError in a process that only attached."""
        if self._broker is None:
            raise LabError("the broker obeys only the process that brought the lab up")
        return self._broker

    def up(self, say: Say = lambda part, seconds: None) -> None:
        """Bring up everything but guests and collectd; `say` hears of each part and its seconds.

        Takes the place of a lab that a killed process left behind; LabError when one is in use.
        """
        self._take_lock()
        self._clear()
        os.umask(0o022)  # QEMU's user reads the images
        try:
            self._bring_up(say)
        except BaseException:
            self.down(keep_logs=True)
            raise

    def boot(self, display_name: str, **options: Any) -> Guest:
        """Start a guest (options: see Guest) and tell Vitrage of it; do not wait_booted()."""
        name = f"instance-{len(self.guests) + 1:08x}"
        guest = Guest(self.node, name=name, display_name=display_name, **options)
        self.vitrage.announce_instance(guest.uuid, display_name, self.node.hostname, guest.project)
        guest.start()
        self.guests[display_name] = guest
        self._write_record()
        return guest

    def down(self, *, keep_logs: bool = False) -> None:
        """End every process of the lab, whoever started it, and remove its files."""
        self._clear(keep_logs=keep_logs)
        if self._broker is not None:
            self._broker.stop()
            self._broker = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> Lab:
        self.up()
        return self

    def __exit__(self, *_: object) -> None:
        self.down()

    @property
    def _record(self) -> Path:
        return self.directory / "lab.json"

    def _bring_up(self, say: Say) -> None:
        self.directory.mkdir(parents=True)
        self._broker = broker = Broker(self.directory / "broker")
        self.vitrage = Vitrage(self.directory / "vitrage", broker.url)
        if self._bare:
            self.vitrage.datasources = "nova.host,nova.instance,nova.zone,static"
            self.vitrage.collectd_conf = self.vitrage.directory / "collectd_conf.yaml"
        with ThreadPoolExecutor() as pool:
            parts = [
                pool.submit(self._bring_up_bus, broker, say),
                pool.submit(self._bring_up_node, say),
            ]
        for part in parts:
            part.result()
        self._write_record()
        self._write_programs()

    def _bring_up_bus(self, broker: Broker, say: Say) -> None:
        try:
            timed(say, "RabbitMQ", broker.start)
        except BrokerError as error:
            raise LabError(str(error)) from error
        timed(say, "Vitrage", self.vitrage.start)

    def _bring_up_node(self, say: Say) -> None:
        timed(say, "guest images", lambda: [image.build(each) for each in image.USUAL])
        timed(say, "compute node", self.node.start)

    def _take_lock(self) -> None:
        self.directory.parent.mkdir(parents=True, exist_ok=True)
        lock = self.directory.with_suffix(".lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise LabError(f"the lab in {self.directory} is in use by another process") from None
        self._lock = lock

    def _clear(self, *, keep_logs: bool = False) -> None:
        left = processes.printing_below(self.directory)
        for run in self.directory.glob("*/run"):
            left |= processes.inside(run)
        # What they would save on a slower way out is thrown away in any case.
        processes.end(left, patience=0)
        if not keep_logs:
            shutil.rmtree(self.directory, ignore_errors=True)

    def _write_record(self) -> None:
        record = {
            "broker_url": self.vitrage.broker_url,
            "vitrage_port": self.vitrage.port,
            "guests": [guest.options() for guest in self.guests.values()],
        }
        self._record.write_text(json.dumps(record, indent=2) + "\n")

    def _write_programs(self) -> None:
        """Make bin/ with the commands that one wants for a look around."""
        inside = shlex.join(self.node.command())
        vmhb = INSTALLED / "current" / "bin" / "vmhb" if self._bare else NODE_VENV / "bin" / "vmhb"
        vitrage = shlex.join(f"{name}={value}" for name, value in self.vitrage.cli_env().items())
        programs = {
            "virsh": f"exec virsh -c '{self.node.uri}' \"$@\"",
            "vitrage": f'exec env {vitrage} {shlex.join(self.vitrage.cli_argv())} "$@"',
            "vmhb": f'exec {inside} {vmhb} "$@"',
            "on-node": f'exec {inside} "${{@:-bash}}"',
        }
        (self.directory / "bin").mkdir()
        for name, line in programs.items():
            program = self.directory / "bin" / name
            program.write_text(f"#!/bin/sh\n{line}\n")
            program.chmod(0o755)


def timed(say: Say, part: str, bring_up: Callable[[], object]) -> None:
    """Tell `say` of a part and the seconds that bringing it up took."""
    started = time.monotonic()
    bring_up()
    say(part, time.monotonic() - started)
