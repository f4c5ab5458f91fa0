# SPDX-License-Identifier: Apache-2.0
"""Audits that the host asks for: real checks, a real session, our own clock."""

from __future__ import annotations

import json
import select
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vmhb_guest import jobs, wire
from vmhb_guest.applications import Applications
from vmhb_guest.auditor import Auditor
from vmhb_guest.checks import Checks
from vmhb_guest.config import OwnCheck, Settings
from vmhb_guest.line_server import LineServer
from vmhb_guest.session import Session


class Bench:
    """An agent without its loop."""

    def __init__(self, directory: Path) -> None:
        commands = {
            "app": OwnCheck('echo "$VMHB_LEVEL"; exit 2'),
            "slow": OwnCheck("exec sleep 600"),
        }
        settings = Settings(health_dir=str(directory / "none"), own_checks=commands)
        self.checks = Checks(jobs.health_checks(settings), 4)
        self.session = Session("vm", draw=lambda: 42)
        self.applications = Applications(LineServer(str(directory / "app.sock"), 0o600))
        self.auditor = Auditor(self.session, [self.checks], self.applications)
        self.session.port_opened(0.0)
        acknowledge = {"invocation_id": 42, "vmhb": {"caps": ["audit"], "max_line": 16384}}
        self.session.receive(wire.encode("init_ack", 1, acknowledge), 0.0)
        self.session.data_to_send()

    def ask(self, now: float, **fields: object) -> None:
        request = {"level": "detailed", "timeout_ms": 5000, **fields}
        self.session.receive(wire.encode("audit", 1, request), now)
        self.step(now)

    def step(self, now: float) -> None:
        self.checks.tick(now)
        self.auditor.tick(now)
        self.checks.tick(now)

    def answered(self) -> list[dict[str, Any]]:
        lines = self.session.data_to_send().split(b"\n")
        return [json.loads(line) for line in lines if line]

    def run_app(self, now: float) -> None:
        """Let the run of `app` that was started at `now` come to its end."""
        while self.checks.answer("app", now) is None:
            select.select(self.checks.filenos(), [], [], 0.01)
            self.checks.tick(now)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.checks.stop()
    bench.applications.stop()


def test_a_check_is_run_at_once_at_the_level_that_is_asked_for(bench: Bench) -> None:
    bench.step(0.0)
    bench.run_app(0.0)
    bench.ask(1.0, id=7, check="app")
    bench.run_app(1.0)
    bench.step(1.5)
    (answer,) = bench.answered()
    assert (answer["msg_type"], answer["id"], answer["outcome"]) == ("audit_result", 7, "done")
    (check,) = answer["checks"]
    assert (check["name"], check["status"], check["text"]) == ("app", "critical", "detailed")
    assert answer["more"] is False


def test_what_takes_too_long_is_named_beside_what_has_come(bench: Bench) -> None:
    bench.ask(1.0, id=8)
    assert bench.auditor.deadline == 6.0
    bench.run_app(1.0)
    bench.step(2.0)
    assert bench.answered() == []
    bench.step(6.0)
    (answer,) = bench.answered()
    assert (answer["outcome"], answer["log_msg"]) == ("timeout", "no result of slow")
    assert [check["name"] for check in answer["checks"]] == ["app"]


def test_an_unknown_check_is_said_to_be(bench: Bench) -> None:
    bench.step(0.0)
    bench.ask(1.0, id=9, check="nothing")
    (answer,) = bench.answered()
    assert (answer["outcome"], answer["checks"]) == ("unknown_check", [])


def test_a_new_session_ends_an_audit(bench: Bench) -> None:
    bench.ask(1.0, id=9, check="slow")
    bench.session.port_closed()
    bench.step(2.0)
    assert bench.auditor.deadline == float("inf")
