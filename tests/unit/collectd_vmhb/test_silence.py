# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from collectd_vmhb.silence import Silence, why_silent
from collectd_vmhb.verdict import FaultRaised
from tests.unit.collectd_vmhb.peer import INIT, POLICY, Peer

#: Connected, and nothing came: the port has the state that libvirt gives.
NOTHING: dict[str, Any] = {
    "connected": True,
    "refused": False,
    "session": False,
    "guest_open": None,
    "booting": False,
}


@pytest.mark.parametrize(
    ("known", "why"),
    [
        ({}, Silence.SILENT),
        ({"connected": False, "guest_open": True}, Silence.NOT_CONNECTED),
        ({"accepted": False, "guest_open": True, "session": True}, Silence.NOT_ACCEPTED),
        ({"accepted": False, "connected": False}, Silence.NOT_CONNECTED),
        ({"accepted": True}, Silence.SILENT),
        ({"guest_open": False}, Silence.PORT_CLOSED),
        ({"guest_open": True}, Silence.MUTE),
        ({"guest_open": False, "booting": True}, Silence.BOOTING),
        ({"guest_open": True, "booting": True}, Silence.BOOTING),
        ({"refused": True, "guest_open": True}, Silence.REFUSED),
        ({"refused": True, "booting": True}, Silence.REFUSED),
        ({"session": True, "refused": True}, Silence.UNANSWERED),
        ({"session": True, "guest_open": False}, Silence.PORT_CLOSED),
    ],
)
def test_the_first_thing_in_the_way_is_named(known: dict[str, Any], why: Silence) -> None:
    assert why_silent(**{**NOTHING, **known}) is why


def test_a_reason_is_a_word_and_a_text_fits_a_notification() -> None:
    assert [why.reason for why in Silence] == [
        "not-connected",
        "not-accepted",
        "booting",
        "unanswered",
        "refused",
        "port-closed",
        "mute",
        "silent",
    ]
    assert max(len(why.value) for why in Silence) < 150


def not_established(peer: Peer) -> FaultRaised:
    """Lets the grace period go by, and returns what is raised then."""
    peer.monitor.tick(peer.now)
    peer.now = POLICY.grace_period
    peer.monitor.tick(peer.now)
    (fault,) = peer.monitor.events()
    assert isinstance(fault, FaultRaised)
    assert fault.name == "not-established"
    return fault


@pytest.fixture(name="peer")
def _peer() -> Peer:
    return Peer(replace(POLICY, required=True))


@pytest.mark.parametrize(
    ("guest_open", "reason"), [(None, "silent"), (False, "port-closed"), (True, "mute")]
)
def test_a_vm_that_says_nothing_is_told_with_the_state_of_its_port(
    peer: Peer, guest_open: bool | None, reason: str
) -> None:
    peer.monitor.guest_open = guest_open
    assert peer.monitor.silence(1.0) is Silence.BOOTING
    fault = not_established(peer)
    assert (fault.reason, Silence[reason.upper().replace("-", "_")].value in fault.text) == (
        reason,
        True,
    )


def test_a_vm_that_speaks_something_else_is_told_without_its_words(peer: Peer) -> None:
    peer.say(b"login: \n")
    fault = not_established(peer)
    assert fault.reason == "refused"
    assert "login" not in fault.text
    assert fault.guest_text


def test_a_vm_that_greets_and_never_answers_is_told_as_that(peer: Peer) -> None:
    peer.say(INIT % b"")
    assert not_established(peer).reason == "unanswered"


def test_a_vm_that_is_not_connected_is_told_with_what_is_in_the_way(peer: Peer) -> None:
    peer.monitor.disconnected(1.0, "/run/port: No such file or directory")
    fault = not_established(peer)
    assert (fault.reason, "/run/port: No such file" in fault.text) == ("not-connected", True)


def test_a_vm_whose_connection_qemu_has_not_accepted_is_told_with_that(peer: Peer) -> None:
    peer.monitor.unaccepted = True
    fault = not_established(peer)
    assert (fault.reason, "another program on this host" in fault.text) == ("not-accepted", True)


def test_a_loss_of_which_another_program_is_the_cause_says_so(peer: Peer) -> None:
    peer.open()
    peer.answer()
    peer.monitor.connected(peer.now)
    peer.monitor.unaccepted = True
    told: list[FaultRaised] = []
    for _ in range(20):
        peer.now += 1
        peer.monitor.tick(peer.now)
        told += [event for event in peer.monitor.events() if isinstance(event, FaultRaised)]
    (fault,) = told
    assert (fault.name, fault.reason) == ("heartbeat-lost", "not-accepted")
    assert "another program on this host" in fault.text


def test_a_vm_that_this_host_may_not_reach_is_blamed_for_nothing(peer: Peer) -> None:
    peer.open()
    peer.answer()
    peer.monitor.barred = True
    peer.live(1000, answering=False)
    assert peer.faults == []
    peer.monitor.barred = False
    peer.live(10, answering=False)
    assert peer.faults == ["+heartbeat-lost"]
