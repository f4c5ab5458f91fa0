# SPDX-License-Identifier: Apache-2.0
"""What is attached to a fault: the last exchanges, what was measured of the domain, a reading.

Theory of operation (pure)
    A VM whose misses count is in doubt: its domain is measured at each of them, once more shortly
    before the one that would make it FAILED, and from then on every REPEAT seconds. What its
    counters did between the first and the last measurement is told first, as figures; what that
    means is a reading of them, and never more than one.
    A fault never waits for a measurement: libvirt may hang. It leaves with what is there.
"""

from __future__ import annotations

import enum
import math
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from collectd_vmhb.settings import EvidenceText
from collectd_vmhb.usage import Usage, Vcpu
from collectd_vmhb.verdict import HEARTBEAT_LOST, FaultRaised, Health
from collectd_vmhb.wording import shown

#: The last measurement before FAILED is asked for that many seconds ahead, or half a timeout.
LEAD = 0.3
#: Seconds between the measurements of a VM that stays FAILED.
REPEAT = 30.0
#: Below so many seconds between two measurements nothing is read from them: the kernel counts
#: processor time in hundredths of a second.
WINDOW_MIN = 0.2
#: QEMU answers within milliseconds; one that has not for so long does not answer.
SILENT_MIN = 1.0
#: A vCPU that ran for this share of the time ran without pause.
BUSY_SHARE = 0.8
#: A vCPU that waited for this share of the time, and longer than it ran, is starved.
STARVED_SHARE = 0.25
#: Disk requests that take so many seconds on average; those of a healthy disk take milliseconds.
SLOW_REQUEST = 1.0
#: Half of the kernel's unit of processor time: what is less is nothing.
HALF_TICK = 0.005
#: Characters of a guest's text that leave this host, at most.
GUEST_TEXT_MAX = 200


@enum.unique
class Reading(enum.Enum):
    """What the measurements look like; the values are for machines and listed in operations.md."""

    STOPPED = "stopped"
    QEMU_SILENT = "qemu-silent"
    STARVED = "starved"
    IO_STUCK = "io-stuck"
    HUNG = "hung"
    BUSY = "busy"
    WAITING = "waiting"
    AGENT_SILENT = "agent-silent"
    NOT_MEASURED = "not-measured"


#: Each reading in a few words, for people.
MEANINGS = {
    Reading.STOPPED: "libvirt has stopped it",
    Reading.QEMU_SILENT: "QEMU itself does not answer",
    Reading.STARVED: "it is starved: this host gives its vCPUs too little time",
    Reading.IO_STUCK: "its disk I/O is stuck",
    Reading.HUNG: "the guest looks hung",
    Reading.BUSY: "the guest is busy without pause",
    Reading.WAITING: "the guest's kernel goes on but does no I/O: its disk may be stuck",
    Reading.AGENT_SILENT: "the guest goes on, its agent alone is silent",
    Reading.NOT_MEASURED: "",
}


@dataclass(frozen=True)
class Finding:
    """What was measured of a domain, in words with their window, and how that reads."""

    reading: Reading
    measured: str


