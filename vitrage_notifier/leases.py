# SPDX-License-Identifier: Apache-2.0
"""Who vouches for which alarm, and which hosts speak; on disk, so that a restart forgets nothing.

What is heard goes in, what is to be sent comes out: an alarm whose lease ran out is cleared in its
host's place; a host that gives no sign of life for SILENT_PERIODS gets an alarm of its own, which
is cleared when it speaks again.

Nothing on disk is a time. Whatever is loaded is good for a full term from that moment: a sweep
that was off heard nobody, and that is nobody's fault. `vouch_for_all` says the same later on. The
caller owns the clock, which is monotonic.
"""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

from vitrage_notifier.alarm import SIGN_OF_LIFE, Alarm, Event, Subject
from vitrage_notifier.lease_file import LeaseFile

#: A host is silent when so many signs of life in a row are missing.
SILENT_PERIODS = 3.0
#: Event type by which an operator takes a host out of service.
RETIRED = "vmhb.retired"
#: ``type_instance`` of the alarm that is ours.
ENGINE_SILENT = "engine-silent"
#: Bounds: what one forger may make us remember. With MAX_PAYLOAD they keep us well below the
#: MemoryMax of the unit.
MAX_LEASES = 50_000
MAX_HOSTS = 10_000
#: Leases that ran out and whose OK is repeated; beyond this the one that ran out first goes.
MAX_REPEATED_OKS = 20_000
#: Longest term, in seconds, that is believed.
MAX_TERM = 86400.0
#: Longest id and host name in characters, and longest payload in bytes of JSON.
MAX_NAME = 255
MAX_PAYLOAD = 2048
#: How deep lists and objects may lie in one another; ours do three levels deep. Beyond some
#: hundred levels, Python reads and writes no JSON.
MAX_DEPTH = 8

_LOG = logging.getLogger(__name__)


@dataclass
class _Lease:
    """An alarm that Vitrage shows, with the payload that raised it."""

    term: float
    #: As JSON: what a forger nests deeply takes twenty times as much otherwise.
    payload: str
    ends: float


@dataclass
class _Host:
    """A compute node that gives signs of life each `period` seconds."""

    period: float
    #: When it counts as silent.
    ends: float


@dataclass
class Standing:
    """What we tell Vitrage in a host's place, again and again."""

    id: str
    event_type: str
    #: As JSON.
    payload: str
    #: The host that it is about, if that is silent.
    silent_host: str | None
    due: float
    #: When we fall silent about it; None: not before the host speaks.
    until: float | None
    #: Whether it was sent since it began, or since our own start.
    told: bool = False

    @property
    def event(self) -> Event:
        """What is sent."""
        return self.event_type, json.loads(self.payload)


