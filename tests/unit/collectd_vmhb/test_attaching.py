# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math
from dataclasses import replace

import pytest

from collectd_vmhb.attaching import ANSWER_MAX, FAILURES_MAX, HOUR, PAUSES, Attaching
from collectd_vmhb.domain import ChannelDevice, Domain, DomainState
from collectd_vmhb.provision import Connect, Impossible
from collectd_vmhb.settings import Mode

NAME = "org.openstack.vmhb.0"


class Host:
    """The channels of a host, a clock, and what was asked of libvirt and when."""

    def __init__(self, mode: Mode = Mode.REPORT, rate: float = 2.0) -> None:
        self.now = 0.0
        self.asked: list[tuple[float, str]] = []
        self.attaching = Attaching(mode, rate, self._attach)

    def _attach(self, uuid: str, channel: str) -> None:
        assert channel == NAME
        self.asked.append((self.now, uuid))

    def provide(self, domain: Domain, fresh: bool = False) -> Connect | Impossible | None:
        return self.attaching.provide(domain, NAME, self.now, fresh)

    def run(self, until: float) -> None:
        while self.attaching.deadline <= until:
            self.now = self.attaching.deadline
            self.attaching.turn(self.now)
        self.now = until

    def answered(self, error: str | None, uuid: str = "vm") -> Impossible | None:
        return self.attaching.answered(uuid, error, self.now)


def vm(
    uuid: str = "vm", path: str | None = None, state: DomainState = DomainState.RUNNING
) -> Domain:
    channels = () if path is None else (ChannelDevice(NAME, path),)
    return Domain(uuid, "instance-1", 1, state, None, channels, True)


@pytest.fixture(name="host")
def _host() -> Host:
    return Host()


def test_a_channel_that_is_there_is_not_attached(host: Host) -> None:
    assert host.provide(vm(path="/port")) == Connect("/port")
    assert host.attaching.deadline == math.inf
    assert host.asked == []


def test_vms_that_are_found_running_are_served_in_turn_at_the_rate(host: Host) -> None:
    for uuid in "abc":
        assert host.provide(vm(uuid)) is None
    host.run(10.0)
    assert host.asked == [(0.0, "a"), (0.5, "b"), (1.0, "c")]
    assert host.attaching.deadline == math.inf


def test_one_more_does_not_come_sooner_for_being_alone(host: Host) -> None:
    host.provide(vm("a"))
    host.run(0.1)
    host.provide(vm("b"))
    host.run(10.0)
    assert host.asked == [(0.0, "a"), (0.5, "b")]


def test_a_vm_that_just_started_does_not_stand_in_the_queue(host: Host) -> None:
    for uuid in "abc":
        host.provide(vm(uuid))
    host.run(0.1)
    host.provide(vm("new"), fresh=True)
    assert host.asked == [(0.0, "a"), (0.1, "new")]


def test_a_vm_is_asked_for_once_until_libvirt_has_answered(host: Host) -> None:
    for _ in range(3):
        host.provide(vm(), fresh=True)
        host.provide(vm())
    host.run(10.0)
    assert host.asked == [(0.0, "vm")]
    host.answered("not now")
    host.provide(vm())
    host.run(20.0)
    assert host.asked == [(0.0, "vm"), (10.0, "vm")]


@pytest.mark.parametrize(
    "meanwhile",
    [vm(path="/port"), vm(state=DomainState.PAUSED), replace(vm(), has_virtio_serial=False)],
)
def test_who_needs_none_any_more_is_passed_over(host: Host, meanwhile: Domain) -> None:
    host.provide(vm())
    host.provide(meanwhile)
    host.run(10.0)
    assert host.asked == []
    host.provide(vm())
    host.run(20.0)
    assert host.asked == [(10.0, "vm")], "it may stand in the queue again"


def test_who_is_gone_takes_nobodys_turn(host: Host) -> None:
    for uuid in "abc":
        host.provide(vm(uuid))
    host.attaching.forget("a")
    host.attaching.forget("b")
    host.run(10.0)
    assert host.asked == [(0.0, "c")]
    assert host.answered("no such domain", "a") is None


def test_an_observer_asks_for_nothing() -> None:
    host = Host(Mode.OBSERVE)
    assert host.provide(vm(), fresh=True) is None
    host.run(10.0)
    assert host.asked == []


def test_an_attach_that_fails_on_is_told_and_one_that_works_begins_anew(host: Host) -> None:
    for _ in range(2):
        for _ in range(FAILURES_MAX - 1):
            assert host.provide(vm(), fresh=True) is None
            assert host.answered("held") is None
        host.provide(vm(), fresh=True)
        told = host.answered("held")
        assert told is not None
        assert (told.reason, "held" in told.text) == ("attach-failed", True)
        assert host.answered(None) is None


def attach_and_detach(host: Host) -> float:
    """Waits for the channel, has it attached and detached at once; returns when that was."""
    host.provide(vm())
    host.run(host.attaching.deadline)
    assert host.answered(None) is None
    host.provide(vm(path="/port"))
    return host.now


def test_a_channel_that_is_detached_comes_back_and_then_more_and_more_slowly(host: Host) -> None:
    times = [attach_and_detach(host) for _ in PAUSES]
    pauses = [later - sooner for sooner, later in zip(times, times[1:])]
    assert pauses == [0.5, 0.5, 0.5, *PAUSES[4:]], "at first only the rate counts"


def test_what_waits_for_so_long_is_told(host: Host) -> None:
    for _ in range(4):
        attach_and_detach(host)
    told = host.provide(vm())
    assert isinstance(told, Impossible)
    assert told.reason == "detached"
    assert host.provide(vm()) == told, "the same as long as it lasts"
    attach_and_detach(host)


def test_who_detaches_on_is_given_in_to_until_the_hour_is_over(host: Host) -> None:
    first, *_ = [attach_and_detach(host) for _ in PAUSES]
    told = host.provide(vm())
    assert isinstance(told, Impossible)
    assert (told.reason, f"{len(PAUSES)} times" in told.text) == ("detached", True)
    host.run(first + HOUR - 1)
    assert isinstance(host.provide(vm()), Impossible)
    assert len(host.asked) == len(PAUSES)
    host.run(first + HOUR)
    assert len(host.asked) == len(PAUSES) + 1


def test_another_run_of_the_vm_begins_anew(host: Host) -> None:
    for _ in PAUSES:
        attach_and_detach(host)
    host.attaching.forget("vm")
    assert host.provide(vm(), fresh=True) is None
    assert len(host.asked) == len(PAUSES) + 1


def test_who_waits_for_an_hour_holds_up_nobody(host: Host) -> None:
    for _ in range(4):
        attach_and_detach(host)
    host.provide(vm())
    host.provide(vm("other"))
    host.run(host.now + 1)
    assert host.asked[-1][1] == "other"


def test_an_attach_that_libvirt_holds_is_told_and_is_not_asked_for_again(host: Host) -> None:
    host.provide(vm(), fresh=True)
    host.run(ANSWER_MAX)
    assert host.provide(vm()) is None
    host.run(ANSWER_MAX + 1)
    told = host.provide(vm())
    assert isinstance(told, Impossible)
    assert told.reason == "attach-held"
    assert "other VMs" in told.text, "it may only stand behind them"
    assert len(host.asked) == 1
    host.answered("cannot acquire state change lock")
    assert host.provide(vm()) is None
    host.run(host.now + 1)
    assert len(host.asked) == 2
