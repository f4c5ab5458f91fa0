# SPDX-License-Identifier: Apache-2.0
"""When is a VM failed, and when is it well again? Every rule on that lives in this file.

Rule 1: the health of a VM changes only through TRANSITIONS.
Rule 2: this file knows no wire, no libvirt and no notification; it counts answers and misses.

Theory of operation
    A challenge that is answered in time is a beat, one that is not is a miss. The first miss makes
    a VM SUSPECT; ``miss_threshold`` in a row make it FAILED; from there ``recovery_threshold``
    beats in a row lead back. While silence is planned the VM is PAUSED and nothing counts.
    Whenever it begins to run it is ESTABLISHING: silence is forgiven until its grace period is
    over. After that it is held against a VM that was established before (it can answer, and does
    not), and against no other: whoever never answered may have no agent. Boots that follow each
    other without an answer are one: a VM that does nothing but boot is not forgiven for ever.
    What is forgiven ends with an answer, and nothing else shortens it; while silence is planned it
    is not used up.

Timing, in a VM with interval I, timeout t <= I and threshold k, counted from the hang:
    (k - 1) * I + t - RTT  <=  detection  <=  k * I + t + tick
"""

from __future__ import annotations

import enum

from collectd_vmhb.policy import Policy
from collectd_vmhb.verdict import Health


@enum.unique
class Signal(enum.Enum):
    """What can happen to a VM, as far as its health is concerned."""

    #: It begins to run, or runs again after planned silence.
    START = "start"
    #: It reboots inside the same QEMU.
    REBOOT = "reboot"
    #: It is not meant to run: silence is planned.
    STOP = "stop"
    #: A challenge was answered; the guest reports no critical check, or one.
    BEAT = "beat"
    SICK_BEAT = "sick beat"
    #: A challenge was answered while FAILED, too few in a row for a recovery.
    EARLY_BEAT = "early beat"
    #: A challenge was not answered; below the threshold, or reaching it.
    MISS = "miss"
    LAST_MISS = "last miss"
    #: The guest's agent said that it leaves.
    EXIT = "exit"


_H = Health
_UP = {Signal.BEAT: _H.HEALTHY, Signal.SICK_BEAT: _H.UNHEALTHY}

TRANSITIONS: dict[Health, dict[Signal, Health]] = {
    _H.UNKNOWN: {
        **_UP,
        Signal.START: _H.ESTABLISHING,
        Signal.REBOOT: _H.ESTABLISHING,
        Signal.STOP: _H.PAUSED,
        Signal.EARLY_BEAT: _H.UNKNOWN,
        Signal.MISS: _H.UNKNOWN,
        Signal.LAST_MISS: _H.UNKNOWN,
        Signal.EXIT: _H.UNKNOWN,
    },
    _H.ESTABLISHING: {
        **_UP,
        Signal.START: _H.ESTABLISHING,
        Signal.REBOOT: _H.ESTABLISHING,
        Signal.STOP: _H.PAUSED,
        Signal.EARLY_BEAT: _H.ESTABLISHING,
        Signal.MISS: _H.ESTABLISHING,
        Signal.LAST_MISS: _H.FAILED,
        Signal.EXIT: _H.ESTABLISHING,
    },
    _H.HEALTHY: {
        **_UP,
        Signal.START: _H.ESTABLISHING,
        Signal.REBOOT: _H.ESTABLISHING,
        Signal.STOP: _H.PAUSED,
        Signal.EARLY_BEAT: _H.HEALTHY,
        Signal.MISS: _H.SUSPECT,
        Signal.LAST_MISS: _H.FAILED,
        Signal.EXIT: _H.ESTABLISHING,
    },
    _H.SUSPECT: {
        **_UP,
        Signal.START: _H.ESTABLISHING,
        Signal.REBOOT: _H.ESTABLISHING,
        Signal.STOP: _H.PAUSED,
        Signal.EARLY_BEAT: _H.SUSPECT,
        Signal.MISS: _H.SUSPECT,
        Signal.LAST_MISS: _H.FAILED,
        Signal.EXIT: _H.ESTABLISHING,
    },
    _H.UNHEALTHY: {
        **_UP,
        Signal.START: _H.ESTABLISHING,
        Signal.REBOOT: _H.ESTABLISHING,
        Signal.STOP: _H.PAUSED,
        Signal.EARLY_BEAT: _H.UNHEALTHY,
        Signal.MISS: _H.SUSPECT,
        Signal.LAST_MISS: _H.FAILED,
        Signal.EXIT: _H.ESTABLISHING,
    },
    _H.FAILED: {
        **_UP,
        # Another run of the VM: the old one's failure is over.
        Signal.START: _H.ESTABLISHING,
        # A reset does not heal by itself: the alarm stays until the guest answers again.
        Signal.REBOOT: _H.FAILED,
        Signal.STOP: _H.PAUSED,
        Signal.EARLY_BEAT: _H.FAILED,
        Signal.MISS: _H.FAILED,
        Signal.LAST_MISS: _H.FAILED,
        Signal.EXIT: _H.ESTABLISHING,
    },
    _H.PAUSED: {
        # A queued answer can arrive after the VM was stopped; it says nothing about now.
        Signal.BEAT: _H.PAUSED,
        Signal.SICK_BEAT: _H.PAUSED,
        Signal.START: _H.ESTABLISHING,
        Signal.REBOOT: _H.PAUSED,
        Signal.STOP: _H.PAUSED,
        Signal.EARLY_BEAT: _H.PAUSED,
        Signal.MISS: _H.PAUSED,
        Signal.LAST_MISS: _H.PAUSED,
        Signal.EXIT: _H.PAUSED,
    },
}


