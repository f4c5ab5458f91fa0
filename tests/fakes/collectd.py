# SPDX-License-Identifier: Apache-2.0
"""Stands in for collectd 5.12's Python module; has its limits and its traps, not only its names.

What it holds callers to was seen with the real daemon: fields are cut at 127 bytes (message:
255) and arrive as bytes where the cut splits a character; NUL is a TypeError, so is a type that
types.db lacks; notifications are delivered synchronously in the dispatching thread, and
dispatching one that nobody listens to is a RuntimeError.

Put it into ``sys.modules["collectd"]`` and drive it through `daemon`; `reset()` forgets all.
"""

from __future__ import annotations

import threading
import time as clock
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Callable, Union

Scalar = Union[str, int, float, bool]
Callback = Callable[..., None]

NOTIF_FAILURE = 1
NOTIF_WARNING = 2
NOTIF_OKAY = 4

LOG_ERR = 3
LOG_WARNING = 4
LOG_NOTICE = 5
LOG_INFO = 6
LOG_DEBUG = 7

DS_TYPE_COUNTER = 0
DS_TYPE_GAUGE = 1
DS_TYPE_DERIVE = 2
DS_TYPE_ABSOLUTE = 3

NAME_BYTES = 127
MESSAGE_BYTES = 255
LOG_LINE_BYTES = 1023

_Dataset = list[tuple[str, str, float, float]]

# The stock types that plugins here may use; a name that is not listed fails as it would in a
# daemon whose TypesDB lacks it.
_NAN = float("nan")
_ONE_GAUGE = ("value", "gauge", _NAN, _NAN)
_ONE_DERIVE = ("value", "derive", 0.0, _NAN)
TYPES_DB: dict[str, _Dataset] = {
    "bool": [("value", "gauge", 0.0, 1.0)],
    "bytes": [("value", "gauge", 0.0, _NAN)],
    "count": [("value", "gauge", 0.0, _NAN)],
    "derive": [_ONE_DERIVE],
    "domain_state": [("state", "gauge", 0.0, _NAN), ("reason", "gauge", 0.0, _NAN)],
    "duration": [("seconds", "gauge", 0.0, _NAN)],
    "gauge": [_ONE_GAUGE],
    "latency": [("value", "gauge", 0.0, _NAN)],
    "operations": [_ONE_DERIVE],
    "percent": [("value", "gauge", 0.0, 100.1)],
    "ping": [("value", "gauge", 0.0, 65535.0)],
    "ping_droprate": [("value", "gauge", 0.0, 1.0)],
    "queue_length": [("value", "gauge", 0.0, _NAN)],
    "response_time": [("value", "gauge", 0.0, _NAN)],
    "threads": [("value", "gauge", 0.0, _NAN)],
    "total_events": [_ONE_DERIVE],
    "uptime": [("value", "gauge", 0.0, 4294967295.0)],
}


class CollectdError(Exception):
    """What a callback raises to be logged without a traceback."""


class Signed(int):
    """An integer that travels as int64_t."""


class Unsigned(int):
    """An integer that travels as uint64_t."""


class Config:
    """One node of the configuration; numbers are always float, as collectd parses them."""

    def __init__(
        self,
        key: str,
        values: Sequence[str | float | bool] = (),
        children: Sequence[Config] = (),
    ) -> None:
        self.parent: Config | None = None
        self.key = key
        self.values = tuple(_parsed(value) for value in values)
        self.children = tuple(children)
        for child in self.children:
            child.parent = self


def _parsed(value: str | float | bool) -> str | float | bool:
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


class PluginData:
    """The fields that values and notifications share."""

    def __init__(self) -> None:
        self.host = ""
        self.plugin = ""
        self.plugin_instance = ""
        self.type = ""
        self.type_instance = ""
        self.time = 0.0

    def _take(self, fields: Mapping[str, Any]) -> None:
        for name, value in fields.items():
            if value is None:
                continue
            if name in ("host", "plugin", "plugin_instance", "type", "type_instance"):
                value = _cut(value, NAME_BYTES)
            elif name == "message":
                value = _cut(value, MESSAGE_BYTES)
            elif name in ("time", "interval"):
                value = float(value)
            elif name == "meta":
                value = dict(value)
            if name == "type" and value not in TYPES_DB:
                raise TypeError(f"Dataset {value} not found")
            setattr(self, name, value)


