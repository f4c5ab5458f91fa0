# SPDX-License-Identifier: Apache-2.0
"""The monitor, told what StarlingX's guest-client really said, when it said it."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from collectd_vmhb.monitor import Monitor
from collectd_vmhb.policy import Policy
from collectd_vmhb.settings import Settings
from collectd_vmhb.verdict import FaultRaised, Health

RECORDING = Path(__file__).parents[2] / "vectors" / "recorded" / "guestserver-guestclient.jsonl"
POLICY = Policy(1.0, 0.9, 5, 3, 300.0, False, "org.openstack.vmhb.0")
#: Of the recording: the client was stopped by SIGSTOP, went on, opened a new session, left.
FROZEN, THAWED, NEW_SESSION, LEFT = 21.7051, 27.6563, 32.661, 49.3025


class Replay:
    """Our host at the place of the recorded one: the client's bytes, our challenges.

    Each answer of the recording is one to our oldest challenge that the client has not answered.
    """

    def __init__(self, policy: Policy = POLICY) -> None:
        numbers = itertools.count(1)
        self.now = 0.0
        self.monitor = Monitor("uuid", policy, Settings(), lambda: next(numbers))
        self.faults: list[tuple[float, str]] = []
        self.sent: list[dict[str, Any]] = []
        self._unanswered: list[int] = []
        records = [json.loads(line) for line in RECORDING.read_text("utf-8").splitlines()]
        self._records = [record for record in records if self._concerns_us(record)]
        self.monitor.start(0.0, policy.grace_period, expected=False)
        self.monitor.connected(0.0)

    def until(self, time: float) -> None:
        while self._records and self._records[0]["t"] <= time:
            record = self._records.pop(0)
            self._pass_time(record["t"])
            if record["dir"] == "note":
                self._restart()
            else:
                self.monitor.receive(self._answers(record["raw"]).encode("latin-1"), self.now)
                self._collect()
        self._pass_time(time)

    @staticmethod
    def _concerns_us(record: dict[str, Any]) -> bool:
        return record["dir"] == "g2h" or record.get("note") == "guestServer restart"

    def _restart(self) -> None:
        self.monitor.disconnected(self.now, "restarted")
        self.monitor.connected(self.now)

    def _answers(self, raw: str) -> str:
        lines = []
        for line in raw.split("\n"):
            message = json.loads(line or "{}")
            if message.get("msg_type") == "challenge_response":
                ours = self._unanswered.pop(0) if self._unanswered else 0
                line = line.replace(
                    f'"heartbeat_response":{message["heartbeat_response"]},',
                    f'"heartbeat_response":{ours},',
                )
            lines.append(line)
        return "\n".join(lines)

    def _pass_time(self, until: float) -> None:
        while self.monitor.deadline <= until:
            self.now = max(self.now, self.monitor.deadline)
            self.monitor.tick(self.now)
            self._collect()
        self.now = until

    def _collect(self) -> None:
        for line in self.monitor.data_to_send().splitlines():
            if line:
                self.sent.append(json.loads(line))
                if self.sent[-1]["msg_type"] == "init_ack":
                    # What came before the session, the client ignores.
                    self._unanswered.clear()
                elif self.sent[-1]["msg_type"] == "challenge":
                    self._unanswered.append(self.sent[-1]["heartbeat_challenge"])
        for event in self.monitor.events():
            sign = "+" if isinstance(event, FaultRaised) else "-"
            self.faults.append((self.now, sign + event.name))


def test_a_session_is_established_though_the_first_answer_is_a_second_late() -> None:
    replay = Replay()
    replay.until(7.7)
    assert [m["msg_type"] for m in replay.sent[-2:]] == ["init_ack", "challenge"]
    assert "vmhb" not in replay.sent[-2]
    before = replay.monitor.counters.misses
    replay.until(12.0)
    assert replay.monitor.health is Health.HEALTHY
    assert replay.monitor.counters.misses == before
    assert replay.monitor.counters.late == 0


def test_unhealthy_is_a_fault_that_none_continues() -> None:
    replay = Replay()
    replay.until(13.7)
    assert [fault for _, fault in replay.faults] == ["+check.health"]
    replay.until(14.7)
    assert [fault for _, fault in replay.faults] == ["+check.health"], "corrective_action none"
    assert replay.monitor.health is Health.UNHEALTHY
    assert replay.monitor.checks.results["health"].text == "File /tmp/unhealthy exists."
    replay.until(16.0)
    assert [fault for _, fault in replay.faults] == ["+check.health", "-check.health"]
    assert replay.monitor.health is Health.HEALTHY


def test_nothing_that_the_client_says_is_refused() -> None:
    replay = Replay()
    replay.until(LEFT)
    assert replay.monitor.counters.malformed == 0
    assert replay.monitor.counters.wrong == 0
    assert {m["msg_type"] for m in replay.sent} == {"init_ack", "challenge"}


@pytest.mark.parametrize(
    ("threshold", "lost"), [(2, "+heartbeat-lost"), (5, "+heartbeat-lost"), (6, None)]
)
def test_a_client_that_is_frozen_for_six_seconds_is_lost_or_suspect(
    threshold: int, lost: str | None
) -> None:
    replay = Replay(replace(POLICY, miss_threshold=threshold))
    replay.until(FROZEN)
    replay.faults.clear()
    replay.until(THAWED)
    # Challenges go out at 22.63, 23.63 ... s, and each has 0.9 s.
    told = [(round(at, 2), fault) for at, fault in replay.faults]
    assert told == ([(round(22.53 + threshold, 2), lost)] if lost else [])
    assert replay.monitor.health is (Health.FAILED if lost else Health.SUSPECT)
    # It finds challenges in its port and answers them: alive now, but those are no beats.
    assert replay.monitor.counters.late == 2
    replay.until(NEW_SESSION)
    assert replay.monitor.health is Health.FAILED
    replay.until(NEW_SESSION + 2.5)
    assert replay.faults[-1][1] == "-heartbeat-lost"
    assert replay.monitor.health is Health.HEALTHY


def test_a_restart_of_the_host_costs_no_fault() -> None:
    replay = Replay()
    replay.until(36.0)
    replay.faults.clear()
    replay.until(LEFT - 0.1)
    assert replay.faults == []
    assert replay.monitor.counters.sessions == 3
    assert replay.monitor.health is Health.HEALTHY


def test_exit_is_no_loss() -> None:
    replay = Replay()
    replay.until(49.0)
    replay.faults.clear()
    replay.until(LEFT + 600)
    assert replay.faults == []
    assert replay.monitor.health is Health.ESTABLISHING
