# SPDX-License-Identifier: Apache-2.0
"""The monitor passes the host's cases of the executable wire spec (tests/vectors)."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from collectd_vmhb.monitor import Monitor
from collectd_vmhb.policy import Policy
from collectd_vmhb.settings import Settings
from collectd_vmhb.verdict import FaultCleared, FaultRaised
from vmhb_conformance.matching import matches

VECTORS = Path(__file__).parents[2] / "vectors" / "host.jsonl"
CASES = [json.loads(line) for line in VECTORS.read_text().splitlines()]
POLICY = Policy(1.0, 0.9, 5, 3, 300.0, False, "org.openstack.vmhb.0")


class Player:
    """Plays the steps of one case to a monitor and keeps what it sends until it is expected."""

    def __init__(self) -> None:
        numbers = itertools.count(278722862)
        self.now = 0.0
        self.monitor = Monitor("uuid", POLICY, Settings(), lambda: next(numbers))
        self.monitor.start(0.0, POLICY.grace_period, expected=False)
        self.sent: list[dict[str, Any]] = []
        #: The bytes of each write.
        self.written: list[bytes] = []
        self.challenge = self.audit_id = 0
        self.open: set[str] = set()
        self.changes: list[str] = []

    def play(self, step: dict[str, Any]) -> None:
        self.pass_time(step["at"])
        (kind,) = set(step) - {"at", "times"}
        if kind in ("port", "receive", "domain", "audit"):
            assert self.sent == [], f"sent, not expected before {step}"
            self.changes.clear()
        getattr(self, kind)(step[kind], **({"times": step["times"]} if "times" in step else {}))
        self.collect()

    def pass_time(self, until: float) -> None:
        while self.monitor.deadline <= until:
            self.now = max(self.now, self.monitor.deadline)
            self.monitor.tick(self.now)
            self.collect()
        self.now = until

    def collect(self) -> None:
        data = self.monitor.data_to_send()
        self.written.append(data)
        for line in data.split(b"\n"):
            if line:
                self.sent.append(json.loads(line))
                self.challenge = self.sent[-1].get("heartbeat_challenge", self.challenge)
                self.audit_id = self.sent[-1].get("id", self.audit_id)
        for event in self.monitor.events():
            if isinstance(event, FaultRaised):
                self.open.add(event.name)
            else:
                self.open.remove(event.name)
            self.changes.append(f"{'+' if isinstance(event, FaultRaised) else '-'}{event.name}")
            assert isinstance(event, (FaultRaised, FaultCleared))

    def port(self, how: str) -> None:
        if how == "open":
            self.monitor.connected(self.now)
        else:
            self.monitor.disconnected(self.now, "closed")

    def domain(self, state: str) -> None:
        if state == "running":
            self.monitor.resume(self.now)
        else:
            self.monitor.pause(self.now, state)

    def receive(self, text: str, times: int = 1) -> None:
        text = text.replace("$challenge", str(self.challenge))
        text = text.replace("$audit", str(self.audit_id))
        self.monitor.receive(text.encode("latin-1") * times, self.now)

    def audit(self, of: dict[str, Any]) -> None:
        detailed = of["level"] == "detailed"
        self.monitor.audit(of.get("check", ""), detailed, of["timeout"], self.now)

    def audited(self, wanted: dict[str, Any]) -> None:
        assert self.monitor.audits is not None
        last = self.monitor.audits.last
        assert last is not None
        assert {"outcome": last.outcome.value, "checks": sorted(last.checks)} == wanted

    def busy(self, wanted: bool) -> None:
        assert self.monitor.is_busy(self.now) is wanted

    def expect(self, wanted: dict[str, Any]) -> None:
        assert self.sent, f"nothing sent, expected {wanted}"
        message = self.sent.pop(0)
        assert matches(message, wanted), f"sent {message}, expected {wanted}"

    def expect_none(self, _: bool) -> None:
        assert self.sent == []

    def health(self, wanted: str) -> None:
        assert self.monitor.health.value == wanted

    def raised(self, name: str) -> None:
        assert f"+{name}" in self.changes

    def cleared(self, name: str) -> None:
        assert f"-{name}" in self.changes

    def faults(self, names: list[str]) -> None:
        assert sorted(self.open) == names

    def counts(self, wanted: dict[str, int]) -> None:
        assert {name: getattr(self.monitor.counters, name) for name in wanted} == wanted


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case["case"]))
def test_case(case: dict[str, Any]) -> None:
    player = Player()
    for step in case["steps"]:
        player.play(step)
    assert player.sent == []


def no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    assert len(dict(pairs)) == len(pairs), pairs
    return dict(pairs)


def test_all_that_the_host_sends_is_fit_for_the_published_client() -> None:
    """That client takes strings into arrays of fixed length, and the last of two equal keys."""
    schema = json.loads((VECTORS.parents[2] / "docs" / "protocol.schema.json").read_text())
    validator = jsonschema.Draft202012Validator(schema)
    kinds = set()
    for case in CASES:
        player = Player()
        for step in case["steps"]:
            player.play(step)
        for line in b"".join(player.written).splitlines(keepends=True):
            assert len(line) + 1 <= 1056
            if not line.strip():
                continue
            message = json.loads(line, object_pairs_hook=no_key_twice)
            validator.validate(message)
            kinds.add(message["msg_type"])
            assert line.isascii()
            assert len(message["msg_type"]) <= 31
            assert (message["version"], message["revision"]) == (3, 1)
            assert len(message.get("log_msg", "")) <= 200
        assert all(data[:1] + data[-1:] == b"\n\n" for data in player.written if data)
    assert kinds == {"init_ack", "challenge", "nack", "audit"}