class Values(PluginData):
    """Numbers on their way to the write plugins."""

    def __init__(
        self,
        type: str | None = None,
        values: Sequence[float] | None = None,
        plugin_instance: str | None = None,
        type_instance: str | None = None,
        plugin: str | None = None,
        host: str | None = None,
        time: float | None = None,
        interval: float | None = None,
        meta: Mapping[str, Scalar] | None = None,
    ) -> None:
        super().__init__()
        self.values: Sequence[float] = ()
        self.interval = 0.0
        self.meta: dict[str, Scalar] = {}
        self._take({k: v for k, v in locals().items() if k in _VALUES_FIELDS})

    def dispatch(
        self,
        type: str | None = None,
        values: Sequence[float] | None = None,
        plugin_instance: str | None = None,
        type_instance: str | None = None,
        plugin: str | None = None,
        host: str | None = None,
        time: float | None = None,
        interval: float | None = None,
        meta: Mapping[str, Scalar] | None = None,
    ) -> None:
        """Hand a copy, completed with defaults, to `daemon.values`."""
        given = {k: v for k, v in locals().items() if k in _VALUES_FIELDS}
        sent = Values()
        sent._take({name: getattr(self, name) for name in _VALUES_FIELDS if name != "type"})
        sent.type = self.type
        sent._take(given)
        sent._complete()
        daemon.values.append(sent)

    def _complete(self) -> None:
        if not self.type:
            raise RuntimeError("type not set")
        if not isinstance(self.values, (list, tuple)):
            raise TypeError("values must be list or tuple")
        size = len(TYPES_DB[self.type])
        if len(self.values) != size:
            raise RuntimeError(f"type {self.type} needs {size} values, got {len(self.values)}")
        self.values = [float(value) for value in self.values]
        self.host = self.host or daemon.hostname
        self.plugin = (self.plugin or "python").replace("/", "_")
        self.plugin_instance = self.plugin_instance.replace("/", "_")
        self.type_instance = self.type_instance.replace("/", "_")
        self.time = self.time or clock.time()
        if not self.interval:
            if getattr(_inside_read, "interval", 0.0):
                self.interval = _inside_read.interval
            else:
                self.interval = daemon.interval
                error("UNKNOWN plugin: plugin_get_interval: Unable to determine Interval")


class Notification(PluginData):
    """Something that happened, on its way to whoever registered for notifications."""

    def __init__(
        self,
        type: str | None = None,
        message: str | None = None,
        plugin_instance: str | None = None,
        type_instance: str | None = None,
        plugin: str | None = None,
        host: str | None = None,
        time: float | None = None,
        severity: int | None = None,
        meta: Mapping[str, Scalar] | None = None,
    ) -> None:
        super().__init__()
        self.message = ""
        self.severity = 0
        self.meta: dict[str, Scalar] = {}
        self._take({k: v for k, v in locals().items() if k in _NOTIFICATION_FIELDS})

    def dispatch(
        self,
        type: str | None = None,
        message: str | None = None,
        plugin_instance: str | None = None,
        type_instance: str | None = None,
        plugin: str | None = None,
        host: str | None = None,
        time: float | None = None,
        severity: int | None = None,
        meta: Mapping[str, Scalar] | None = None,
    ) -> None:
        """Call every notification callback, here and now, each with a copy of its own."""
        given = {k: v for k, v in locals().items() if k in _NOTIFICATION_FIELDS}
        fields = {name: getattr(self, name) for name in _NOTIFICATION_FIELDS if name != "type"}
        listeners = list(daemon.callbacks["notification"].values())
        for number in range(max(1, len(listeners))):
            sent = Notification()
            sent._take(fields)
            sent.type = self.type
            sent._take(given)
            sent.host = sent.host or daemon.hostname
            sent.plugin = sent.plugin or "python"
            sent.time = sent.time or clock.time()
            sent.meta = {_cut(k, NAME_BYTES): _meta_value(v) for k, v in sent.meta.items()}
            if number == 0:
                daemon.notifications.append(sent)
            if listeners:
                _call(listeners[number], sent)
        if not listeners:
            raise RuntimeError("error dispatching notification, read the logs")


_SHARED_FIELDS = ("type", "plugin_instance", "type_instance", "plugin", "host", "time", "meta")
_VALUES_FIELDS = (*_SHARED_FIELDS, "values", "interval")
_NOTIFICATION_FIELDS = (*_SHARED_FIELDS, "message", "severity")


def _cut(text: Any, size: int) -> Any:
    """Cut by bytes as a char[] does: str, or bytes where the cut splits a character."""
    if isinstance(text, bytes):
        raw = text
    elif isinstance(text, str):
        raw = text.encode()
    else:
        raise TypeError(f"a string is needed, not {text!r}")
    if b"\0" in raw:
        raise TypeError("embedded null character")
    raw = raw[:size]
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw


def _meta_value(value: Any) -> Scalar:
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return Unsigned(value) if value > 0x7FFF_FFFF_FFFF_FFFF else Signed(value)
    if isinstance(value, (str, float)):
        return value
    return repr(value)


@dataclass
class _Callback:
    function: Callback
    data: tuple[Any, ...]
    interval: float = 0.0


def _call(callback: _Callback, *arguments: Any) -> bool:
    """Call as collectd does after the configuration was read: what is raised is logged."""
    try:
        callback.function(*arguments, *callback.data)
    except Exception as problem:
        error(f"Unhandled python exception: {type(problem).__name__}: {problem}")
        return False
    return True