class Doubt:
    """Keeps what is measured of one VM while it is in doubt; monotonic seconds."""

    __slots__ = ("_ahead_of", "_failed", "_misses", "_silent_since", "at", "first", "last")

    def __init__(self) -> None:
        self._end()

    def _end(self) -> None:
        #: When `due` has something to say by itself.
        self.at = math.inf
        #: The first measurement and the last one, of those that have the vCPUs if there are any.
        self.first: Usage | None = None
        self.last: Usage | None = None
        self._misses = 0
        self._failed = False
        #: The verdict that a measurement was planned ahead of.
        self._ahead_of = math.inf
        #: When QEMU was asked that has not answered since.
        self._silent_since: float | None = None

    @property
    def began(self) -> bool:
        """True once there was something to doubt."""
        return self._failed or self._misses > 0

    def due(
        self, health: Health, misses: int, verdict_at: float, timeout: float, now: float
    ) -> bool:
        """Tells whether the domain is to be measured now, and plans the next time.

        ``misses``: those in a row; ``verdict_at`` is when the VM is FAILED unless it answers, inf
        if more misses are left; ``timeout`` is that of a challenge.
        """
        failed = health is Health.FAILED
        if health is Health.PAUSED:
            misses = 0
        if not misses and not failed:
            if self.began:
                self._end()
            return False
        if (failed and not self._failed) or (misses > self._misses and not failed):
            self.at = now
        elif verdict_at < math.inf and verdict_at != self._ahead_of:
            self.at, self._ahead_of = verdict_at - min(LEAD, timeout / 2), verdict_at
        self._misses, self._failed = misses, failed
        if now < self.at:
            return False
        self.at = now + REPEAT if failed else math.inf
        return True

    def take(self, usage: Usage) -> None:
        """Takes a measurement, or more of one that it has."""
        if not self.began:
            return
        if usage.answered:
            self._silent_since = None
        elif self._silent_since is None:
            self._silent_since = usage.at
        if self.first is None or not self.first.vcpus or usage.at == self.first.at:
            self.first = usage
        if self.last is None or (usage.at >= self.last.at and _says_more(usage, self.last)):
            self.last = usage

    def finding(self, now: float) -> Finding:
        """Returns what is known by now."""
        if self.first is None or self.last is None:
            return Finding(Reading.NOT_MEASURED, "libvirt has not told of the domain")
        silent = 0.0 if self._silent_since is None else now - self._silent_since
        return judge(self.first, self.last, silent, now)


def _says_more(usage: Usage, than: Usage) -> bool:
    """Tells whether a later measurement has what an earlier one has."""
    return bool(usage.vcpus) or usage.stopped or not than.vcpus


def judge(first: Usage, last: Usage, silent: float, now: float) -> Finding:
    """Reads two measurements of one domain; QEMU has not answered for ``silent`` seconds."""
    if last.stopped:
        return Finding(Reading.STOPPED, f"the domain is {last.state}")
    window = last.at - first.at
    same = len(first.vcpus) == len(last.vcpus)
    pairs = list(zip(first.vcpus, last.vcpus)) if same and window >= WINDOW_MIN else []
    moves = _Moves(first, last, pairs)
    when = f"from {now - first.at:.1f} s to {now - last.at:.1f} s before this {moves.words()}"
    if pairs and moves.starved(window):
        return Finding(Reading.STARVED, when)
    if silent >= SILENT_MIN:
        more = f"; {when}" if pairs else ""
        return Finding(
            Reading.QEMU_SILENT, f"QEMU has not answered libvirt for {silent:.1f} s{more}"
        )
    if not pairs:
        return Finding(Reading.NOT_MEASURED, "the domain was not measured twice")
    return Finding(moves.reading(window), when)


