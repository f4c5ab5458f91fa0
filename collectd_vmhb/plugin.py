# SPDX-License-Identifier: Apache-2.0
"""The collectd plugin: configuration in; notifications, values and log lines out.

What collectd's Python host asks of a plugin (facts measured with collectd 5.12):
    Nothing that happens at import or in the config callback may raise, or collectd itself exits.
    Threads live only from init on: collectd forks between config and init.
    Notifications are delivered in the thread that dispatches them, through every other plugin's
    callback; so they are dispatched from a thread of their own.
    A read callback that raises is called less and less often.
"""

from __future__ import annotations

import logging
import logging.handlers
import queue
import resource
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import collectd

from collectd_vmhb.config import ConfigError, read_settings
from collectd_vmhb.control import ControlError, ControlServer, answer
from collectd_vmhb.policy_file import PolicyFile, PolicyReader
from collectd_vmhb.publish import MESSAGE_MAX, PLUGIN, Note, cut
from collectd_vmhb.pulse import Beat, Pulse
from collectd_vmhb.settings import Settings
from collectd_vmhb.state import (
    State,
    StateError,
    StateFile,
    StateLock,
    StateLockedError,
    StateSaver,
)
from collectd_vmhb.verdict import ENGINE_IMPAIRED

if TYPE_CHECKING:
    from collectd_vmhb.engine import Engine
    from collectd_vmhb.hypervisor import Hypervisor

log = logging.getLogger("collectd_vmhb")

#: What collectd's char[1024] for a log line holds, less its own prefix.
LOG_LINE_MAX = 900
#: Stopping waits so many seconds for each thread of ours.
STOP_TIMEOUT = 3.0

_SEVERITY = {
    "failure": collectd.NOTIF_FAILURE,
    "warning": collectd.NOTIF_WARNING,
    "okay": collectd.NOTIF_OKAY,
}


class CollectdLog(logging.Handler):
    """Hands log records to collectd's own log."""

    def emit(self, record: logging.LogRecord) -> None:
        """Writes one record, a line for each of its lines."""
        write = collectd.info
        if record.levelno >= logging.ERROR:
            write = collectd.error
        elif record.levelno >= logging.WARNING:
            write = collectd.warning
        # collectd raises for a NUL and for half of a surrogate pair, which a guest can send.
        text = self.format(record).replace("\0", "?").encode("utf-8", "replace").decode()
        for line in text.splitlines():
            write(f"vmhb: {line}"[:LOG_LINE_MAX])


class Dispatcher:
    """Dispatches notifications from a thread of its own, in order.

    It waits for `release`: before the first read, other plugins may not be initialised yet and
    would lose what they are told.
    """

    def __init__(self) -> None:
        self._notes: queue.SimpleQueue[Note | None] = queue.SimpleQueue()
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._run, name="vmhb-dispatch", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def put(self, note: Note) -> None:
        """Takes one notification; never blocks."""
        self._notes.put(note)

    def release(self) -> None:
        """Lets the notifications out."""
        self._released.set()

    def stop(self, timeout: float) -> None:
        """Dispatches what is queued and ends, within ``timeout`` seconds."""
        self._notes.put(None)
        self._released.set()
        self._thread.join(timeout)

    def _run(self) -> None:
        self._released.wait()
        while True:
            note = self._notes.get()
            if note is None:
                return
            dispatch(note)


def dispatch(note: Note) -> None:
    """Gives one notification to collectd; says so in the log if nobody takes any."""
    try:
        collectd.Notification(
            plugin=PLUGIN,
            plugin_instance=note.plugin_instance,
            type="gauge",
            type_instance=note.type_instance,
            severity=_SEVERITY[note.severity],
            message=note.message,
            time=note.time,
            meta=dict(note.meta),
        ).dispatch()
    except Exception as error:
        # collectd raises RuntimeError when no plugin at all registered for notifications.
        log.error("notification not delivered (%s): %s", error, note.message)


