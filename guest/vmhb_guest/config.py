# SPDX-License-Identifier: Apache-2.0
"""Reads the agent's settings from one INI file; every error names file, section and key."""

import configparser
import math
import re
from typing import Any, Callable, Dict, NamedTuple

from .checks import Schedule
from .directory import NAME

DEFAULT_PATH = "/etc/vmhb-guest/vmhb-guest.conf"
_PORT_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_CHECK_SECTION = "check:"
Parse = Callable[[str], Any]


class ConfigError(Exception):
    """A setting that is wrong; its text tells the user which and what is allowed."""


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


#: The bounds keep a typing error from making a check useless or a burden.
_SCHEDULE: Dict[str, Parse] = {
    "interval": _seconds(1.0, 86400.0),
    "timeout": _seconds(0.1, 3600.0),
    "attempts": _count(1, 100),
}
_AGENT: Dict[str, Parse] = {
    "port_name": port_name,
    "port_path": absolute_path,
    "interval": _seconds(0.1, 60.0),
}
_CHECKS: Dict[str, Parse] = {
    **_SCHEDULE,
    "health_dir": absolute_path,
    "parallel": _count(1, 64),
    "boot_delay": _seconds(0.0, 3600.0),
}


def load(path: str) -> Settings:
    """Return the settings in the file at `path`; raise ConfigError for whatever is wrong."""
    parser = _parse(path)
    agent: Dict[str, Any] = {}
    checks: Dict[str, Any] = {}
    of_check: Dict[str, Dict[str, Any]] = {}
    for name in parser.sections():
        if name == "agent":
            agent = _read(path, parser[name], _AGENT)
        elif name == "checks":
            checks = _read(path, parser[name], _CHECKS)
        elif name.startswith(_CHECK_SECTION) and NAME.fullmatch(name[len(_CHECK_SECTION) :]):
            of_check[name[len(_CHECK_SECTION) :]] = _read(path, parser[name], _SCHEDULE)
        else:
            raise ConfigError(
                "%s: unknown section [%s]: expected [agent], [checks] or [check:NAME]"
                % (path, name)
            )
    common = {key: checks.pop(key) for key in _SCHEDULE if key in checks}
    return Settings()._replace(
        schedule=Schedule()._replace(**common),
        schedules={
            name: Schedule()._replace(**dict(common, **own)) for name, own in of_check.items()
        },
        **agent,
        **checks,
    )


def _parse(path: str) -> configparser.ConfigParser:
    # No section is special: [DEFAULT] would be one whose unknown keys nobody notices.
    parser = configparser.ConfigParser(interpolation=None, default_section="")
    try:
        with open(path, encoding="utf-8") as lines:
            parser.read_file(lines)
    except OSError as error:
        raise ConfigError("cannot read %s: %s" % (path, error.strerror)) from None
    except (configparser.Error, UnicodeDecodeError) as error:
        raise ConfigError("%s: %s" % (path, " ".join(str(error).split()))) from None
    return parser


def _read(
    path: str,
    section: configparser.SectionProxy,
    keys: Dict[str, Parse],
) -> Dict[str, Any]:
    values = {}
    for key, text in section.items():
        where = "%s: [%s] %s" % (path, section.name, key)
        if key not in keys:
            raise ConfigError("%s: unknown key; known: %s" % (where, ", ".join(sorted(keys))))
        try:
            values[key] = keys[key](text)
        except ValueError as error:
            raise ConfigError("%s = %s: %s" % (where, text, error)) from None
    return values
