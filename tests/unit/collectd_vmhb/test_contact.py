# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

from collectd_vmhb.contact import AWAY_MAX, Contact
from collectd_vmhb.impairments import LIBVIRT, Impairments


def contact() -> tuple[Contact, Impairments]:
    impairments = Impairments(lambda event, now: None)
    return Contact(impairments), impairments


def test_the_host_is_reported_once_libvirt_was_away_for_too_long() -> None:
    libvirt, impairments = contact()
    libvirt.suspect(0.0)
    libvirt.suspect(30.0)
    assert libvirt.deadline == AWAY_MAX
    libvirt.turn(AWAY_MAX - 0.1)
    assert LIBVIRT not in impairments
    libvirt.turn(AWAY_MAX)
    assert LIBVIRT in impairments
    libvirt.suspect(AWAY_MAX + 1.0)
    assert libvirt.deadline == math.inf


def test_an_answer_ends_it() -> None:
    libvirt, impairments = contact()
    libvirt.suspect(0.0)
    libvirt.answered(1.0)
    libvirt.turn(AWAY_MAX)
    assert LIBVIRT not in impairments
    libvirt.suspect(100.0)
    libvirt.turn(100.0 + AWAY_MAX)
    libvirt.answered(200.0)
    assert LIBVIRT not in impairments


def test_an_operator_is_told_how_it_stands() -> None:
    libvirt, _ = contact()
    assert libvirt.state == "not read yet"
    libvirt.suspect(0.0)
    assert libvirt.state == "away"
    libvirt.answered(1.0)
    libvirt.complete = True
    assert libvirt.state == "connected"
    libvirt.suspect(2.0)
    libvirt.turn(2.0 + AWAY_MAX)
    assert libvirt.state == "away"
