# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Callable

import pytest

from collectd_vmhb.awareness import Awareness
from collectd_vmhb.contact import Contact
from collectd_vmhb.desk import Asked, Books, Desk
from collectd_vmhb.discovery import Discovery
from collectd_vmhb.domain import Domain, DomainState, Instance
from collectd_vmhb.impairments import Impairments
from collectd_vmhb.publish import Note
from collectd_vmhb.reporter import Reporter
from collectd_vmhb.settings import Mode, Settings, VmValues
from collectd_vmhb.sources import Sources
from collectd_vmhb.state import State
from collectd_vmhb.watch import Watch
from collectd_vmhb.wording import Refusal
from tests.unit.collectd_vmhb.peer import POLICY, Peer

VM = Domain(
    uuid="vm",
    name="instance-1",
    domain_id=1,
    state=DomainState.RUNNING,
    instance=Instance("web", "p-1", "m1", {}),
    channels=(),
    has_virtio_serial=True,
)


class Loop:
    """Does the desk's work at once, and saves at once."""

    def __init__(
        self,
        mode: Mode = Mode.REPORT,
        state: State | None = None,
        values: VmValues = VmValues.BASIC,
    ) -> None:
        self.now = 0.0
        self.notes: list[Note] = []
        self.watches: dict[str, Watch] = {}
        self.states: list[State] = []
        self.reporter = Reporter(0.0, self._save, self.notes.append, lambda: 1e9 + self.now)
        self.reporter.load(state or State(), 0.0)
        discovery = Discovery()
        discovery.looked("vm", VM)
        books = Books(
            settings=Settings(mode=mode, values=values),
            watches=self.watches,
            discovery=discovery,
            sources=Sources(()),
            reporter=self.reporter,
            contact=Contact(Impairments(lambda event, now: None)),
            awareness=Awareness(),
            totals={},
        )
        self.desk = Desk(
            books,
            post=lambda asked: asked.answer(self.now),
            serve=lambda watch, now: None,
            detach=lambda uuid, channel, path: None,
            clock=lambda: self.now,
            wall=lambda: 1e9 + self.now,
        )

    def _save(self, number: int, state: State) -> None:
        self.states.append(state)
        self.reporter.saved(number)

    def said(self) -> list[tuple[str, str]]:
        self.reporter.turn(self.now)
        return [(note.plugin_instance, note.severity) for note in self.notes]


@pytest.mark.parametrize(
    "ask",
    [
        lambda desk: desk.explain("other"),
        lambda desk: desk.audit("other", "", False, None),
        lambda desk: desk.pause("other", 60.0, "a new disk"),
        lambda desk: desk.resume("other"),
        lambda desk: desk.detach("other"),
        lambda desk: desk.verify("other", 60.0),
    ],
)
def test_a_vm_that_is_not_here_is_named(ask: Callable[[Desk], object]) -> None:
    with pytest.raises(LookupError, match="other"):
        ask(Loop().desk)


def test_a_verification_ends_by_itself() -> None:
    loop = Loop()
    assert loop.desk.verify("vm", 60.0)["incident"]
    assert loop.said() == [("vm", "warning")]
    assert loop.desk.deadline == 60.0
    loop.now = 60.0
    loop.desk.turn(60.0)
    assert loop.said()[1:] == [("vm", "okay")]
    assert loop.desk.deadline is None


def test_an_earlier_process_leaves_a_verification_that_ends_at_once() -> None:
    first = Loop()
    first.desk.verify("vm", 60.0)
    first.said()
    second = Loop(state=first.states[-1])
    second.desk.turn(0.0)
    assert second.said() == [("vm", "okay")]


@pytest.mark.parametrize("mode", [Mode.OBSERVE, Mode.ATTACH])
def test_where_no_fault_leaves_the_host_none_is_raised(mode: Mode) -> None:
    loop = Loop(mode)
    with pytest.raises(Refusal, match=mode.value):
        loop.desk.verify("vm", 60.0)
    assert loop.said() == []


def test_a_fault_that_a_maintenance_withholds_verifies_nothing() -> None:
    loop = Loop()
    loop.desk.pause("", 3600.0, "new firmware")
    with pytest.raises(Refusal, match="vmhb resume"):
        loop.desk.verify("vm", 60.0)
    loop.desk.resume("")
    assert loop.said() == []


def test_a_vm_that_is_not_monitored_is_shown_with_its_maintenance() -> None:
    loop = Loop()
    loop.desk.pause("vm", 60.0, "a new disk")
    status = loop.desk.status()
    assert status["vms"] == []
    assert [(vm["name"], vm["maintenance"]) for vm in status["unmonitored"]] == [
        ("web", {"until": 1e9 + 60.0, "reason": "a new disk"})
    ]


def test_an_error_of_the_work_is_the_askers() -> None:
    asked = Asked(lambda now: 1 / (now - now))
    asked.answer(1.0)
    with pytest.raises(ZeroDivisionError):
        asked.result.result(0)


@pytest.mark.parametrize(
    ("values", "more"),
    [
        (VmValues.BASIC, set()),
        (VmValues.ALL, {"sessions", "late", "wrong", "malformed", "bytes_in", "bytes_out"}),
    ],
)
def test_a_vm_has_five_values_and_the_others_if_they_are_asked_for(
    values: VmValues, more: set[str]
) -> None:
    loop, peer = Loop(values=values), Peer()
    peer.open()
    peer.answer()
    loop.watches["vm"] = Watch(VM, POLICY, peer.monitor)
    found = {s.type_instance: s.value for s in loop.desk.samples() if s.plugin_instance == "vm"}
    assert found.keys() == {"health", "maintenance", "heartbeat", "beats", "misses"} | more
    assert (found["health"], found["beats"]) == (2, 1)