class Leases:
    """Takes what was heard, gives what is to be sent; in memory alone while the disk fails."""

    def __init__(
        self,
        path: Path,
        now: float,
        repeat: float,
        repeat_for: float,
        wall: Callable[[], float],
    ) -> None:
        self._repeat = repeat
        self._repeat_for = repeat_for
        self._wall = wall
        self._leases: dict[str, _Lease] = {}
        self._hosts: dict[str, _Host] = {}
        self._standing: dict[str, Standing] = {}
        self._file = LeaseFile(path)
        self._file.start()
        self._look_after_disk(now)

    def close(self) -> None:
        """Write what is left, and release the file."""
        if not self._file.close():
            _LOG.error("the disk does not answer: what it lacks is lost")

    def hear(self, event_type: str, payload: object, now: float) -> None:
        """Take one event from the bus; what is not ours, or makes no sense, is passed over."""
        if not isinstance(payload, Mapping):
            return
        vmhb = payload.get("vmhb")
        if not isinstance(vmhb, Mapping) or vmhb.get("version") != 1:
            return
        host = _name(vmhb.get("host"))
        if not host or payload.get("type_instance") == ENGINE_SILENT:
            return
        if event_type == SIGN_OF_LIFE:
            self._sign_of_life(host, _term(vmhb.get("period")), now)
        elif event_type == RETIRED:
            self._retire(host, now)
        elif event_type.startswith("collectd.alarm."):
            self._alarm(payload, _term(vmhb.get("lease")), now)

    def vouch_for_all(self, now: float, grace: float) -> None:
        """Give everybody a full term after `grace` seconds: until now we could not hear them."""
        for lease in self._leases.values():
            lease.ends = now + grace + lease.term
        for host in self._hosts.values():
            host.ends = now + grace + SILENT_PERIODS * host.period

    def due(self, now: float) -> list[Standing]:
        """Return what is to be sent now, the longest due first; call `sent` for each that was."""
        self._look_after_disk(now)
        self._end_leases(now)
        self._find_silence(now)
        due = [each for each in self._standing.values() if each.due <= now]
        return sorted(due, key=lambda each: each.due)

    def sent(self, standing: Standing, now: float) -> None:
        """Note that the broker has it."""
        if self._standing.get(standing.id) is not standing:
            return
        standing.told = True
        standing.due = now + self._repeat
        if standing.until is not None and standing.due > standing.until:
            self._forget(standing.id)

    def counts(self) -> tuple[int, int, int]:
        """Return how many alarms are vouched for, how many hosts speak, and how many are silent."""
        silent = sum(each.silent_host is not None for each in self._standing.values())
        return len(self._leases), len(self._hosts) - silent, silent

    # -- what was heard ---------------------------------------------------------------------

    def _alarm(self, payload: Mapping[str, Any], term: float | None, now: float) -> None:
        id_ = _name(payload.get("id"))
        if not id_ or term is None:
            return
        if term == 0.0:
            if self._leases.pop(id_, None) is not None:
                self._file.remove("lease", id_)
            return
        if id_ in self._standing:
            # We gave it up, and its host did not.
            self._forget(id_)
        known = self._leases.get(id_)
        if known is not None and known.term == term:
            known.ends = now + term
            return
        if not _is_shallow(payload, MAX_DEPTH):
            return
        text = json.dumps(payload)
        if len(text) > MAX_PAYLOAD or (known is None and len(self._leases) >= MAX_LEASES):
            return
        self._leases[id_] = _Lease(term, text, now + term)
        self._file.put("lease", id_, term, text)

    def _sign_of_life(self, name: str, period: float | None, now: float) -> None:
        if not period:
            return
        known = self._hosts.get(name)
        if known is None and len(self._hosts) >= MAX_HOSTS:
            return
        if known is None or known.period != period:
            self._file.put("host", name, period)
        self._hosts[name] = _Host(period, now + SILENT_PERIODS * period)
        self._end_silence(name, now)

    def _retire(self, name: str, now: float) -> None:
        if self._hosts.pop(name, None) is not None:
            self._file.remove("host", name)
            self._end_silence(name, now)

    # -- what follows from it ---------------------------------------------------------------

    def _end_leases(self, now: float) -> None:
        ended = [id_ for id_, lease in self._leases.items() if lease.ends <= now]
        for id_ in ended:
            payload = json.loads(self._leases.pop(id_).payload)
            payload["severity"] = "OK"
            payload["vmhb"]["lease"] = 0.0
            self._file.remove("lease", id_)
            self._tell_ok(id_, payload, now)
        self._forget_oldest_oks()

    def _find_silence(self, now: float) -> None:
        told = {each.silent_host for each in self._standing.values()}
        silent = [
            name for name, host in self._hosts.items() if host.ends <= now and name not in told
        ]
        for name in silent:
            alarm = Alarm(
                str(uuid.uuid4()), 1, Subject(name, "", ENGINE_SILENT), "FAILURE", self._wall()
            )
            event_type, payload = alarm.event(True, 2 * self._repeat)
            self._tell(Standing(alarm.id, event_type, json.dumps(payload), name, now, None))

    def _end_silence(self, name: str, now: float) -> None:
        for standing in [each for each in self._standing.values() if each.silent_host == name]:
            self._tell_ok(standing.id, {**standing.event[1], "severity": "OK"}, now)

    def _tell_ok(self, id_: str, payload: Mapping[str, object], now: float) -> None:
        until = now + self._repeat_for
        ok = Standing(id_, "collectd.alarm.ok", json.dumps(payload), None, now, until)
        self._tell(ok)

    def _forget_oldest_oks(self) -> None:
        oks = [id_ for id_, each in self._standing.items() if each.silent_host is None]
        for id_ in oks[: max(0, len(oks) - MAX_REPEATED_OKS)]:
            self._forget(id_)

    def _tell(self, standing: Standing) -> None:
        self._standing[standing.id] = standing
        self._file.put(
            "standing",
            standing.id,
            standing.silent_host,
            standing.event_type,
            standing.payload,
        )

    def _forget(self, id_: str) -> None:
        del self._standing[id_]
        self._file.remove("standing", id_)

    def _look_after_disk(self, now: float) -> None:
        """Take over what an earlier process left, as soon as the disk gives it."""
        self._file.tell()
        found = self._file.found()
        for id_, term, text in found.get("lease", ())[:MAX_LEASES]:
            if id_ not in self._leases:
                self._leases[id_] = _Lease(term, text, now + term)
                self._file.put("lease", id_, term, text)
        for name, period in found.get("host", ()):
            if name not in self._hosts:
                self._hosts[name] = _Host(period, now + SILENT_PERIODS * period)
                self._file.put("host", name, period)
        for id_, host, event_type, text in found.get("standing", ()):
            if id_ not in self._leases and id_ not in self._standing:
                until = now + self._repeat_for if host is None else None
                self._tell(Standing(id_, event_type, text, host, now, until))


def _name(value: object) -> str:
    return value if isinstance(value, str) and len(value) <= MAX_NAME else ""


def _term(value: object) -> float | None:
    """Return a number of seconds; None for what is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    # Written so that NaN is none, either.
    return float(value) if 0.0 <= value <= MAX_TERM else None


def _is_shallow(value: object, levels: int) -> bool:
    """Whether lists and objects lie in one another no deeper than that."""
    if not isinstance(value, (Mapping, list)):
        return True
    members = value.values() if isinstance(value, Mapping) else value
    return levels > 0 and all(_is_shallow(each, levels - 1) for each in members)
