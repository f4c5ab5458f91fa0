# SPDX-License-Identifier: Apache-2.0
"""Puts the agent together from its settings, and does what is asked of it while it runs."""

import math
import os
import socket
import time
from typing import Callable, List

from . import __version__, jobs, log
from .applications import Applications
from .auditor import Auditor
from .checks import Checks
from .config import ConfigError, Settings
from .control import Control
from .line_server import LineServer, Message
from .loop import Loop
from .memory import Memory
from .part import Part
from .port import Port
from .session import Session
from .signals import SignalPipe
from .status import CheckResult
from .watchdog import Watchdog, period
from .wire import integer

#: A VM that is busy for longer than an hour should say so again.
BUSY_MAX_MS = 3600000
#: Two, so that one that hangs does not hold up the others, and they do not slow down each other.
_AUDITS_PARALLEL = 2
#: What a reload cannot change.
_FIXED = ("port_name", "port_path", "interval", "boot_delay", "run_dir")


class Agent:
    """The agent as a whole; `read_settings` reads them again, and raises ConfigError."""

    def __init__(
        self,
        settings: Settings,
        read_settings: Callable[[], Settings],
        port_within: float = math.inf,
    ) -> None:
        """Take the seconds within which a port must be found."""
        self._settings = settings
        self._read_settings = read_settings
        self._port = Port(settings.port_name, settings.port_path or None)
        self._session = Session(socket.gethostname(), settings.interval)
        if not jobs.CAN_RUN:
            log.warning("this system cannot fork: the heartbeat alone, without checks")
        # Linux counts its monotonic clock from the boot, so a delay after that is a time.
        after_boot = settings.boot_delay
        # The audits have runs to themselves: health checks that hang must not hold them up.
        self._audits = Checks(jobs.os_audits(settings), _AUDITS_PARALLEL, after_boot)
        self._health = Checks(jobs.health_checks(settings), settings.parallel, after_boot)
        memory = Memory(os.path.join(settings.run_dir, "applications.json"))
        self._applications = Applications(self._serve("app.sock", 0o666), self._count, memory)
        answers = {"status": self._status, "busy": self._busy}
        parts: List[Part] = [
            Watchdog(period(os.environ)),
            self._audits,
            self._health,
            self._applications,
            Auditor(self._session, [self._audits, self._health], self._applications),
            Control(self._serve("control.sock", 0o600), answers),
        ]
        give_up = time.monotonic() + port_within
        self._loop = Loop(self._port, self._session, parts, time.monotonic, self.reload, give_up)

    def run(self, signals: SignalPipe) -> bool:
        """Work until a signal says stop; return whether there has been a port."""
        return self._loop.run(signals)

    def reload(self) -> None:
        """Go by the settings as they are now; ones that are wrong leave everything as it is."""
        try:
            settings = self._read_settings()
        except ConfigError as error:
            log.error("the settings stay as they were: %s", error)
            return
        for key in _FIXED:
            if getattr(settings, key) != getattr(self._settings, key):
                log.warning("%s has changed, which takes a restart", key)
        self._settings = settings
        self._audits.reload(jobs.os_audits(settings), _AUDITS_PARALLEL)
        self._health.reload(jobs.health_checks(settings), settings.parallel)
        log.info("the settings have been read again")

    def _count(self) -> int:
        return len(self._audits.names) + len(self._health.names)

    def _serve(self, name: str, mode: int) -> LineServer:
        return LineServer(os.path.join(self._settings.run_dir, name), mode)

    def _busy(self, question: Message, now: float) -> Message:
        for_ms = integer(question, "for_ms", 0, BUSY_MAX_MS)
        reason = question.get("reason", "")
        if for_ms is None or not isinstance(reason, str):
            raise ValueError("for_ms must be an integer from 0 to %d, reason text" % BUSY_MAX_MS)
        self._session.busy(reason, now + for_ms / 1000.0)
        return {"told": self._session.tells("busy")}

    def _status(self, _: Message, now: float) -> Message:
        parts = (self._audits, self._health, self._applications)
        return {
            "version": __version__,
            "port": self._settings.port_path or self._settings.port_name,
            "connected": self._port.connected,
            "session": self._session.state.value,
            "interval_ms": int(self._session.interval * 1000),
            "malformed": self._session.malformed,
            "nacks": self._session.nacks,
            "checks": [_entry(result, now) for part in parts for result in part.results],
            "without_result": sorted(
                name for part in parts for name in part.names - {r.name for r in part.results}
            ),
        }


def _entry(result: CheckResult, now: float) -> Message:
    return {
        "name": result.name,
        "status": result.status.value,
        "text": result.text,
        "perfdata": result.perfdata,
        "since_ms": int((now - result.since) * 1000),
    }
