# SPDX-License-Identifier: Apache-2.0
"""Flavor extra specs within the operator's bounds -> the policy of one VM.

A mistake in a flavor never switches monitoring off that was asked for: the default or the
nearest bound is used, and a Problem says so.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from collectd_vmhb.settings import Settings
from collectd_vmhb.verdict import BAD_POLICY, FaultRaised, Severity
from collectd_vmhb.wording import nearest, no_such_key, shown

_PREFIX = "vmhb:"
_ENABLED = "vmhb:enabled"
#: The published protocol's own key, so that flavors made for it go on working.
_ENABLED_ALIAS = "sw:wrs:guest:heartbeat"
SWITCHES = (_ENABLED, _ENABLED_ALIAS)
_INTERVAL = "vmhb:interval"
_TIMEOUT = "vmhb:timeout"
_MISS_THRESHOLD = "vmhb:miss_threshold"
_RECOVERY_THRESHOLD = "vmhb:recovery_threshold"
_GRACE_PERIOD = "vmhb:grace_period"
_REQUIRED = "vmhb:required"
_CHANNEL = "vmhb:channel"
KEYS = (
    _ENABLED,
    _INTERVAL,
    _TIMEOUT,
    _MISS_THRESHOLD,
    _RECOVERY_THRESHOLD,
    _GRACE_PERIOD,
    _REQUIRED,
    _CHANNEL,
)

#: The words that Nova itself takes for a boolean.
_BOOLEANS = {
    **dict.fromkeys(("1", "t", "true", "on", "y", "yes"), True),
    **dict.fromkeys(("0", "f", "false", "off", "n", "no"), False),
}

#: Share of the interval that an answer may take where nobody says otherwise.
_DEFAULT_TIMEOUT_SHARE = 0.9


@dataclass(frozen=True)
class Policy:
    """How one VM is monitored. Durations in seconds; ``timeout`` never exceeds ``interval``."""

    interval: float
    timeout: float
    miss_threshold: int
    recovery_threshold: int
    grace_period: float
    required: bool
    channel: str


@dataclass(frozen=True)
class Problem:
    """One extra spec that is wrong and why; ``used`` is what a VM gets instead, "" for nothing."""

    key: str
    value: str
    why: str
    used: str = ""

    def __str__(self) -> str:
        return self.mistake + (f"; {self.used} is used" if self.used else "")

    @property
    def mistake(self) -> str:
        """Says what is wrong, where nothing is done instead."""
        return f'{shown(self.key)}="{shown(self.value)}": {self.why}'


@dataclass(frozen=True)
class Decision:
    """Whether and how a VM is monitored (``policy`` None: not at all), and what to complain of."""

    policy: Policy | None
    problems: tuple[Problem, ...] = ()


def is_ours(key: str) -> bool:
    """True for an extra spec that is meant for this engine, misspelt ones included."""
    return key.lower().startswith(_PREFIX) or key == _ENABLED_ALIAS


def policy_for(extra_specs: Mapping[str, str] | None, settings: Settings) -> Decision:
    """Decide from a flavor's extra specs; None means that they are not known."""
    if extra_specs is None:
        return Decision(None)
    specs = _ExtraSpecs(extra_specs)
    if not specs.enabled():
        return Decision(None, tuple(specs.problems))
    policy = _policy(specs, settings)
    specs.refuse_unknown_keys()
    return Decision(policy, tuple(specs.problems))


def bad_policy(uuid: str, problems: Sequence[Problem], where: str, now: float) -> FaultRaised:
    """Returns the fault of a VM with such problems; ``where`` completes its sentence."""
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return FaultRaised(
        uuid,
        BAD_POLICY,
        Severity.WARNING,
        f"flavor extra spec {problems[0]}{more}{where}",
        since=now,
        # Another value of the same key is news.
        reason=", ".join(shown(f"{problem.key}={problem.value}") for problem in problems[:3]),
        details={problem.key: str(problem) for problem in problems[:8]},
    )