class Plugin:
    """One plugin in one daemon, from its configuration to its shutdown."""

    def __init__(self) -> None:
        self._settings: Settings | None = Settings()
        self._configured = False
        self._problem = ""
        self._lock: StateLock | None = None
        self._engine: Engine | None = None
        self._hypervisor: Hypervisor | None = None
        self._saver: StateSaver | None = None
        self._policies: PolicyReader | None = None
        self._control: ControlServer | None = None
        self._thread: threading.Thread | None = None
        self._pulse: Pulse | None = None
        self._told_stuck = False
        self._dispatcher = Dispatcher()
        self._listener: logging.handlers.QueueListener | None = None

    def config(self, config: collectd.Config) -> None:
        """Reads the ``<Module vmhb>`` block; a wrong one leaves the plugin off."""
        try:
            if self._configured:
                raise ConfigError(["a second <Module vmhb> block; put all keys into one"])
            self._configured = True
            self._settings = read_settings(config)
        except ConfigError as error:
            self._off([f"config: {problem}" for problem in error.problems])
        except Exception as error:
            log.exception("the configuration cannot be read")
            self._off([repr(error)])

    def init(self) -> None:
        """Starts the engine; whatever is in its way is said, and collectd runs on."""
        try:
            if self._settings is not None:
                _raise_descriptor_limit()
                self._start(self._settings)
        except StateLockedError as error:
            # Perhaps a collectd -T beside the daemon: nobody else is to hear of it.
            log.error("%s", error)
        except (StateError, ImportError) as error:
            self._off([str(error)])
        except Exception as error:
            log.exception("the engine does not start")
            self._off([repr(error)])

    def read(self) -> None:
        """Dispatches the values of every VM and of the engine."""
        self._dispatcher.release()
        if self._problem:
            # Not in init: other plugins may not listen yet.
            dispatch(_host_note("failure", f"VM heartbeat is off on this host: {self._problem}"))
            self._problem = ""
        if self._engine is None:
            return
        try:
            values = collectd.Values(plugin=PLUGIN)
            for instance, kind, name, value in self._engine.desk.samples():
                values.dispatch(
                    plugin_instance=instance, type=kind, type_instance=name, values=[value]
                )
        except Exception:
            log.exception("values not dispatched")
        try:
            self._feel_pulse(self._engine)
        except Exception:
            log.exception("the engine's loop is not looked after")

    def shutdown(self) -> None:
        """Ends every thread within a bounded time: collectd would wait for ever."""
        if self._control is not None:
            self._control.stop(STOP_TIMEOUT)
        if self._engine is not None and self._thread is not None:
            self._engine.stop()
            self._thread.join(STOP_TIMEOUT)
        if self._hypervisor is not None:
            self._hypervisor.stop()
        if self._policies is not None:
            self._policies.stop(STOP_TIMEOUT)
        if self._saver is not None:
            self._saver.stop(STOP_TIMEOUT)
            if self._engine is not None:
                self._engine.flush()
            self._dispatcher.stop(STOP_TIMEOUT)
        if self._listener is not None:
            self._listener.stop()
            _log_through(*self._listener.handlers)
        if self._lock is not None:
            self._lock.release()

    def _feel_pulse(self, engine: Engine) -> None:
        """Says, in the engine's place, that its loop is stuck, and that it is back."""
        beat = self._pulse.look(time.monotonic()) if self._pulse else Beat.NOTHING_NEW
        if beat is Beat.STUCK:
            where = _where(self._thread)
            log.error("the engine's loop stands still (%s)", where)
            if engine.desk.is_telling():
                self._told_stuck = True
                self._dispatcher.put(
                    _host_note(
                        "failure",
                        f"VM heartbeat: the engine stands still ({where}), no VM of this host is "
                        "watched: restart collectd",
                    )
                )
        elif beat is Beat.BACK:
            log.warning("the engine's loop turns again")
            if self._told_stuck:
                self._told_stuck = False
                self._dispatcher.put(_host_note("okay", "VM heartbeat: the engine is back"))
                # What it had told of this host before is closed with it.
                engine.desk.say_again()

    def _log_from_a_thread(self) -> None:
        """Keeps the engine from waiting for collectd's log, which may be on a slow disk."""
        records: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
        direct = logging.getLogger("collectd_vmhb").handlers[:]
        self._listener = logging.handlers.QueueListener(records, *direct)
        self._listener.start()
        _log_through(logging.handlers.QueueHandler(records))

    def _off(self, problems: list[str]) -> None:
        for problem in problems:
            log.error("%s", problem)
        log.error("the plugin stays off until this is corrected")
        self._settings = None
        self._problem = problems[0]

    def _start(self, settings: Settings) -> None:
        try:
            from collectd_vmhb.engine import Engine, Saved
            from collectd_vmhb.hypervisor import Hypervisor
        except ImportError as error:
            raise ImportError(
                f"{error}; install libvirt's Python binding for collectd's Python (python3-libvirt)"
            ) from None
        self._lock = StateLock(settings.state_dir)
        file = StateFile(settings.state_dir)
        try:
            state = file.load()
        except StateError as error:
            log.error("%s; starting with no open faults", error)
            state = State()
        self._saver = StateSaver(file, lambda number, error: engine.post(Saved(number, error)))
        policy_file = PolicyFile(settings.state_dir)
        # Before the first comparison with libvirt: it ends the faults of VMs that nobody asks for.
        engine = Engine(
            settings,
            state,
            self._saver.save,
            self._dispatcher.put,
            policies=policy_file.first(),
        )
        self._policies = PolicyReader(policy_file, engine.post)
        self._hypervisor = Hypervisor(settings.libvirt_uri, engine.post, list(state.established))
        self._engine = engine
        self._thread = threading.Thread(
            target=engine.run, args=(self._hypervisor,), name="vmhb-engine", daemon=True
        )
        workers = (self._saver, self._dispatcher, self._thread, self._policies, self._hypervisor)
        for worker in workers:
            worker.start()
        self._pulse = Pulse(engine.desk.ping)
        try:
            self._control = ControlServer(
                settings.control_socket, lambda line: answer(engine.desk, line)
            )
            self._control.start()
        except (ControlError, OSError) as error:
            # Heartbeats need no operator.
            log.error("%s", error)
        self._log_from_a_thread()
        log.info("watching %s, mode %s", settings.libvirt_uri, settings.mode.value)


