# SPDX-License-Identifier: Apache-2.0
"""What the monitor does beyond the wire cases: hostile guests, obstacles, the schedule."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collectd_vmhb.checks import CHECKS_MAX
from collectd_vmhb.monitor import BASE_PERIOD_MAX, MUTE, Monitor
from collectd_vmhb.policy import Policy
from collectd_vmhb.protocol.messages import CHECKS_MAX as CHECKS_PER_REPORT
from collectd_vmhb.settings import Settings
from collectd_vmhb.verdict import FaultRaised, Health, Severity
from tests.unit.collectd_vmhb.peer import POLICY, Peer


def test_a_guest_without_our_extension_is_asked_at_least_every_four_seconds() -> None:
    peer = Peer(replace(POLICY, interval=30.0, timeout=20.0))
    peer.open()
    peer.live(60)
    gaps = [later - earlier for earlier, later in itertools.pairwise(peer.sent)]
    assert max(gaps) <= BASE_PERIOD_MAX + 0.011


def test_a_guest_with_our_extension_is_asked_at_the_policys_interval() -> None:
    peer = Peer(replace(POLICY, interval=30.0, timeout=20.0))
    peer.open(extended=True)
    peer.answer()
    peer.live(300)
    gaps = [later - earlier for earlier, later in itertools.pairwise(peer.sent)]
    assert gaps[1:] == pytest.approx([30.0] * (len(gaps) - 1), abs=0.011)


def test_many_vms_are_not_asked_in_the_same_moment() -> None:
    firsts = set()
    for number in range(10):
        monitor = Monitor("uuid", POLICY, Settings(), lambda: 1, phase=number / 10)
        monitor.start(0.0, 300.0, expected=False)
        monitor.connected(0.0)
        firsts.add(round(monitor.deadline, 2))
    assert len(firsts) == 10


def test_a_flood_costs_the_guest_its_turn_and_then_its_name() -> None:
    peer = Peer()
    peer.open()
    peer.answer()
    peer.say(b"garbage\n" * 1000)
    assert peer.monitor.conduct.muted_until > peer.now, "the channel is not read for a while"
    for _ in range(30):
        peer.live(2, answering=False)
        peer.say(b"garbage\n" * 1000)
    assert peer.faults.count("+guest-misbehaves") == 1
    peer.live(3600)
    assert peer.faults.count("-guest-misbehaves") == 1


@pytest.mark.parametrize("kind", [b"of-tomorrow", b"action_response"])
def test_messages_that_mean_nothing_to_us_are_messages_all_the_same(kind: bytes) -> None:
    peer = Peer()
    peer.open()
    peer.answer()
    peer.say(b'{"version":3,"msg_type":"%s"}\n' % kind * 1000)
    assert peer.monitor.conduct.muted_until > peer.now


def test_a_burst_of_old_answers_is_no_misbehaviour() -> None:
    peer = Peer()
    peer.open()
    peer.answer()
    old = b'{"version":3,"msg_type":"challenge_response","heartbeat_response":99999,'
    peer.say((old + b'"heartbeat_health":"healthy"}\n') * 60)
    peer.live(120)
    assert peer.faults == []
    assert peer.monitor.counters.wrong == 60


def test_named_checks_are_bounded_whatever_a_guest_reports() -> None:
    peer = Peer()
    peer.open(extended=True)
    for part in range(10):
        checks = [
            {"name": f"c{part}-{i}", "status": "critical", "since_ms": 0, "duration_ms": 0}
            for i in range(CHECKS_PER_REPORT)
        ]
        peer.answer(vmhb={"checks": checks, "more": part < 9})
        peer.live(1, answering=False)
    assert len(peer.monitor.checks.results) <= CHECKS_MAX


def test_a_lost_heartbeat_says_how_long_and_what_stands_in_the_way() -> None:
    peer = Peer()
    peer.open()
    peer.answer()
    peer.monitor.disconnected(peer.now, "no such file")
    peer.monitor.events()
    while not (events := peer.monitor.events()):
        peer.now = peer.monitor.deadline
        peer.monitor.tick(peer.now)
    (event,) = events
    assert isinstance(event, FaultRaised)
    assert event.severity is Severity.FAILURE
    assert event.text == (
        "5 heartbeat challenges in a row unanswered, last answer 5.9 s ago (no such file)"
    )
    assert event.since == 0.0
    assert event.details["last_answer_secs_ago"] == "5.900"


def test_a_channel_that_has_been_mute_is_to_be_opened_anew() -> None:
    peer = Peer()
    peer.live(MUTE - 1, answering=False)
    assert not peer.monitor.mute(peer.now)
    peer.live(2, answering=False)
    assert peer.monitor.mute(peer.now)
    peer.monitor.pause(peer.now, "paused")
    assert not peer.monitor.mute(peer.now)
    peer.monitor.resume(peer.now)
    assert not peer.monitor.mute(peer.now), "it has not had the time to say something"
    peer.live(MUTE + 1, answering=False)
    assert peer.monitor.mute(peer.now)


def test_a_late_host_gives_more_time_before_it_blames() -> None:
    def fails_at(stretch: float) -> float:
        peer = Peer()
        peer.open()
        peer.answer()
        while peer.monitor.health is not Health.FAILED:
            peer.now = peer.monitor.deadline
            peer.monitor.tick(peer.now, stretch)
            peer.collect()
        return peer.now

    assert fails_at(3.0) > fails_at(1.0) + 5


def test_what_is_not_known_yet_is_not_a_number() -> None:
    assert math.isnan(Peer().monitor.rtt)


@given(st.lists(st.binary(max_size=60), max_size=20))
def test_no_guest_can_raise_an_error_or_a_lost_heartbeat_by_talking(data: list[bytes]) -> None:
    peer = Peer()
    peer.open(extended=True)
    for chunk in data:
        peer.say(chunk + b"\n")
    assert "+heartbeat-lost" not in peer.faults


def test_the_last_exchanges_and_the_change_of_health_are_remembered() -> None:
    peer = Peer()
    peer.open()
    peer.answer()
    peer.live(20)
    well = peer.monitor.history
    assert well.health is Health.HEALTHY
    assert well.since < 1.0
    assert all(rtt == 0.0 for _, rtt in well.exchanges())
    peer.live(7, answering=False)
    assert well.health is Health.FAILED
    assert 24.0 < well.since < 27.0
    assert [math.isnan(rtt) for _, rtt in well.exchanges()][-5:] == [True] * 5
    sent = [at for at, _ in well.exchanges()]
    assert sent == peer.sent[-11:-1], "the last challenge is still open"


def test_nothing_that_a_monitor_keeps_has_a_dictionary() -> None:
    """Hundreds of bytes for every VM; past 30 attributes more than a KiB."""
    monitor = Peer().monitor
    kept = [monitor, *(getattr(monitor, name) for name in monitor.__slots__)]
    ours = [part for part in kept if type(part).__module__.startswith("collectd_vmhb")]
    shared = (Policy, Settings)
    assert [
        part for part in ours if hasattr(part, "__dict__") and not isinstance(part, shared)
    ] == []
