# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collectd_vmhb.impairments import DISK, LIBVIRT, RIGHTS, Impairments
from collectd_vmhb.verdict import FaultCleared, FaultEvent, FaultRaised, Severity


def table() -> tuple[Impairments, list[FaultEvent]]:
    told: list[FaultEvent] = []
    return Impairments(lambda event, now: told.append(event)), told


def test_the_disk_alone_is_a_warning_and_anything_else_a_failure() -> None:
    impairments, told = table()
    impairments.impair(DISK, "full", 0.0)
    impairments.impair(LIBVIRT, "away", 1.0)
    impairments.mend(LIBVIRT, 2.0)
    severities = [event.severity for event in told if isinstance(event, FaultRaised)]
    assert severities == [Severity.WARNING, Severity.FAILURE, Severity.WARNING]


def test_it_is_over_when_the_last_cause_is_gone() -> None:
    impairments, told = table()
    impairments.impair(DISK, "full", 0.0)
    impairments.impair(LIBVIRT, "away", 0.0)
    impairments.mend(DISK, 1.0)
    assert isinstance(told[-1], FaultRaised)
    impairments.mend(LIBVIRT, 1.0)
    assert isinstance(told[-1], FaultCleared)


def test_one_vms_open_channel_does_not_mend_what_another_one_lacks() -> None:
    impairments, told = table()
    impairments.bar("a", "no right", 0.0)
    impairments.bar("b", "no right", 0.0)
    impairments.unbar("a", 1.0)
    assert RIGHTS in impairments
    impairments.unbar("b", 2.0)
    assert RIGHTS not in impairments
    assert len([event for event in told if isinstance(event, FaultRaised)]) == 1


def test_what_an_earlier_process_left_goes_on_until_it_is_mended() -> None:
    impairments, told = table()
    impairments.adopt(LIBVIRT, "away")
    impairments.settle(0.0)
    assert isinstance(told[-1], FaultRaised)
    impairments.mend(LIBVIRT, 1.0)
    assert isinstance(told[-1], FaultCleared)