def _log_through(*handlers: logging.Handler) -> None:
    logging.getLogger("collectd_vmhb").handlers[:] = handlers


def _host_note(severity: str, text: str) -> Note:
    """Returns what is said without the engine, hence without an incident."""
    return Note(
        plugin_instance="",
        type_instance=ENGINE_IMPAIRED,
        severity=severity,
        message=cut(text, MESSAGE_MAX),
        time=time.time(),
    )


def _where(thread: threading.Thread | None) -> str:
    """Says what a thread of ours is doing."""
    frame = sys._current_frames().get(thread.ident or 0) if thread else None
    if frame is None:
        return "its thread has ended"
    code = frame.f_code
    return f"in {code.co_name}, line {frame.f_lineno} of {Path(code.co_filename).name}"


def _raise_descriptor_limit() -> None:
    """Lets this process have a channel for each VM: systemd's soft limit is 1024."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def register() -> None:
    """Registers one Plugin with collectd; called once, when collectd imports this module."""
    root = logging.getLogger("collectd_vmhb")
    _log_through(CollectdLog())
    root.setLevel(logging.INFO)
    root.propagate = False
    plugin = Plugin()
    collectd.register_config(plugin.config, name="vmhb")
    collectd.register_init(plugin.init, name="vmhb")
    collectd.register_read(plugin.read, name="vmhb")
    collectd.register_shutdown(plugin.shutdown, name="vmhb")


register()