@dataclass
class Daemon:
    """The daemon as a test sees it: what reached it, and the moments of its life."""

    hostname: str = "compute-1"
    interval: float = 10.0
    log: list[tuple[int, str]] = field(default_factory=list)
    values: list[Values] = field(default_factory=list)
    notifications: list[Notification] = field(default_factory=list)
    callbacks: dict[str, dict[str, _Callback]] = field(
        default_factory=lambda: {
            kind: {}
            for kind in (
                "config",
                "init",
                "read",
                "write",
                "notification",
                "flush",
                "log",
                "shutdown",
            )
        }
    )

    def lines(self, level: int) -> list[str]:
        """Return what was logged at this level."""
        return [text for at, text in self.log if at == level]

    def configure(self, module: str, *children: Config) -> None:
        """Hand ``<Module module>`` to its callback; what that raises would end the daemon."""
        for name, callback in self.callbacks["config"].items():
            if name.lower() in (f"python.{module}".lower(), module.lower()):
                callback.function(Config("Module", [module], children), *callback.data)

    def init(self) -> None:
        """Call the init callbacks, the last registered first."""
        for callback in reversed(list(self.callbacks["init"].values())):
            _call(callback)

    def read(self) -> bool:
        """Call every read callback once; False when one raised."""
        well = True
        for callback in list(self.callbacks["read"].values()):
            _inside_read.interval = callback.interval or self.interval
            try:
                well = _call(callback) and well
            finally:
                _inside_read.interval = 0.0
        return well

    def shutdown(self) -> None:
        """Call the shutdown callbacks, the last registered first."""
        for callback in reversed(list(self.callbacks["shutdown"].values())):
            _call(callback)


_inside_read = threading.local()
daemon = Daemon()


def reset() -> Daemon:
    """Begin a new life of the daemon, in which nothing is registered and nothing was said."""
    global daemon
    daemon = Daemon()
    return daemon


_NOTHING: Any = object()


def _register(kind: str, callback: Callback, data: Any, name: str, interval: float = 0.0) -> str:
    identifier = f"python.{name or callback.__module__}"
    known = daemon.callbacks[kind]
    if identifier in known:
        warning(f"register_{kind}: {identifier} is registered already")
        if kind == "read":
            return identifier
    arguments = () if data is _NOTHING else (data,)
    known[identifier] = _Callback(callback, arguments, interval)
    return identifier


def register_config(callback: Callback, data: Any = _NOTHING, name: str = "") -> str:
    """Have `callback` called with the ``<Module>`` block of that name."""
    return _register("config", callback, data, name)


def register_init(callback: Callback, data: Any = _NOTHING, name: str = "") -> str:
    """Have `callback` called after the daemon has forked."""
    return _register("init", callback, data, name)


def register_read(
    callback: Callback, interval: float = 0.0, data: Any = _NOTHING, name: str = ""
) -> str:
    """Have `callback` called every `interval` seconds; a name in use is refused."""
    return _register("read", callback, data, name, interval)


def register_write(callback: Callback, data: Any = _NOTHING, name: str = "") -> str:
    """Have `callback` called with all values; a name in use is taken over."""
    return _register("write", callback, data, name)


def register_notification(callback: Callback, data: Any = _NOTHING, name: str = "") -> str:
    """Have `callback` called with all notifications; a name in use is taken over."""
    return _register("notification", callback, data, name)


def register_flush(callback: Callback, data: Any = _NOTHING, name: str = "") -> str:
    """Have `callback` called on a flush."""
    return _register("flush", callback, data, name)


def register_log(callback: Callback, data: Any = _NOTHING, name: str = "") -> str:
    """Have `callback` called with each log line."""
    return _register("log", callback, data, name)


def register_shutdown(callback: Callback, data: Any = _NOTHING, name: str = "") -> str:
    """Have `callback` called before the daemon ends."""
    return _register("shutdown", callback, data, name)


def _log(level: int, message: str) -> None:
    text = _cut(message, LOG_LINE_BYTES)
    daemon.log.append((level, text if isinstance(text, str) else text.decode(errors="ignore")))


def error(message: str) -> None:
    """Log at ERR."""
    _log(LOG_ERR, message)


def warning(message: str) -> None:
    """Log at WARNING."""
    _log(LOG_WARNING, message)


def notice(message: str) -> None:
    """Log at NOTICE."""
    _log(LOG_NOTICE, message)


def info(message: str) -> None:
    """Log at INFO."""
    _log(LOG_INFO, message)


def debug(message: str) -> None:
    """Do nothing, as in every build without --enable-debug."""
    _cut(message, LOG_LINE_BYTES)


def get_dataset(name: str) -> _Dataset:
    """Return the data sources of a type; TypeError when types.db lacks it."""
    if name not in TYPES_DB:
        raise TypeError(f"Dataset {name} not found")
    return TYPES_DB[name]


def flush(plugin: str = "", timeout: float = -1.0, identifier: str = "") -> None:
    """Call the flush callbacks."""
    for callback in list(daemon.callbacks["flush"].values()):
        _call(callback, timeout, identifier)
