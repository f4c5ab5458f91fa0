# SPDX-License-Identifier: Apache-2.0
"""Fault events -> incidents -> disk -> notifications, in this order.

A notification leaves only after what it says is on disk: an engine that dies in between repeats
it under the same incident, and none that never was on disk can stay open for ever.
"""

from __future__ import annotations

import logging
import uuid as uuids
from collections import deque
from collections.abc import Callable, Mapping

from collectd_vmhb.incidents import Ended, Incidents
from collectd_vmhb.publish import OPEN_FAULTS, Note, ended_note, fault_note, handshake_notes
from collectd_vmhb.state import State
from collectd_vmhb.verdict import FaultEvent, FaultRaised, Severity

log = logging.getLogger(__name__)

#: Which VMs are established is saved that much later, together: it changes with every start.
QUIET_SAVE = 1.0


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
        self._runs: dict[str, int] = {}
        self._unsaved: deque[tuple[int, Note]] = deque()
        self._fresh: list[Note] = []
        self._number = 0
        self._changed = False
        self._quiet_save_at: float | None = None

    def load(self, state: State, now: float) -> None:
        """Takes over what the last engine left; raises ValueError if that makes no sense."""
        self._runs = dict(state.established)
        self._incidents.load(state.incidents, now)

    def of(self, uuid: str) -> Mapping[str, Severity]:
        """Returns the open faults of one instance, or of the host for ""."""
        return self._incidents.of(uuid)

    def instances(self) -> set[str]:
        """Returns the instances with open faults."""
        return self._incidents.instances() - {""}

    def report(self, event: FaultEvent, instance: str, project: str, now: float) -> None:
        """Takes one fault event of a VM, or of the host if its ``uuid`` is empty."""
        if isinstance(event, FaultRaised):
            incident = self._incidents.raised(event, instance, project, now, self._wall())
            if incident is not None:
                self._say(fault_note(incident, self._wall()))
                words = f" (the guest says: {event.guest_text})" if event.guest_text else ""
                log.warning("%s%s", self._fresh[-1].message, words)
        else:
            ended = self._incidents.cleared(event, now)
            if ended is not None:
                self._end(ended)

    def close(self, uuid: str, reason: str, keep: frozenset[str] = frozenset()) -> None:
        """Ends what is open against a VM that is not watched any more, but for ``keep``."""
        for ended in self._incidents.close(uuid, reason, keep):
            self._end(ended)

    def established(self, uuid: str, run: int | None, now: float) -> None:
        """Notes in which run a VM is established, or that it is not."""
        if run is None:
            self._runs.pop(uuid, None)
        else:
            self._runs[uuid] = run
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

    def finish(self, now: float) -> None:
        """Has everything saved that is not, as the engine ends."""
        self._changed = True
        self.turn(now)

    def save_again(self) -> None:
        """Has the state saved with the next turn, as the last save failed."""
        self._changed = True

    @property
    def deadline(self) -> float | None:
        """When `turn` has something to do by itself."""
        times = [at for at in (self._incidents.deadline, self._quiet_save_at) if at is not None]
        return min(times, default=None)

    def turn(self, now: float) -> None:
        """Ends held recoveries that are due and has everything new saved; call it often."""
        for ended in self._incidents.due(now):
            self._end(ended)
        quiet = self._quiet_save_at is not None and now >= self._quiet_save_at
        if not self._changed and not quiet:
            return
        self._number += 1
        self._unsaved.extend((self._number, note) for note in self._fresh)
        self._fresh.clear()
        self._changed = False
        self._quiet_save_at = None
        self._save(self._number, State(self._incidents.dump(), dict(self._runs)))

    def saved(self, number: int) -> None:
        """Lets everything out that was part of the save of this number, or of an earlier one."""
        while self._unsaved and self._unsaved[0][0] <= number:
            note = self._unsaved.popleft()[1]
            if not self._silent or note.type_instance == OPEN_FAULTS:
                self._notify(note)

    def _end(self, ended: Ended) -> None:
        self._say(ended_note(ended, self._wall()))
        log.info("%s", self._fresh[-1].message)

    def _say(self, note: Note) -> None:
        self._fresh.append(note)
        self._changed = True