class _Moves:
    """By how much the counters moved between two measurements; None: not counted."""

    def __init__(self, first: Usage, last: Usage, pairs: Sequence[tuple[Vcpu, Vcpu]]) -> None:
        self.vcpus = [
            (after.ran - before.ran, after.waited - before.waited) for before, after in pairs
        ]
        halts = [
            after.halts - before.halts
            for before, after in pairs
            if before.halts is not None and after.halts is not None
        ]
        self.halts = sum(halts) if halts else None
        self.requests: int | None = None
        self.seconds = 0.0
        if first.disks is not None and last.disks is not None:
            self.requests = last.disks.requests - first.disks.requests
            self.seconds = last.disks.seconds - first.disks.seconds
        self.packets: int | None = None
        if first.packets is not None and last.packets is not None:
            self.packets = last.packets - first.packets
        self.has_used_disks = last.disks is not None and last.disks.requests > 0

    def starved(self, window: float) -> bool:
        """Tells whether a vCPU waited for a processor more than it had one."""
        return any(waited >= STARVED_SHARE * window and waited > ran for ran, waited in self.vcpus)

    def reading(self, window: float) -> Reading:
        """Reads them where nothing is starved, the surest sign first."""
        moved = bool(self.requests or self.packets)
        if self.requests and self.seconds / self.requests >= SLOW_REQUEST:
            return Reading.IO_STUCK
        if max(ran for ran, _ in self.vcpus) >= BUSY_SHARE * window:
            return Reading.BUSY if moved else Reading.HUNG
        if moved:
            return Reading.AGENT_SILENT
        if self._dead:
            return Reading.HUNG
        return Reading.WAITING if self.has_used_disks else Reading.AGENT_SILENT

    @property
    def _dead(self) -> bool:
        """True if no vCPU ran, nor ever could have: an idle one wakes now and then."""
        if sum(ran for ran, _ in self.vcpus) >= HALF_TICK:
            return False
        if self.halts is not None:
            return self.halts == 0
        return not any(waited for _, waited in self.vcpus)

    def words(self) -> str:
        """Tells them as they are."""
        ran = sum(ran for ran, _ in self.vcpus)
        waited = sum(waited for _, waited in self.vcpus)
        count = len(self.vcpus)
        whose = "its vCPU" if count == 1 else f"its {count} vCPUs"
        words = f"{whose} ran {ran:.2f} s and waited {waited:.3f} s for a processor"
        if self.halts is not None:
            words += f", {self.halts} halts"
        if self.requests is not None:
            words += f", {self.requests} disk requests were done"
            if self.requests:
                words += f" ({self.seconds / self.requests * 1000:.0f} ms each)"
        if self.packets is not None:
            words += f", {self.packets} packets were sent"
        return words


# -- what goes with a fault -----------------------------------------------------------------


def of_exchanges(exchanges: Sequence[tuple[float, float]], now: float) -> dict[str, str]:
    """Returns what the last exchanges are as evidence; the same for all faults of a moment."""
    details = {}
    if exchanges:
        details["exchanges"] = in_short(exchanges, now)
    rtts = [rtt * 1000 for _, rtt in exchanges if not math.isnan(rtt)]
    if rtts:
        details["rtt_ms"] = f"{min(rtts):.1f}/{statistics.median(rtts):.1f}/{max(rtts):.1f}"
    return details


def attach(
    fault: FaultRaised,
    exchanges: Mapping[str, str],
    state: str,
    finding: Finding,
    text: EvidenceText,
) -> FaultRaised:
    """Adds to a fault of a VM what is known of its exchanges (`of_exchanges`) and its domain."""
    details = {**fault.details, "domain": state, **exchanges}
    words = told(fault.guest_text, text)
    if words:
        details["guest_text"] = words
    said = fault.text
    if fault.name == HEARTBEAT_LOST:
        details.update(reading=finding.reading.value, measured=finding.measured)
        meaning = MEANINGS[finding.reading]
        said += f"; {meaning}" if meaning else ""
    return replace(fault, text=said, details=details)


def in_short(exchanges: Sequence[tuple[float, float]], now: float) -> str:
    """Writes exchanges as "-SECONDS:ROUND_TRIP_IN_MS", the oldest first; "-": no answer."""
    return " ".join(
        f"{sent - now:.1f}:{'-' if math.isnan(rtt) else f'{rtt * 1000:.1f}'}"
        for sent, rtt in exchanges
    )


#: A plain word with its punctuation: it names nothing and nobody, as far as its looks go.
_PLAIN = re.compile(r"[(\[\"']?[A-Za-z]{1,20}[.,;:!?)\]\"']*|-")


def told(text: str, how: EvidenceText) -> str:
    """Returns what may leave this host of a guest's text: printable, and short.

    Redacted, each word that is more than letters is an asterisk: numbers, names of hosts and
    files, addresses, settings.
    """
    if how is EvidenceText.NONE:
        return ""
    if how is EvidenceText.REDACTED:
        text = " ".join(word if _PLAIN.fullmatch(word) else "*" for word in text.split())
    return shown(text, GUEST_TEXT_MAX)
