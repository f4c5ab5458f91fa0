# SPDX-License-Identifier: Apache-2.0
"""Reads the agent's settings from one INI file; every error names file, line and key."""

import math
import re
from typing import Any, Callable, Dict, Iterable, NamedTuple, Optional

from . import ini
from .audits import DEFAULTS, Limits
from .checks import Schedule
from .directory import NAME, RESERVED, is_reserved
from .status import Status
from .tty import is_com

DEFAULT_PATH = "/etc/vmhb-guest/vmhb-guest.conf"
_PORT_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_CHECK_SECTION = "check:"
Parse = Callable[[str], Any]


class ConfigError(Exception):
    """A setting that is wrong; its text tells the user which and what is allowed."""


class OwnCheck(NamedTuple):
    """What the section of one check says beyond its schedule."""

    #: A line of shell to run instead of a file of the health directory; empty for none.
    command: str = ""
    #: Whom it runs as; empty for the agent's own user.
    user: str = ""


class Settings(NamedTuple):
    """What the agent needs to know; times in seconds."""

    port_name: str = "org.openstack.vmhb.0"
    #: A device to use in place of the virtio port of that name; empty for none.
    port_path: str = ""
    #: The heartbeat interval we ask the host for; the host decides.
    interval: float = 1.0
    health_dir: str = "/etc/vmhb-guest/health.d"
    #: Checks that may run at the same time.
    parallel: int = 4
    #: No check starts before the VM has been up that long.
    boot_delay: float = 30.0
    schedule: Schedule = Schedule()
    #: Schedules of checks that have a section of their own, by name.
    schedules: Dict[str, Schedule] = {}
    #: What else their sections say, by name.
    own_checks: Dict[str, OwnCheck] = {}
    #: The limits of the audits that are run, by name.
    audits: Dict[str, Limits] = DEFAULTS
    #: A hang is seen an interval and a timeout after it began, at the latest.
    audit_schedule: Schedule = Schedule(interval=30.0, timeout=20.0)
    #: Where the sockets for applications and for `vmhb-guest status` are.
    run_dir: str = "/run/vmhb-guest"

    def schedule_of(self, name: str) -> Schedule:
        """Return how the check `name` is run."""
        return self.schedules.get(name, self.schedule)


def port_name(text: str) -> str:
    """Return `text` as the name of a virtio port, or raise ValueError."""
    if not _PORT_NAME.fullmatch(text):
        raise ValueError("a port name has 1 to 64 of A-Z a-z 0-9 _ . : -")
    return text


def absolute_path(text: str) -> str:
    """Return `text` as an absolute path, or raise ValueError."""
    if not text.startswith("/"):
        raise ValueError("an absolute path expected")
    return text


def device(text: str) -> str:
    """Return `text` as what the port is opened by, or raise ValueError."""
    if not text.startswith("/") and not is_com(text):
        raise ValueError("an absolute path or a COM port expected")
    return text


