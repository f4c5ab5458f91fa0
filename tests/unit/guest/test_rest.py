# SPDX-License-Identifier: Apache-2.0
"""How often the agent wakes: it must rest where there is nothing to do, whatever polls as ready."""

from __future__ import annotations

import os
import pty
import select
import signal
import tty
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from vmhb_guest import loop
from vmhb_guest.applications import Applications
from vmhb_guest.auditor import Auditor
from vmhb_guest.checks import Checks
from vmhb_guest.control import Control
from vmhb_guest.line_server import LineServer
from vmhb_guest.loop import Loop
from vmhb_guest.port import RETRY, Port
from vmhb_guest.session import Session

SECONDS = 60.0
#: Seconds that a turn of the loop takes by this clock, so that one that spins ends as well.
TURN = 0.001


class World:
    """A clock that passes while the agent waits, and only then; it ends the agent after SECONDS."""

    def __init__(self) -> None:
        self.now = 0.0
        self.wakes = 0

    def clock(self) -> float:
        return self.now

    def fileno(self) -> int:
        return self._never

    def take(self) -> list[int]:
        return [signal.SIGTERM] if self.now >= SECONDS else []

    def run(self, port: Port, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Runs the agent's loop with all its parts, as far as they need no child."""
        self._never, written = os.pipe()
        world = self

        class Selector:
            """What is ready is really asked for; that nothing is takes no time but the world's."""

            def __enter__(self) -> Selector:
                self._poll = select.poll()
                return self

            def __exit__(self, *_: object) -> None:
                pass

            def register(self, fileno: int, events: int) -> None:
                self._poll.register(fileno, select.POLLIN if events == 1 else select.POLLOUT)

            def select(self, timeout: float | None) -> list[tuple[int, int]]:
                world.wakes += 1
                ready = self._poll.poll(0)
                wait = SECONDS if timeout is None else timeout
                world.now += TURN if ready else max(wait, TURN)
                return ready

        monkeypatch.setattr(loop, "_Selector", Selector)
        session = Session("test", 1.0)
        checks = Checks(dict, 4)
        applications = Applications(LineServer(str(directory / "app.sock"), 0o666))
        parts = [checks, applications, Auditor(session, [checks], applications)]
        parts.append(Control(LineServer(str(directory / "control.sock"), 0o600), {}))
        signals: Any = self
        Loop(port, session, parts, self.clock).run(signals)
        for fileno in (self._never, written):
            os.close(fileno)


def ports(directory: Path) -> Iterable[tuple[str, Port]]:
    """Every way in which there can be nobody at the other end."""
    yield "no port", Port("absent", root=str(directory))
    silent = directory / "vport"
    silent.touch()  # reads 0 bytes, as a virtio port without a host does
    yield "no host", Port("unused", str(silent))
    host, guest = pty.openpty()
    hung_up = Port("unused", os.ttyname(guest))
    hung_up.read(0.0)
    assert hung_up.connected
    os.close(host)  # from now on it polls as hung up, without end
    os.close(guest)
    yield "host away", hung_up


@pytest.mark.parametrize("which", ["no port", "no host", "host away"])
def test_it_wakes_to_look_for_its_host_and_for_nothing_else(
    which: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World()
    world.run(dict(ports(tmp_path))[which], tmp_path, monkeypatch)
    looks = SECONDS / RETRY
    scans = SECONDS / 10
    assert looks <= world.wakes <= looks + scans + 10


def test_it_wakes_at_a_silent_terminal_to_ask_for_a_session_and_for_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, guest = pty.openpty()
    tty.setraw(guest)
    world = World()
    world.run(Port("unused", os.ttyname(guest)), tmp_path, monkeypatch)
    assert world.wakes < 40
    os.close(host)
    os.close(guest)
