# SPDX-License-Identifier: Apache-2.0
"""How the monitors of many VMs share one loop: few wake-ups, and no crowd in any of them."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from dataclasses import replace

import pytest

from collectd_vmhb.monitor import TICK, Monitor
from collectd_vmhb.policy import Policy
from collectd_vmhb.settings import Settings

POLICY = Policy(1.0, 0.5, 3, 3, 300.0, False, "org.openstack.vmhb.0")
VMS = 400
INIT = b'{"version":3,"msg_type":"init","invocation_id":7,"heartbeat_interval_ms":1000}\n'
ANSWER = {"version": 3, "msg_type": "challenge_response", "heartbeat_health": "healthy"}


class Host:
    """Many VMs whose guests notice the engine in the same moment, and answer at once.

    Those that are ``known`` to an earlier engine have kept their sessions.
    """

    def __init__(self, known: bool = False) -> None:
        numbers = itertools.count(1)
        self.now = 0.0
        self.monitors = [
            Monitor(f"vm-{n}", POLICY, Settings(), lambda: next(numbers), phase=n / VMS)
            for n in range(VMS)
        ]
        #: Challenges by the wake-up in which they were sent; a selector counts milliseconds.
        self.sent: Counter[float] = Counter()
        for monitor in self.monitors:
            monitor.start(0.0, POLICY.grace_period, expected=known)
            monitor.connected(0.0)
            if not known:
                monitor.receive(INIT, 0.0)
            self._answer(monitor)

    def run(self, until: float) -> None:
        while (at := min(monitor.deadline for monitor in self.monitors)) < until:
            self.now = max(self.now, at)
            for monitor in self.monitors:
                if monitor.deadline <= self.now:
                    monitor.tick(self.now)
                    self._answer(monitor)

    def _answer(self, monitor: Monitor) -> None:
        for line in filter(None, monitor.data_to_send().splitlines()):
            message = json.loads(line)
            if message["msg_type"] == "challenge":
                self.sent[round(self.now, 3)] += 1
                answer = {**ANSWER, "heartbeat_response": message["heartbeat_challenge"]}
                monitor.receive(json.dumps(answer).encode() + b"\n", self.now)


def test_the_wake_ups_of_many_healthy_vms_are_bounded_by_the_tick() -> None:
    host = Host()
    host.run(until=10.0)
    assert sum(host.sent.values()) >= VMS * 9
    assert len(host.sent) <= 10.0 / TICK + 1


@pytest.mark.parametrize("known", [False, True])
def test_guests_that_all_notice_a_new_engine_at_once_are_spread_over_the_interval(
    known: bool,
) -> None:
    host = Host(known)
    host.run(until=10.0)
    crowds = [count for at, count in host.sent.items() if at > 2 * POLICY.interval]
    assert max(crowds) <= 2 * VMS * TICK / POLICY.interval


def challenged(monitor: Monitor, now: float) -> bool:
    """Ticks; answers at once and tells of it if the guest was asked for that."""
    monitor.tick(now)
    asked = re.search(rb'"heartbeat_challenge":(\d+)', monitor.data_to_send())
    if asked:
        answer = {**ANSWER, "heartbeat_response": int(asked[1])}
        monitor.receive(json.dumps(answer).encode() + b"\n", now)
    return bool(asked)


@pytest.mark.parametrize("interval", [0.25, 1.0, 3.0])
def test_vms_of_one_phase_share_wake_ups_whenever_their_agents_begin(interval: float) -> None:
    numbers = itertools.count(1)
    policy = replace(POLICY, interval=interval, timeout=interval / 2)
    monitors = []
    for began in (100.0, 100.123, 107.77, 131.4142):
        monitor = Monitor("vm", policy, Settings(), lambda: next(numbers), phase=0.37)
        monitor.start(began, POLICY.grace_period, expected=False)
        monitor.connected(began)
        monitor.receive(INIT, began)
        assert challenged(monitor, began)
        monitors.append(monitor)
    # An agent that starts anew falls back into step, though its VM was healthy all the time.
    monitors[0].receive(INIT, 132.01)
    assert challenged(monitors[0], 132.01)
    for monitor in monitors:
        while monitor.deadline < 200.0:
            challenged(monitor, monitor.deadline)
    assert max(m.deadline for m in monitors) - min(m.deadline for m in monitors) < 0.001
    in_interval = monitors[0].deadline % interval / interval
    assert in_interval == pytest.approx(0.37, abs=TICK / interval)


def test_guests_that_an_earlier_engine_knew_are_asked_at_once_and_silence_is_no_miss() -> None:
    host = Host(known=True)
    assert host.sent == {0.0: VMS}
    numbers = itertools.count(1)
    silent = Monitor("vm", POLICY, Settings(), lambda: next(numbers))
    silent.start(0.0, grace=0.0, expected=True)
    silent.connected(0.0)
    assert b'"challenge"' in silent.data_to_send()
    assert silent.deadline == POLICY.interval
    silent.tick(silent.deadline)
    assert b'"challenge"' in silent.data_to_send()
    assert (silent.counters.misses, silent.misses_in_a_row) == (0, 0)


def test_after_a_stall_of_this_host_its_vms_are_as_spread_as_before() -> None:
    host = Host()
    host.run(until=10.0)
    host.now += 2.7 * POLICY.interval
    host.run(until=20.0)
    crowds = [count for at, count in host.sent.items() if at > 17.0]
    assert max(crowds) <= 2 * VMS * TICK / POLICY.interval
