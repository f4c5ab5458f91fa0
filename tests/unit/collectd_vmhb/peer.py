# SPDX-License-Identifier: Apache-2.0
"""A guest that says what a test wants it to say, in front of a real monitor."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import Any

from collectd_vmhb.monitor import Monitor
from collectd_vmhb.policy import Policy
from collectd_vmhb.settings import Settings
from collectd_vmhb.verdict import FaultRaised

POLICY = Policy(1.0, 0.9, 5, 3, 300.0, False, "org.openstack.vmhb.0")
INIT = b'{"version":3,"msg_type":"init","invocation_id":7,"heartbeat_interval_ms":1000%s}\n'
VMHB = b',"vmhb":{"caps":%s,"max_line":16384}'


class Peer:
    """A monitor, its clock, and a guest that says what a test wants it to say."""

    def __init__(self, policy: Policy = POLICY, settings: Settings | None = None) -> None:
        numbers = itertools.count(1)
        self.now = 0.0
        self.monitor = Monitor("uuid", policy, settings or Settings(), lambda: next(numbers))
        self.monitor.start(0.0, policy.grace_period, expected=False)
        self.monitor.connected(0.0)
        self.challenge = 0
        self.sent: list[float] = []
        self.said: list[dict[str, Any]] = []
        self.faults: list[str] = []

    def open(self, extended: bool = False, caps: Sequence[str] = ("checks",)) -> None:
        self.say(INIT % (VMHB % json.dumps(caps).encode() if extended else b""))

    def say(self, data: bytes) -> None:
        self.monitor.receive(data, self.now)
        self.collect()

    def answer(self, **extra: object) -> None:
        fields = {
            "version": 3,
            "msg_type": "challenge_response",
            "heartbeat_response": self.challenge,
            "heartbeat_health": "healthy",
            **extra,
        }
        self.say(json.dumps(fields).encode() + b"\n")

    def collect(self) -> None:
        for line in self.monitor.data_to_send().splitlines():
            if not line:
                continue
            message = json.loads(line)
            self.said.append(message)
            if message["msg_type"] == "challenge":
                self.challenge = message["heartbeat_challenge"]
                self.sent.append(self.now)
        for event in self.monitor.events():
            self.faults.append(("+" if isinstance(event, FaultRaised) else "-") + event.name)

    def live(self, seconds: float, answering: bool = True) -> None:
        until = self.now + seconds
        while self.monitor.deadline <= until:
            self.now = max(self.now, self.monitor.deadline)
            sent = len(self.sent)
            self.monitor.tick(self.now)
            self.collect()
            if answering and len(self.sent) > sent:
                self.answer()
        self.now = until
