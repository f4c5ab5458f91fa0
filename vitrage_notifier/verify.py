# SPDX-License-Identifier: Apache-2.0
"""`vmhb-vitrage verify`: sends a synthetic alarm all the way to Vitrage, or names the broken link.

Run on a compute node. First each link is looked at that can be looked at without an alarm; then
the engine raises one, and it is followed through the notifier to `vitrage alarm list` and back.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, TypeVar

from vitrage_notifier.engine_socket import EngineError, ask
from vitrage_notifier.outbox import SETTLE_MOST
from vitrage_notifier.sender import ADVICE, NotSentError, Transport
from vitrage_notifier.vitrage_api import NotAvailableError, Row, Vitrage, VitrageError

#: Event type of what we send to see whether the broker takes it; Vitrage passes over it.
PROBE = "vmhb.probe"
#: Seconds that the engine and the notifier may take between them.
HANDOVER = 10.0
#: Seconds that the engine keeps the alarm beyond our patience, lest it end while we look.
RESERVE = 30.0
#: Longest wait for Vitrage in seconds: the engine keeps no verification longer than ten minutes.
LONGEST = 240.0
POLL = 0.2

_Seen = TypeVar("_Seen")


class BrokenLinkError(Exception):
    """A link of the way is broken; says which, and what to do."""

    def __init__(self, link: str, text: str) -> None:
        super().__init__(f"{link}: {text}")
        self.link = link


@dataclass(frozen=True)
class Way:
    """What lies between a fault and the list of alarms; durations are seconds."""

    control_socket: Path
    outbox: Path
    #: None: nobody told us the URL of the broker.
    bus: Transport | None
    vitrage: Callable[[], Vitrage]
    #: UUID of the instance; empty: this host.
    instance: str
    timeout: float


class Verification:
    """One walk along the way; `say` hears of each link and of the seconds that it took."""

    def __init__(
        self,
        way: Way,
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._way = way
        self._say = say
        self._clock = clock
        self._sleep = sleep
        self._seen_on_disk = False

    def run(self) -> None:
        """Return when the alarm was seen to come and to go; BrokenLinkError."""
        self._check_broker()
        vitrage = self._check_api()
        incident = self._raise()
        try:
            self._look_at_outbox(incident)
            self._follow(vitrage, incident)
        finally:
            self._end()
        with self._timed("cleared in Vitrage"):
            self._wait(
                lambda: self._row(vitrage, incident) is None,
                SETTLE_MOST + self._way.timeout,
                "Vitrage",
                "still lists the alarm after its OK was sent: see vitrage-graph.log and the log of "
                "vitrage-persistor",
            )

    # -- what can be seen without an alarm --------------------------------------------------

    def _check_broker(self) -> None:
        bus = self._way.bus
        if bus is None:
            self._say("broker: not looked at, as there is no --transport-url-file")
            return
        try:
            with self._timed("broker takes messages"):
                bus.send(PROBE, {"vmhb": {"version": 1}})
            read = bus.has_listeners()
        except NotSentError as problem:
            raise BrokenLinkError("broker", f"{problem}; {ADVICE[problem.kind]}") from None
        if read is False:
            raise BrokenLinkError(
                "topic",
                "nobody reads it: vitrage-graph does not run, or it listens on another broker, "
                "virtual host or topic",
            )

    def _check_api(self) -> Vitrage:
        try:
            with self._timed("Vitrage's API answers"):
                vitrage = self._way.vitrage()
                vitrage.alarms()
        except NotAvailableError as problem:
            raise BrokenLinkError("vitrage-graph", str(problem)) from None
        except VitrageError as problem:
            raise BrokenLinkError("API", str(problem)) from None
        return vitrage

    # -- the alarm --------------------------------------------------------------------------

    def _raise(self) -> str:
        seconds = HANDOVER + self._way.timeout + RESERVE
        with self._timed("raised by the engine"):
            return str(self._ask(seconds)["incident"])

    def _look_at_outbox(self, incident: str) -> None:
        """See whether the notifier has it; not to see it need not mean that it has not."""
        try:
            with self._timed("taken by the notifier"):
                self._wait(lambda: self._is_in_outbox(incident), HANDOVER, "", "")
        except BrokenLinkError:
            self._say(f"notifier: {self._way.outbox} has no such alarm; Vitrage may have it")
        else:
            self._seen_on_disk = True

    def _follow(self, vitrage: Vitrage, incident: str) -> None:
        with self._timed("shown by Vitrage"):
            try:
                row = self._wait(lambda: self._row(vitrage, incident), self._way.timeout, "", "")
            except BrokenLinkError:
                raise self._explain(vitrage, incident) from None
        if not row.get("vitrage_resource_type"):
            raise BrokenLinkError("resource", "Vitrage shows the alarm, but on no resource")
        vertices = self._graph(vitrage)
        known = {each.get("id") for each in vertices if not each["vitrage_is_placeholder"]}
        resource = incident_resource(row)
        if resource not in known:
            raise BrokenLinkError(
                "resource",
                f"Vitrage shows the alarm, but does not know {resource}: for a VM see its nova "
                "datasources; a host must have in collectd the Hostname that it has in Nova",
            )

    def _explain(self, vitrage: Vitrage, incident: str) -> BrokenLinkError:
        """Find out why Vitrage does not show the alarm, by what vitrage-graph has in memory."""
        try:
            vertices = self._graph(vitrage)
        except BrokenLinkError as problem:
            return problem
        if any(_is_about(vertex, incident) for vertex in vertices):
            return BrokenLinkError(
                "persistor",
                "vitrage-graph has the alarm and the database has not: does vitrage-persistor run?",
            )
        if not self._seen_on_disk:
            return BrokenLinkError(
                "notifier",
                "the notification did not arrive there: is vitrage_notifier.plugin imported in "
                "this collectd, and what does collectd's log say of it? If its value on-disk is "
                f"0, or its StateDir is not {self._way.outbox.parent}, it may have it all the same",
            )
        if self._way.bus is None:
            return BrokenLinkError(
                "broker",
                "Vitrage got nothing: look at collectd's log, or give --transport-url-file so "
                "that the broker can be looked at",
            )
        return BrokenLinkError(
            "datasource",
            "vitrage-graph does not have the alarm. If the notifier's values queued and oldest "
            "rise, it was not sent: see collectd's log, and compare the notifier's URL and Topic "
            "with those that were looked at here. Otherwise vitrage-graph dropped it: "
            "[datasources] types lacks collectd, or its collectd_conf.yaml has no entry that "
            "matches HOST/vmhb/ (ours is in templates/collectd_conf.yaml; vitrage-graph reads it "
            "at its start), and vitrage-graph.log has the KeyError",
        )

    def _end(self) -> None:
        try:
            self._ask(0.0)
        except BrokenLinkError:
            # It ends by itself, or the engine is gone and its next start ends it.
            self._say("engine: does not answer any more; the alarm ends by itself")

    def _ask(self, seconds: float) -> Row:
        request = {"command": "verify", "vm": self._way.instance, "seconds": seconds}
        try:
            answer: Row = ask(self._way.control_socket, request)
        except EngineError as problem:
            raise BrokenLinkError("engine", str(problem)) from None
        return answer

    def _is_in_outbox(self, incident: str) -> bool:
        path = self._way.outbox
        try:
            with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=1.0)) as db:
                query = "SELECT 1 FROM alarm WHERE incident = ?"
                return db.execute(query, (incident,)).fetchone() is not None
        except sqlite3.Error:
            return False

    def _graph(self, vitrage: Vitrage) -> list[Row]:
        try:
            return vitrage.graph()
        except VitrageError as problem:
            raise BrokenLinkError("vitrage-graph", str(problem)) from None

    def _row(self, vitrage: Vitrage, incident: str) -> Row | None:
        try:
            rows = vitrage.alarms()
        except NotAvailableError as problem:
            raise BrokenLinkError("vitrage-graph", str(problem)) from None
        except VitrageError as problem:
            raise BrokenLinkError("API", str(problem)) from None
        return next((row for row in rows if _is_about(row, incident)), None)

    def _wait(
        self, look: Callable[[], _Seen | None], seconds: float, link: str, text: str
    ) -> _Seen:
        """Return what is seen once there is something."""
        deadline = self._clock() + seconds
        while not (seen := look()):
            if self._clock() > deadline:
                raise BrokenLinkError(link, f"{text} (waited {seconds:g} s)")
            self._sleep(POLL)
        return seen

    @contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        began = self._clock()
        yield
        self._say(f"{what:<24}{self._clock() - began:7.2f} s")


def _is_about(row: Row, incident: str) -> bool:
    return str(row.get("resource_name")).endswith(f"/{incident}")


def incident_resource(row: Row) -> str:
    """Return the UUID of the instance, or the name of the host, that an alarm of ours is about."""
    return str(row.get("resource_name")).partition("/")[0]