def _policy(specs: _ExtraSpecs, settings: Settings) -> Policy:
    interval = specs.seconds(
        _INTERVAL, settings.interval, settings.interval_min, settings.interval_max
    )
    return _shared_policy(
        interval=interval,
        timeout=_timeout(specs, settings, interval),
        miss_threshold=specs.count(
            _MISS_THRESHOLD,
            settings.miss_threshold,
            settings.miss_threshold_min,
            settings.miss_threshold_max,
        ),
        recovery_threshold=specs.count(
            _RECOVERY_THRESHOLD, settings.recovery_threshold, 1, settings.recovery_threshold_max
        ),
        grace_period=specs.seconds(
            _GRACE_PERIOD, settings.grace_period, 0.0, settings.grace_period_max
        ),
        required=specs.boolean(_REQUIRED, settings.required),
        channel=specs.choice(_CHANNEL, settings.channel_name, settings.channels_allowed),
    )


@functools.lru_cache(maxsize=256)
def _shared_policy(**fields: Any) -> Policy:
    """Returns one object for all VMs that are monitored alike."""
    return Policy(**fields)


def _timeout(specs: _ExtraSpecs, settings: Settings, interval: float) -> float:
    longest = min(settings.timeout_max, interval)
    share = _DEFAULT_TIMEOUT_SHARE * interval
    default = share if settings.timeout is None else settings.timeout
    default = _within(default, settings.timeout_min, longest)
    reason = " (the interval)" if longest == interval else ""
    return specs.seconds(_TIMEOUT, default, settings.timeout_min, longest, reason)


class _ExtraSpecs:
    """Reads typed values from extra specs and collects what is wrong with them."""

    def __init__(self, specs: Mapping[str, str]) -> None:
        self._specs = specs
        self.problems: list[Problem] = []

    def enabled(self) -> bool:
        for key in SWITCHES:
            if key in self._specs:
                return self.boolean(key, False)
        # A misspelt switch is the one mistake that nobody would ever notice.
        for key in self._unknown_keys():
            if nearest(key, KEYS) == _ENABLED:
                self._refuse_unknown(key)
        return False

    def boolean(self, key: str, default: bool) -> bool:
        value = self._specs.get(key)
        if value is None:
            return default
        found = _BOOLEANS.get(value.strip().lower())
        if found is not None:
            return found
        self._refuse(key, "true or false", str(default).lower())
        return default

    def seconds(self, key: str, default: float, low: float, high: float, reason: str = "") -> float:
        """Read a duration; ``reason`` says in a message where ``high`` comes from."""
        value = self._specs.get(key)
        if value is None:
            return default
        number = _number(value)
        used = default if number is None else _within(number, low, high)
        if used != number:
            self._refuse(key, f"a number of seconds from {low:g} to {high:g}{reason}", f"{used:g}")
        return used

    def count(self, key: str, default: int, low: int, high: int) -> int:
        value = self._specs.get(key)
        if value is None:
            return default
        number = _number(value)
        if number is None or not number.is_integer():
            used = default
        else:
            used = int(_within(number, low, high))
        if used != number:
            self._refuse(key, f"a whole number from {low} to {high}", str(used))
        return used

    def choice(self, key: str, default: str, allowed: tuple[str, ...]) -> str:
        value = self._specs.get(key, default)
        if value in allowed:
            return value
        self._refuse(key, " or ".join(allowed), default)
        return default

    def refuse_unknown_keys(self) -> None:
        for key in self._unknown_keys():
            self._refuse_unknown(key)

    def _unknown_keys(self) -> list[str]:
        ours = (key for key in self._specs if key.lower().startswith(_PREFIX))
        return sorted(key for key in ours if key not in KEYS)

    def _refuse_unknown(self, key: str) -> None:
        self.problems.append(Problem(key, self._specs[key], no_such_key(key, KEYS)))

    def _refuse(self, key: str, allowed: str, used: str) -> None:
        self.problems.append(Problem(key, self._specs[key], f"{allowed} is allowed", used))


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _within(number: float, low: float, high: float) -> float:
    return max(low, min(number, high))
