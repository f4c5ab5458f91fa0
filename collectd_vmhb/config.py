# SPDX-License-Identifier: Apache-2.0
"""The ``<Module vmhb>`` block of collectd's configuration -> Settings.

All mistakes are told at once, so that one restart is enough to correct them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any, Callable, Protocol

from collectd_vmhb.policy import KEYS, SWITCHES, is_ours, policy_for
from collectd_vmhb.settings import EvidenceText, FlavorPolicy, Mode, Settings, VmValues
from collectd_vmhb.wording import no_such_key, shown


class ConfigNode(Protocol):
    """One line or block, as ``collectd.Config`` has it.

    A value is a bool (unquoted on, yes, true ...), a float (any unquoted number) or a str.
    """

    @property
    def key(self) -> str:
        """The word that the line begins with."""

    @property
    def values(self) -> tuple[object, ...]:
        """What follows the key on its line."""

    @property
    def children(self) -> tuple[ConfigNode, ...]:
        """The lines inside a block; empty for a plain line."""


class ConfigError(ValueError):
    """The block cannot be used; ``problems`` has one sentence per mistake."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = list(problems)


def read_settings(config: ConfigNode) -> Settings:
    """Return what the block says, defaults where it is silent.

    Raises ConfigError with every mistake in it.
    """
    given: dict[str, Any] = {}
    problems = [problem for node in config.children for problem in _read_line(node, given)]
    usable = {_OPTIONS[key].field: v for key, v in given.items() if v is not _UNUSABLE}
    settings = replace(Settings(), **usable)
    problems += _contradictions(settings, given)
    # Bounds that are wrong themselves are no measure.
    problems += [] if problems else _unfit_flavor_policies(settings)
    if problems:
        raise ConfigError(problems)
    return settings


#: Stands for a value that was refused, so that no contradiction is built on its default.
_UNUSABLE = object()


def _read_line(node: ConfigNode, given: dict[str, Any]) -> Iterator[str]:
    """Add a line to ``given``, and say what is wrong with it."""
    try:
        _take(node, given)
    except ValueError as error:
        yield f"{_written(node)}: {error}"


def _take(node: ConfigNode, given: dict[str, Any]) -> None:
    if node.children:
        raise ValueError("no block is allowed inside the vmhb block")
    key = _KEYS_BY_LOWER.get(node.key.lower())
    if key is None:
        raise ValueError(no_such_key(node.key, _OPTIONS))
    option, before = _OPTIONS[key], given.get(key, ())
    if key in given and not option.repeated:
        raise ValueError("the key is given twice; keep one of the lines")
    given[key] = _UNUSABLE
    value = option.read(node.values)
    if not option.repeated:
        given[key] = value
    elif before is not _UNUSABLE:
        if value[0] in dict(before):
            raise ValueError(
                f"{_shown_value(node.values[0])} is given twice; keep one of the lines"
            )
        given[key] = (*before, value)


def _contradictions(settings: Settings, given: Mapping[str, Any]) -> Iterator[str]:
    values = {
        key: getattr(settings, option.field)
        for key, option in _OPTIONS.items()
        if given.get(key) is not _UNUSABLE
    }

    def stated(key: str) -> str:
        return f"{key} {_shown_value(values[key])}{'' if key in given else ' (the default)'}"

    for key, limit in _NOT_ABOVE:
        value, bound = values.get(key), values.get(limit)
        if value is not None and bound is not None and value > bound:
            yield f"{stated(key)} is above {stated(limit)}: change one of them"
    name, allowed = values.get("ChannelName"), values.get("ChannelsAllowed")
    if name is not None and allowed is not None and name not in allowed:
        yield f"{stated('ChannelName')} is not among {stated('ChannelsAllowed')}: add it there"


def _unfit_flavor_policies(settings: Settings) -> Iterator[str]:
    """Say which extra specs of the stanza's own would be a bad policy in a flavor."""
    for each in settings.flavor_policy:
        for problem in policy_for(each.extra_specs, settings).problems:
            yield f'FlavorPolicy "{shown(each.pattern)}": {problem.mistake}'


