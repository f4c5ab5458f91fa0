# SPDX-License-Identifier: Apache-2.0
"""Fault events -> incidents -> disk -> notifications, in this order.

A notification leaves after what it says is on disk: an engine that dies in between repeats it
under the same incident, and none that never was on disk can stay open for ever. A disk that takes
longer than SAVE_WAIT delays no alarm further.
"""

from __future__ import annotations

import logging
import math
import uuid as uuids
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from collectd_vmhb.incidents import Ended, Incident, Incidents
from collectd_vmhb.maintenance import HOST, Maintenance, Window, Withheld
from collectd_vmhb.publish import OPEN_FAULTS, Note, ended_note, fault_note, handshake_notes
from collectd_vmhb.state import State
from collectd_vmhb.verdict import FaultCleared, FaultEvent, FaultRaised, Severity
from collectd_vmhb.wording import shown

log = logging.getLogger(__name__)

#: Which VMs are established is saved that much later, together: it changes with every start.
QUIET_SAVE = 1.0
#: Seconds that a notification waits for its save; a disk that is well takes a few milliseconds.
SAVE_WAIT = 0.05
#: Seconds that a save may take before the disk is said to hang.
SAVE_MAX = 5.0


def _new_id() -> str:
    return str(uuids.uuid4())


class Reporter:
    """Keeps what the host reported and still has to report; times are monotonic seconds.

    ``save(number, state)`` must store the state without blocking and let `saved` be called with
    that number; ``notify`` takes a notification. With ``silent`` faults are kept and logged, but
    not told; receivers are only told to close what an engine that did report left open.
    """

    def __init__(
        self,
        hold_down: float,
        save: Callable[[int, State], None],
        notify: Callable[[Note], None],
        wall: Callable[[], float],
        silent: bool = False,
    ) -> None:
        self._save = save
        self._notify = notify
        self._wall = wall
        self._silent = silent
        self._incidents = Incidents(hold_down, _new_id)
        self._maintenance = Maintenance()
        self._runs: dict[str, int] = {}
        self._forgiven: dict[str, float] = {}
        self._unsaved: deque[tuple[int, float, Note]] = deque()
        self._fresh: list[Note] = []
        self._number = 0
        #: The newest save that is not waited for any more, and until when the next one is.
        self._settled = 0
        self.save_by = math.inf
        self._changed = False
        self._quiet_save_at: float | None = None

    def load(self, state: State, now: float) -> None:
        """Takes over what the last engine left; raises ValueError if that makes no sense."""
        self._runs = dict(state.established)
        self._forgiven = dict(state.forgiven)
        self._maintenance.load(state.maintenance, now, self._wall())
        self._incidents.load(state.incidents, now, self._wall())

    def of(self, uuid: str) -> Mapping[str, Severity]:
        """Returns the faults of one instance, or of the host for "", told or withheld."""
        return {**self._incidents.of(uuid), **self._maintenance.of(uuid)}

    def instances(self) -> set[str]:
        """Returns the instances with open faults."""
        return self._incidents.instances() - {""}

    def report(self, event: FaultEvent, instance: str, project: str, now: float) -> None:
        """Takes one fault event of a VM, or of the host if its ``uuid`` is empty."""
        if isinstance(event, FaultRaised):
            if self._maintenance.withhold(event, instance, project):
                return
            incident = self._incidents.raised(event, instance, project, now, self._wall())
            if incident is not None:
                self._say(fault_note(incident, self._wall()))
                words = f" (the guest says: {event.guest_text})" if event.guest_text else ""
                log.warning("%s%s", self._fresh[-1].message, words)
        else:
            self._maintenance.cleared(event)
            ended = self._incidents.cleared(event, now)
            if ended is not None:
                self._end(ended)

    def close(self, uuid: str, reason: str, keep: frozenset[str] = frozenset()) -> None:
        """Ends what is open against a VM that is not watched any more, but for ``keep``."""
        self._maintenance.close(uuid, keep)
        for ended in self._incidents.close(uuid, reason, keep):
            self._end(ended)

    def pause(self, uuid: str, seconds: float, reason: str, now: float) -> Window:
        """Begins a maintenance of one VM, or of the host with all its VMs for ""."""
        window = self._maintenance.begin(uuid, seconds, reason, now, self._wall())
        self._changed = True
        log.info("%s: maintenance for %.0f s: %s", _whose(uuid), seconds, shown(reason))
        for incident in self._incidents.open():
            if uuid not in (HOST, incident.uuid):
                continue
            if not self._incidents.recovering(incident):
                eased = self._incidents.easing(incident)
                fault = eased or _as_event(incident, now, self._wall())
                self._maintenance.withhold(fault, incident.instance, incident.project)
            self._end_now(incident, "maintenance", now)
        return window

    def resume(self, uuid: str, now: float) -> bool:
        """Ends a maintenance before its time; False if there is none."""
        ended = self._maintenance.end(uuid)
        if ended:
            self._back(uuid, now)
        return ended

    def window(self, uuid: str) -> Window | None:
        """Returns the maintenance that covers an instance, or the host for "" (any thread)."""
        return self._maintenance.window(uuid)

    def own_window(self, uuid: str) -> Window | None:
        """Returns the maintenance of this very VM, whatever covers the host (any thread)."""
        return self._maintenance.own_window(uuid)

    def incidents(self) -> list[Incident]:
        """Returns the open incidents (any thread)."""
        return self._incidents.open()

    def withheld(self) -> list[Withheld]:
        """Returns the faults that a maintenance keeps from being raised (any thread)."""
        return self._maintenance.withheld()

    def established(
        self, uuid: str, run: int | None, now: float, forgiven_until: float = 0.0
    ) -> None:
        """Notes in which run a VM is established, or that it is not, and if it boots just now."""
        self._forgiven.pop(uuid, None)
        if run is None:
            self._runs.pop(uuid, None)
        else:
            self._runs[uuid] = run
            if forgiven_until > now:
                self._forgiven[uuid] = self._wall() + forgiven_until - now
        if self._quiet_save_at is None:
            self._quiet_save_at = now + QUIET_SAVE

    def handshake(self) -> None:
        """Repeats every open fault, then lists them all, so that receivers can close the rest."""
        incidents = self._incidents.open()
        said_already = {note.meta.get("incident") for note in self._fresh}
        for incident in incidents:
            if incident.id not in said_already:
                self._say(fault_note(incident, self._wall()))
        told = [] if self._silent else incidents
        for note in handshake_notes(told, _new_id(), self._wall()):
            self._say(note)

    def finish(self, now: float, first: Iterable[str]) -> None:
        """Has everything saved that is not, as the engine ends; the next asks ``first`` first."""
        in_turn = {uuid: self._runs[uuid] for uuid in first if uuid in self._runs}
        self._runs = {**in_turn, **self._runs}
        self._changed = True
        self.turn(now)

    def save_again(self) -> None:
        """Has the state saved with the next turn, as the last save failed."""
        self._changed = True

    @property
    def deadline(self) -> float | None:
        """When `turn` has something to do by itself."""
        own = (self._incidents.deadline, self._quiet_save_at)
        times = [at for at in own if at is not None]
        leave_at = self._unsaved[0][1] if self._unsaved else math.inf
        others = (self._maintenance.deadline, self.save_by, leave_at)
        times += [at for at in others if at < math.inf]
        return min(times, default=None)

    def turn(self, now: float) -> None:
        """Ends held recoveries that are due and has everything new saved; call it often."""
        for news in self._incidents.due(now):
            if isinstance(news, Ended):
                self._end(news)
            else:
                self._say(fault_note(news, self._wall()))
        if now >= self._maintenance.deadline:
            for uuid in self._maintenance.due(now):
                self._back(uuid, now)
        quiet = self._quiet_save_at is not None and now >= self._quiet_save_at
        if self._changed or quiet:
            self._hand_over(now)
        if self.save_by == math.inf and self._settled < self._number:
            self.save_by = now + SAVE_MAX
        self._let_out(self._number, now)

    def _hand_over(self, now: float) -> None:
        self._number += 1
        self._unsaved.extend((self._number, now + SAVE_WAIT, note) for note in self._fresh)
        self._fresh.clear()
        self._changed = False
        self._quiet_save_at = None
        self._save(
            self._number,
            State(
                self._incidents.dump(),
                dict(self._runs),
                self._maintenance.dump(),
                forgiven=dict(self._forgiven),
            ),
        )

    def stood_still(self, seconds: float) -> None:
        """Gives the disk as long as the engine was late itself: its worker stood still, too."""
        self.save_by += seconds

    def saved(self, number: int) -> None:
        """Lets everything out that was part of the save of this number, or of an earlier one."""
        self._settled = number
        self.save_by = math.inf
        self._let_out(number)

    def _let_out(self, number: int, until: float = math.inf) -> None:
        """Lets go what was part of this save, and should have been on disk by ``until``."""
        while self._unsaved and self._unsaved[0][0] <= number and self._unsaved[0][1] <= until:
            note = self._unsaved.popleft()[2]
            if not self._silent or note.type_instance == OPEN_FAULTS:
                self._notify(note)

    def give_up_waiting(self, now: float) -> None:
        """Waits no longer for a disk that hangs, past `save_by`."""
        self.turn(now)
        self.saved(self._number)

    def _back(self, uuid: str, now: float) -> None:
        """A maintenance is over: what nothing covers any more is raised anew."""
        self._changed = True
        log.info("%s: maintenance is over", _whose(uuid))
        for withheld in self._maintenance.released():
            fault = withheld.fault
            fault = replace(fault, text=f"{fault.text} (found before the maintenance ended)")
            self.report(fault, withheld.instance, withheld.project, now)

    def _end_now(self, incident: Incident, reason: str, now: float) -> None:
        ended = self._incidents.cleared(FaultCleared(incident.uuid, incident.name, reason), now)
        if ended is not None:
            self._end(ended)

    def _end(self, ended: Ended) -> None:
        self._say(ended_note(ended, self._wall()))
        log.info("%s", self._fresh[-1].message)

    def _say(self, note: Note) -> None:
        self._fresh.append(note)
        self._changed = True


def _as_event(incident: Incident, now: float, wall: float) -> FaultRaised:
    """Returns the event that would raise an incident again."""
    return FaultRaised(
        incident.uuid,
        incident.name,
        incident.severity,
        incident.text,
        since=now - (wall - incident.since),
        reason=incident.reason,
        details=incident.details,
    )


def _whose(uuid: str) -> str:
    return f"VM {uuid}" if uuid else "this host"