class Detector:
    """Counts the beats and misses of one VM and holds its health; ``now`` is monotonic seconds."""

    __slots__ = (
        "_answered",
        "_boots_since",
        "_grace_left",
        "beats",
        "expected",
        "grace_until",
        "health",
        "misses",
        "policy",
    )

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.health = Health.UNKNOWN
        #: In a row: unanswered challenges that count, and answers since FAILED.
        self.misses = 0
        self.beats = 0
        #: Until then silence is forgiven to a VM that is ESTABLISHING.
        self.grace_until = 0.0
        #: What was left of that when planned silence began.
        self._grace_left = 0.0
        #: When the first of the boots began that no answer has followed yet; None if one has.
        self._boots_since: float | None = None
        #: The VM answered before: it can, so its silence after the grace period is a failure.
        self.expected = False
        #: It answered in this run of the VM, whatever its agent said since.
        self._answered = False

    def start(self, now: float, grace: float, expected: bool) -> None:
        """The VM runs from now on; its silence is forgiven for ``grace`` seconds."""
        if self.health is Health.PAUSED:
            # The guest stood still: what it had left to boot is not used up.
            grace = max(grace, self._grace_left)
        self._forgive(now + grace)
        self._boots_since = now if expected else None
        self.expected = expected
        self._answered = self._answered or expected
        self._apply(Signal.START)

    def reboot(self, now: float, grace: float) -> None:
        """The guest boots again; if it answered in this run of the VM, it is expected to after it.

        That its agent took its leave before, as it does in every orderly reboot, is no excuse.
        Further boots without an answer are forgiven until the policy's grace period, counted from
        the first, is over.
        """
        if self._boots_since is None:
            self._boots_since = now
        longest = max(grace, self.policy.grace_period)
        until = min(now + grace, self._boots_since + longest)
        if until > now:
            self._forgive(until)
            self._grace_left = max(self._grace_left, until - now)
        self.expected = self._answered
        self._apply(Signal.REBOOT)

    def resume_failed(self) -> None:
        """Goes on with a failure that was found before this process started."""
        self.health = Health.FAILED
        self.expected = self._answered = True

    def expect(self, now: float, grace: float) -> None:
        """The guest came from elsewhere with its agent: it is held to answer, if it did not yet."""
        if self._answered:
            return
        if self._boots_since is None:
            # Nothing boots here that would need the policy's grace period.
            self.grace_until = self._grace_left = 0.0
            if self.health is Health.ESTABLISHING:
                self.start(now, grace, expected=True)
        self.expected = self._answered = True

    def withdraw_grace(self, until: float) -> None:
        """Nothing boots here, after all: silence is forgiven until then at the latest."""
        self.grace_until = min(self.grace_until, until)

    def stop(self, now: float) -> None:
        """Silence is planned from now on."""
        if self.health is not Health.PAUSED:
            self._grace_left = self.grace_until - now
        self._apply(Signal.STOP)

    def exit(self, now: float, grace: float) -> None:
        """The agent left on purpose: nobody has to answer until it is back, or a reboot."""
        self._forgive(now + grace)
        self._boots_since = None
        self.expected = False
        self._apply(Signal.EXIT)

    def beat(self, sick: bool) -> None:
        """A challenge was answered; ``sick``: a health check of the guest is critical."""
        self.misses = 0
        if self.health is Health.FAILED:
            self.beats += 1
            if self.beats < self.policy.recovery_threshold:
                self._apply(Signal.EARLY_BEAT)
                return
        self.expected = self._answered = True
        self._boots_since = None
        self.grace_until = self._grace_left = 0.0
        self._apply(Signal.SICK_BEAT if sick else Signal.BEAT)

    def miss(self, now: float) -> None:
        """A challenge was not answered within its timeout."""
        self.beats = 0
        if self.health is Health.ESTABLISHING and (now < self.grace_until or not self.expected):
            self._apply(Signal.MISS)
            return
        self.misses += 1
        last = self.misses >= self.policy.miss_threshold
        self._apply(Signal.LAST_MISS if last else Signal.MISS)

    def _forgive(self, until: float) -> None:
        self.misses = 0
        self.beats = 0
        self.grace_until = max(self.grace_until, until)

    def _apply(self, signal: Signal) -> None:
        self.health = TRANSITIONS[self.health][signal]
