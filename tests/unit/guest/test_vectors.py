# SPDX-License-Identifier: Apache-2.0
"""The agent core passes the guest's cases of the executable wire spec (tests/vectors)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vmhb_conformance.matching import matches
from vmhb_guest.session import Session
from vmhb_guest.status import CheckResult, Status

VECTORS = Path(__file__).parents[2] / "vectors" / "guest.jsonl"
CASES = [json.loads(line) for line in VECTORS.read_text().splitlines()]


class Player:
    """Plays the steps of one case to a session and keeps what it sends until it is expected."""

    def __init__(self) -> None:
        self.session = Session("vm1")
        self.now = 0.0
        self.sent: list[dict[str, Any]] = []
        self.init_ids: list[int] = []

    def play(self, step: dict[str, Any]) -> None:
        self.pass_time(step["at"])
        (kind,) = set(step) - {"at", "times"}
        if kind not in ("expect", "expect_none", "audit"):
            assert self.sent == [], f"sent, not expected before {step}"
        getattr(self, kind)(step[kind], **({"times": step["times"]} if "times" in step else {}))
        self.collect()

    def pass_time(self, until: float) -> None:
        while (due := self.session.deadline) is not None and due <= until:
            self.now = max(self.now, due)
            self.session.tick(self.now)
            self.collect()
        self.now = until

    def collect(self) -> None:
        for line in self.session.data_to_send().split(b"\n"):
            if line:
                self.sent.append(json.loads(line))
                if self.sent[-1]["msg_type"] == "init":
                    self.init_ids.append(self.sent[-1]["invocation_id"])

    def port(self, how: str) -> None:
        if how == "open":
            self.session.port_opened(self.now)
        else:
            self.session.port_closed()

    def receive(self, text: str, times: int = 1) -> None:
        for name, back in (("$previous_invocation_id", 2), ("$invocation_id", 1)):
            if name in text:
                text = text.replace(name, str(self.init_ids[-back]))
        self.session.receive(text.encode("latin-1") * times, self.now)

    def checks(self, names: list[str]) -> None:
        self.session.expect_checks(names, self.now)

    def result(self, given: dict[str, Any]) -> None:
        self.session.check_result(self.as_result(given))

    def as_result(self, given: dict[str, Any]) -> CheckResult:
        fields = {"perfdata": "", "since": self.now, "duration": 0.0, **given}
        fields["status"] = Status(fields["status"])
        return CheckResult(**fields)

    def audit(self, wanted: dict[str, str]) -> None:
        assert self.session.audit is not None
        assert {key: getattr(self.session.audit, key) for key in wanted} == wanted

    def audited(self, end: dict[str, Any]) -> None:
        results = [self.as_result(given) for given in end["results"]]
        self.session.audit_done(end["outcome"], results, end.get("text", ""), self.now)

    def busy(self, told: dict[str, Any]) -> None:
        self.session.busy(told["reason"], self.now + told["for_ms"] / 1000)

    def stop(self, reason: str) -> None:
        self.session.stop(reason)

    def expect(self, wanted: dict[str, Any]) -> None:
        assert self.sent, f"nothing sent, expected {wanted}"
        message = self.sent.pop(0)
        assert matches(message, wanted), f"sent {message}, expected {wanted}"

    def expect_none(self, _: bool) -> None:
        assert self.sent == []


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case["case"]))
def test_case(case: dict[str, Any]) -> None:
    player = Player()
    for step in case["steps"]:
        player.play(step)
    assert player.sent == []


@pytest.mark.parametrize(
    ("value", "wanted"),
    [({"a": 1}, {"b": "$any"}), ({"a": 1}, {"a": "$absent"}), ({"a": [1]}, {"a": []}), (1, True)],
)
def test_the_player_sees_a_difference(value: object, wanted: object) -> None:
    assert not matches(value, wanted)
