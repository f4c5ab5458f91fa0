# SPDX-License-Identifier: Apache-2.0
"""collectd's callbacks: notifications go into the outbox, threads save it and carry it on.

Nothing here may take collectd down: a config callback that raises ends the daemon, and so does
an import that fails. What is wrong is said in the log, and this plugin stays off.
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
import time
from pathlib import Path

import collectd

from vitrage_notifier.alarm import PLUGIN, News, NotOursError, read
from vitrage_notifier.outbox import MAX_WANTED, Outbox, OutboxFullError
from vitrage_notifier.sender import Sender, Transport
from vitrage_notifier.settings import Settings, read_settings, with_url
from vitrage_notifier.store import Store

NAME = "vitrage_notifier"

#: Seconds that collectd's shutdown waits for an attempt to send that is under way.
SHUTDOWN_PATIENCE = 5.0
#: Notifications kept that arrive before our init: the engine's may have run already.
MAX_EARLY = 10_000
#: Different complaints about notifications that are logged; the rest would only fill the log.
MAX_COMPLAINTS = 50
#: ``type_instance`` of our one notification: changes are kept in memory only.
NOT_ON_DISK = "outbox-not-on-disk"
#: collectd's char[256] less the terminating NUL.
MESSAGE_MAX = 255
#: What the disk says when it is no matter of configuration.
_BAD_DISK = (errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EIO)


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
        self._store: Store | None = None
        self._sender: Sender | None = None
        #: Notifications of plugin vmhb that made no sense; alarms for which there was no room.
        self._ignored = 0
        self._dropped = 0
        #: Seconds that a dispatching thread spent here, at most, since the last read.
        self._longest = 0.0
        self._told_trouble = False
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
        began = time.monotonic()
        try:
            if notification.plugin == PLUGIN:
                self._notify(notification)
        except NotOursError as problem:
            self._ignored += 1
            self._complain(f"notification ignored: {problem}")
        except Exception as problem:
            self._complain(f"notification lost: {type(problem).__name__}: {problem}")
        self._longest = max(self._longest, time.monotonic() - began)

    def read(self) -> None:
        """Hand out our values, and say when the disk fails and when it is back."""
        try:
            outbox, store, sender = self._outbox, self._store, self._sender
            if outbox is not None and store is not None and sender is not None:
                self._tell_trouble(store.trouble)
                for type_, name, value in self._values(outbox, store, sender):
                    collectd.Values(
                        plugin=NAME, type=type_, type_instance=name, values=[value]
                    ).dispatch()
        except Exception as problem:
            # collectd would call us ever more rarely.
            self._complain(f"values lost: {type(problem).__name__}: {problem}")

    def shutdown(self) -> None:
        """Stop to send; what waits is on disk and goes out after the next start."""
        with self._early_lock:
            self._early = None
        self._outbox = None
        if self._sender is not None and not self._sender.stop(SHUTDOWN_PATIENCE):
            self._log.warning("the broker's library does not return: left behind")
        if self._store is not None and not self._store.stop():
            self._log.error("the disk does not answer: what it lacks is lost")
            return
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None

    def _start(self) -> None:
        if not self._blocks:
            self._log.error(f"stays off: there is no <Module {NAME}> block with a TransportUrl")
        if self._settings is None or self._errors:
            return
        try:
            settings = with_url(self._settings)
        except ValueError as problem:
            self._log.error(f"stays off: {problem}")
            return
        self._log = CollectdLog(settings)
        transport = self._open_transport(settings)
        if transport is None or not self._own(settings.state_dir):
            return
        outbox = Outbox(settings.resend_interval, settings.repeat_ok_for)
        self._store = Store(outbox, settings.state_dir / "outbox.sqlite", self._log)
        self._store.start()
        self._sender = Sender(
            outbox, transport, self._log, settings.resend_interval, self._store.settle
        )
        self._sender.start()
        self._outbox = outbox

    def _own(self, state_dir: Path) -> bool:
        """Become the one owner of the outbox; False when another process is."""
        try:
            self._lock_fd = _lock(state_dir / "notifier.lock")
        except OSError as problem:
            if problem.errno not in _BAD_DISK:
                raise
            # Two of us would send the same alarms under the same ids: better than none.
            return True
        if self._lock_fd is None:
            self._log.notice(f"another collectd serves {state_dir}: this one does nothing")
        return self._lock_fd is not None

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
        if settings.trusts_any_broker:
            self._log.warning("TransportUrl: without ssl_ca_file anybody may pose as the broker")
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
            self._dropped += 1
            self._complain(f"more than {MAX_WANTED} alarms are open: new ones are not sent")
            return
        if changed and self._store is not None and self._sender is not None:
            self._store.wake()
            self._sender.wake()

    def _values(self, outbox: Outbox, store: Store, sender: Sender) -> list[tuple[str, str, float]]:
        """Return type, type_instance and value of what the README lists."""
        queued, oldest = outbox.backlog()
        longest, self._longest = self._longest, 0.0
        counters = sender.counters
        values: list[tuple[str, str, float]] = [
            ("gauge", "open", outbox.count_open()),
            ("gauge", "on-disk", not store.trouble),
            ("queue_length", "queued", queued),
            ("duration", "oldest", oldest),
            ("latency", "callback", longest),
            ("derive", "sent", counters.sent),
            ("derive", "retried", counters.retried),
            ("derive", "ignored", self._ignored),
            ("derive", "dropped", self._dropped),
            ("derive", "failed-no-consumer", counters.unread),
        ]
        failed = sorted(counters.failed.items())
        return values + [("derive", f"failed-{kind}", count) for kind, count in failed]

    def _tell_trouble(self, trouble: str) -> None:
        if bool(trouble) is self._told_trouble:
            return
        self._told_trouble = bool(trouble)
        collectd.Notification(
            plugin=NAME,
            type="gauge",
            type_instance=NOT_ON_DISK,
            severity=collectd.NOTIF_WARNING if trouble else collectd.NOTIF_OKAY,
            message=_ascii(f"alarms are kept in memory only: {trouble}")[:MESSAGE_MAX]
            if trouble
            else "the outbox is on disk again",
        ).dispatch()

    def _complain(self, text: str) -> None:
        if text not in self._complaints and len(self._complaints) < MAX_COMPLAINTS:
            self._complaints.add(text)
            self._log.error(text)


def _ascii(text: str) -> str:
    # collectd cuts by bytes, and would cut a character in two.
    return text.encode("ascii", "replace").decode().replace("\0", "?")


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
collectd.register_read(_notifier.read, name=NAME)
collectd.register_shutdown(_notifier.shutdown, name=NAME)
