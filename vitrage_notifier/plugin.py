# SPDX-License-Identifier: Apache-2.0
"""collectd's callbacks: notifications go into the outbox, a thread carries them on.

Nothing here may take collectd down: a config callback that raises ends the daemon, and so does
an import that fails. What is wrong is said in the log, and this plugin stays off.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
from pathlib import Path

import collectd

from vitrage_notifier.alarm import PLUGIN, News, NotOursError, read
from vitrage_notifier.outbox import MAX_WANTED, Outbox, OutboxFullError, open_outbox
from vitrage_notifier.sender import Sender, Transport
from vitrage_notifier.settings import Settings, read_settings

NAME = "vitrage_notifier"

#: Seconds that collectd's shutdown waits for an attempt to send that is under way.
SHUTDOWN_PATIENCE = 5.0
#: Notifications kept that arrive before our init: the engine's may have run already.
MAX_EARLY = 10_000
#: Different complaints about notifications that are logged; the rest would only fill the log.
MAX_COMPLAINTS = 50


class CollectdLog:
    """Writes to collectd's log, and never a password."""

    def __init__(self, settings: Settings | None = None) -> None:
        self._settings = settings

    def error(self, text: str) -> None:
        """Say what an operator must repair."""
        collectd.error(self._line(text))

    def warning(self, text: str) -> None:
        """Say what may pass by itself."""
        collectd.warning(self._line(text))

    def notice(self, text: str) -> None:
        """Say what an operator may want to know."""
        collectd.notice(self._line(text))

    def _line(self, text: str) -> str:
        shown = self._settings.redact(text) if self._settings else text
        return f"{NAME}: {shown}".replace("\0", "\\0").replace("\n", " ")


class Notifier:
    """What the callbacks share: off, until init has found everything in order."""

    def __init__(self) -> None:
        self._log = CollectdLog()
        self._settings: Settings | None = None
        self._errors: list[str] = []
        self._blocks = 0
        self._lock_fd: int | None = None
        self._outbox: Outbox | None = None
        self._sender: Sender | None = None
        #: None: no longer kept, either taken over by the outbox or of no use.
        self._early: list[News] | None = []
        self._early_lock = threading.Lock()
        self._complaints: set[str] = set()

    def config(self, block: collectd.Config) -> None:
        """Read the stanza. Runs before collectd forks: no thread, no file, no connection here."""
        try:
            self._blocks += 1
            self._settings, errors = read_settings(block)
            if self._blocks > 1:
                errors.append(f"Module {NAME}: the block is there twice")
        except Exception as problem:
            errors = [f"Module {NAME}: {type(problem).__name__}: {problem}"]
        self._errors.extend(errors)
        for each in errors:
            self._log.error(each)

    def init(self) -> None:
        """Open the outbox and start to send, or say why not and stay off."""
        try:
            self._start()
        except Exception as problem:
            self._log.error(f"stays off: {type(problem).__name__}: {problem}")
        # Under the lock, lest a notification of this moment overtake the early ones.
        with self._early_lock:
            early, self._early = self._early, None
            if self._outbox is not None:
                for news in early or ():
                    self._take(self._outbox, news)

    def notify(self, notification: collectd.Notification) -> None:
        """Keep a notification of ours; quick, because the engine's dispatcher waits for it."""
        try:
            if notification.plugin == PLUGIN:
                self._notify(notification)
        except NotOursError as problem:
            self._complain(f"notification ignored: {problem}")
        except Exception as problem:
            self._complain(f"notification lost: {type(problem).__name__}: {problem}")

    def shutdown(self) -> None:
        """Stop to send; what waits is on disk and goes out after the next start."""
        with self._early_lock:
            self._early = None
        outbox, self._outbox = self._outbox, None
        if self._sender is not None and not self._sender.stop(SHUTDOWN_PATIENCE):
            self._log.warning("the broker's library does not return: left behind")
            return
        if outbox is not None:
            outbox.close()
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None

    def _start(self) -> None:
        if not self._blocks:
            self._log.error(f"stays off: there is no <Module {NAME}> block with a TransportUrl")
        if self._settings is None or self._errors:
            return
        settings = self._settings
        self._log = CollectdLog(settings)
        transport = self._open_transport(settings)
        if transport is None:
            return
        self._lock_fd = _lock(settings.state_dir / "notifier.lock")
        if self._lock_fd is None:
            self._log.notice(f"another collectd serves {settings.state_dir}: this one does nothing")
            return
        outbox, lost = open_outbox(settings.state_dir / "outbox.sqlite")
        if lost:
            self._log.error(lost)
        self._sender = Sender(outbox, transport, self._log, settings.resend_interval)
        self._sender.start()
        self._outbox = outbox

    def _open_transport(self, settings: Settings) -> Transport | None:
        try:
            # Here and not at the head of the file: an import that fails would end collectd.
            from vitrage_notifier.transport import OsloTransport
        except Exception as problem:
            self._log.error(
                f"stays off: oslo.messaging cannot be imported ({type(problem).__name__}: "
                f"{problem}); install python3-oslo.messaging, or oslo.messaging with pip where "
                "ModulePath points to"
            )
            return None
        transport = OsloTransport(settings.transport_url, settings.topic, settings.send_timeout)
        try:
            transport.open()
        except Exception as problem:
            self._log.error(f"stays off: TransportUrl: {problem}")
            return None
        return transport

    def _notify(self, notification: collectd.Notification) -> None:
        with self._early_lock:
            if self._early is not None:
                if len(self._early) < MAX_EARLY:
                    self._early.append(read(notification))
                return
        outbox = self._outbox
        if outbox is not None:
            self._take(outbox, read(notification))

    def _take(self, outbox: Outbox, news: News) -> None:
        try:
            changed = outbox.take(news)
        except OutboxFullError:
            self._complain(f"more than {MAX_WANTED} alarms are open: new ones are not sent")
            return
        except sqlite3.Error as problem:
            self._complain(f"notification lost: cannot write the outbox: {problem}")
            return
        if changed and self._sender is not None:
            self._sender.wake()

    def _complain(self, text: str) -> None:
        if text not in self._complaints and len(self._complaints) < MAX_COMPLAINTS:
            self._complaints.add(text)
            self._log.error(text)


def _lock(path: Path) -> int | None:
    """Return the descriptor that holds the lock; None when another process has it."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


_notifier = Notifier()
collectd.register_config(_notifier.config, name=NAME)
collectd.register_init(_notifier.init, name=NAME)
collectd.register_notification(_notifier.notify, name=NAME)
collectd.register_shutdown(_notifier.shutdown, name=NAME)