def _seconds(low: float, high: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise ValueError("seconds from %g to %g expected" % (low, high))
        return value

    return parse


def _count(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", text) or not low <= int(text) <= high:
            raise ValueError("a whole number from %d to %d expected" % (low, high))
        return int(text)

    return parse


def _switch(text: str) -> bool:
    if text not in ("on", "off"):
        raise ValueError("on or off expected")
    return text == "on"


def _severity(text: str) -> Status:
    if text not in ("warning", "critical"):
        raise ValueError("warning or critical expected")
    return Status(text)


def _line(text: str) -> str:
    if not text or "\n" in text:
        raise ValueError("one line expected")
    return text


def _limits(high: float, falling: bool = False) -> Callable[[str], Optional[Limits]]:
    def parse(text: str) -> Optional[Limits]:
        if text == "off":
            return None
        try:
            warning, critical = map(_seconds(0.0, high), text.split())
        except ValueError:
            warning, critical = math.nan, math.nan
        if not (warning > critical if falling else warning <= critical):
            order = ">" if falling else "<="
            raise ValueError(
                "off expected, or two numbers from 0 to %g: warning %s critical" % (high, order)
            )
        return Limits(warning, critical)

    return parse


def _root(text: str) -> Optional[Limits]:
    return DEFAULTS["root"] if _switch(text) else None


#: The bounds keep a typing error from making a check useless or a burden.
_SCHEDULE: Dict[str, Parse] = {
    "interval": _seconds(1.0, 86400.0),
    "timeout": _seconds(0.1, 3600.0),
    "attempts": _count(1, 100),
    "severity": _severity,
}
_OWN: Dict[str, Parse] = {"command": _line, "user": _line}
_LIMITS: Dict[str, Parse] = {
    "timer": _limits(60.0),
    "exec": _limits(60.0),
    "loopback": _limits(60.0),
    "fsync": _limits(60.0),
    "memory": _limits(100.0),
    "space": _limits(100.0, falling=True),
    "root": _root,
}
_AUDITS: Dict[str, Parse] = {
    "enabled": _switch,
    "interval": _seconds(1.0, 3600.0),
    "timeout": _seconds(0.1, 3600.0),
    "attempts": _count(1, 100),
    **_LIMITS,
}
_AGENT: Dict[str, Parse] = {
    "port_name": port_name,
    "port_path": device,
    "interval": _seconds(0.1, 60.0),
    "run_dir": absolute_path,
}
_CHECKS: Dict[str, Parse] = {
    **_SCHEDULE,
    "health_dir": absolute_path,
    "parallel": _count(1, 64),
    "boot_delay": _seconds(0.0, 3600.0),
}


def load(path: str) -> Settings:
    """Return the settings in the file at `path`; raise ConfigError for whatever is wrong."""
    agent: Dict[str, Any] = {}
    checks: Dict[str, Any] = {}
    of_audits: Dict[str, Any] = {}
    of_check: Dict[str, Dict[str, Any]] = {}
    for name, section in _parse(path).items():
        if name == "agent":
            agent = _read(path, section, _AGENT)
        elif name == "checks":
            checks = _read(path, section, _CHECKS)
        elif name == "audits":
            of_audits = _read_audits(path, section)
        elif name.startswith(_CHECK_SECTION):
            of_check[_check_name(path, section)] = _read(path, section, {**_SCHEDULE, **_OWN})
        else:
            raise ConfigError(
                "%s:%d: unknown section [%s]: expected [agent], [audits], [checks] or [check:NAME]"
                % (path, section.line, name)
            )
    common = _take(checks, _SCHEDULE)
    own_checks = {name: OwnCheck(**_take(own, _OWN)) for name, own in of_check.items()}
    return Settings()._replace(
        schedule=Schedule()._replace(**common),
        schedules={
            name: Schedule()._replace(**dict(common, **own)) for name, own in of_check.items()
        },
        own_checks={name: own for name, own in own_checks.items() if own != OwnCheck()},
        **agent,
        **checks,
        **of_audits,
    )


def _take(values: Dict[str, Any], keys: Iterable[str]) -> Dict[str, Any]:
    """Move the values of the given keys out of `values`."""
    return {key: values.pop(key) for key in keys if key in values}


def _check_name(path: str, section: ini.Section) -> str:
    name = section.name[len(_CHECK_SECTION) :]
    if not NAME.fullmatch(name) or is_reserved(name):
        raise ConfigError(
            "%s:%d: [%s]: a check's name has 1 to 48 of A-Z a-z 0-9 _ . -"
            " and does not begin with %s"
            % (path, section.line, section.name, " or ".join(RESERVED))
        )
    return name


def _read_audits(path: str, section: ini.Section) -> Dict[str, Any]:
    values = _read(path, section, _AUDITS)
    enabled = values.pop("enabled", True)
    schedule = Settings().audit_schedule
    wanted = _take(values, _SCHEDULE)
    wanted.setdefault("timeout", min(schedule.timeout, wanted.get("interval", math.inf)))
    schedule = schedule._replace(**wanted)
    if schedule.timeout > schedule.interval:
        raise ConfigError(
            "%s:%d: [audits] timeout = %g: must not be above the interval, which is %g"
            % (path, section.line, schedule.timeout, schedule.interval)
        )
    limits = dict(DEFAULTS, **values) if enabled else {}
    on = {name: each for name, each in limits.items() if each is not None}
    return {"audits": on, "audit_schedule": schedule}


def _parse(path: str) -> Dict[str, ini.Section]:
    try:
        with open(path, encoding="utf-8") as lines:
            return ini.parse(lines)
    except OSError as error:
        raise ConfigError("cannot read %s: %s" % (path, error.strerror)) from None
    except ini.IniError as error:
        raise ConfigError("%s:%s" % (path, error)) from None
    except UnicodeDecodeError as error:
        raise ConfigError("%s: %s" % (path, error)) from None


def _read(path: str, section: ini.Section, keys: Dict[str, Parse]) -> Dict[str, Any]:
    values = {}
    for key, (text, line) in section.entries.items():
        where = "%s:%d: [%s] %s" % (path, line, section.name, key)
        if key not in keys:
            raise ConfigError("%s: unknown key; known: %s" % (where, ", ".join(sorted(keys))))
        try:
            values[key] = keys[key](text)
        except ValueError as error:
            raise ConfigError("%s = %s: %s" % (where, text, error)) from None
    return values