def _written(node: ConfigNode) -> str:
    line = " ".join((shown(node.key), *map(_shown_value, node.values)))
    return f"<{line}>" if node.children else line


def _shown_value(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return f"{value:g}"
    if isinstance(value, tuple):
        return " ".join(map(_shown_value, value))
    return f'"{shown(str(value))}"'


@dataclass(frozen=True)
class _Option:
    """Where a key's value goes, and the parser that returns it or raises ValueError."""

    field: str
    parse: Callable[..., Any]
    several: bool = False
    #: The key may be given again; each line adds a pair, whose first must be new.
    repeated: bool = False

    def read(self, values: tuple[object, ...]) -> Any:
        if self.repeated:
            return self.parse(*values)
        if self.several:
            return tuple(self.parse(value) for value in values)
        if len(values) != 1:
            raise ValueError("exactly one value is allowed")
        return self.parse(values[0])


def _number(what: str, low: float, high: float) -> Callable[[object], float]:
    def parse(value: object) -> float:
        if isinstance(value, float) and low <= value <= high:
            return value
        raise ValueError(f"an unquoted number{what} from {low:g} to {high:g} is allowed")

    return parse


def _count(low: int, high: int) -> Callable[[object], int]:
    def parse(value: object) -> int:
        if isinstance(value, float) and low <= value <= high and value.is_integer():
            return int(value)
        raise ValueError(f"an unquoted whole number from {low} to {high} is allowed")

    return parse


def _boolean(value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise ValueError("true or false, unquoted, is allowed")


def _one_of(kind: type[Enum]) -> Callable[[object], Enum]:
    def parse(value: object) -> Enum:
        try:
            return kind(str(value).lower())
        except ValueError:
            words = ", ".join(each.value for each in kind)
            raise ValueError(f"one of {words} is allowed") from None

    return parse


def _matching(pattern: str, allowed: str) -> Callable[[object], str]:
    def parse(value: object) -> str:
        if isinstance(value, str) and re.fullmatch(pattern, value):
            return value
        raise ValueError(f"{allowed} is allowed")

    return parse


def _directory(value: object) -> Path:
    if isinstance(value, str) and Path(value).is_absolute():
        return Path(value)
    raise ValueError("an absolute path (one that begins with /) is allowed")


def _socket(value: object) -> Path:
    if isinstance(value, str) and Path(value).is_absolute() and len(value.encode()) <= 107:
        return Path(value)
    raise ValueError("an absolute path of at most 107 bytes (the kernel's limit) is allowed")


def _path_pair(*paths: object) -> tuple[Path, Path]:
    if len(paths) != 2:
        raise ValueError("exactly two values are allowed: from, and to")
    return _directory(paths[0]), _directory(paths[1])


def _flavor_policy(pattern: object = None, *extra_specs: object) -> FlavorPolicy:
    if not isinstance(pattern, str) or not pattern or not extra_specs:
        raise ValueError(
            'a pattern of flavor names and extra specs are allowed, such as "hb.*" '
            '"vmhb:enabled=true" "vmhb:interval=2"'
        )
    specs = dict(map(_extra_spec, extra_specs))
    if len(specs) < len(extra_specs):
        raise ValueError("one of the extra specs is given twice")
    if specs.keys().isdisjoint(SWITCHES):
        raise ValueError("vmhb:enabled is missing: add vmhb:enabled=true, or =false to leave out")
    return FlavorPolicy(pattern, specs)


def _extra_spec(text: object) -> tuple[str, str]:
    key, equals, value = (text if isinstance(text, str) else "").partition("=")
    if not equals:
        raise ValueError(f'{_shown_value(text)} is no extra spec such as "vmhb:enabled=true"')
    if not is_ours(key):
        raise ValueError(f"{_shown_value(key)}: {no_such_key(key, KEYS)}")
    return key, value


_uri = _matching(r"[A-Za-z][A-Za-z0-9+.-]*:[!-~]*", "a libvirt URI such as qemu:///system")
_port_name = _matching(
    r"[A-Za-z0-9_.-]{1,64}|serial:[1-9]",
    "a port name of 1 to 64 letters, digits, dots, dashes or underscores, or serial:1 to serial:9,",
)
# The limits keep out slips of the pen (milliseconds for seconds); what is wise is narrower.
_period = _number(" of seconds", 0.01, 3600.0)
_duration = _number(" of seconds", 0.0, 86400.0)
_threshold = _count(1, 10000)

_OPTIONS: Mapping[str, _Option] = {
    "LibvirtUri": _Option("libvirt_uri", _uri),
    "Mode": _Option("mode", _one_of(Mode)),
    "StateDir": _Option("state_dir", _directory),
    "ControlSocket": _Option("control_socket", _socket),
    "SocketPathMap": _Option("socket_path_map", _path_pair, repeated=True),
    "ChannelName": _Option("channel_name", _port_name),
    "ChannelsAllowed": _Option("channels_allowed", _port_name, several=True),
    "Interval": _Option("interval", _period),
    "IntervalMin": _Option("interval_min", _period),
    "IntervalMax": _Option("interval_max", _period),
    "Timeout": _Option("timeout", _period),
    "TimeoutMin": _Option("timeout_min", _period),
    "TimeoutMax": _Option("timeout_max", _period),
    "MissThreshold": _Option("miss_threshold", _threshold),
    "MissThresholdMin": _Option("miss_threshold_min", _threshold),
    "MissThresholdMax": _Option("miss_threshold_max", _threshold),
    "RecoveryThreshold": _Option("recovery_threshold", _threshold),
    "RecoveryThresholdMax": _Option("recovery_threshold_max", _threshold),
    "GracePeriod": _Option("grace_period", _duration),
    "GracePeriodMax": _Option("grace_period_max", _duration),
    "GraceAfterReboot": _Option("grace_after_reboot", _duration),
    "GraceAfterResume": _Option("grace_after_resume", _duration),
    "Required": _Option("required", _boolean),
    "HoldDown": _Option("hold_down", _duration),
    "EvidenceText": _Option("evidence_text", _one_of(EvidenceText)),
    "AttachRate": _Option("attach_rate", _number(" per second", 0.01, 1000.0)),
    "BusyMax": _Option("busy_max", _duration),
    "AuditTimeout": _Option("audit_timeout", _number(" of seconds", 1.0, 600.0)),
    # The guest refuses an audit within a second of the last.
    "AuditPace": _Option("audit_pace", _number(" of seconds", 1.0, 86400.0)),
    "AuditOnFault": _Option("audit_on_fault", _boolean),
    "Values": _Option("values", _one_of(VmValues)),
    "PerfdataMax": _Option("perfdata_max", _count(0, 256)),
    "ReconcileInterval": _Option("reconcile_interval", _number(" of seconds", 1.0, 3600.0)),
    "FlavorPolicy": _Option("flavor_policy", _flavor_policy, repeated=True),
}

_KEYS_BY_LOWER = {key.lower(): key for key in _OPTIONS}

#: Pairs of keys of which the first must not be above the second. TimeoutMin under IntervalMin
#: leaves every interval that a flavor may choose with a timeout that it may have.
_NOT_ABOVE = (
    ("IntervalMin", "IntervalMax"),
    ("IntervalMin", "Interval"),
    ("Interval", "IntervalMax"),
    ("TimeoutMin", "TimeoutMax"),
    ("TimeoutMin", "Timeout"),
    ("TimeoutMin", "IntervalMin"),
    ("Timeout", "TimeoutMax"),
    ("Timeout", "Interval"),
    ("MissThresholdMin", "MissThresholdMax"),
    ("MissThresholdMin", "MissThreshold"),
    ("MissThreshold", "MissThresholdMax"),
    ("RecoveryThreshold", "RecoveryThresholdMax"),
    ("GracePeriod", "GracePeriodMax"),
)
