# SPDX-License-Identifier: Apache-2.0
"""The command `vmhb` in front of a control socket, or of none."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from collectd_vmhb.cli import find, main, seconds
from collectd_vmhb.control import ControlError, ControlServer


def vm(number: int, name: str) -> dict[str, Any]:
    return {
        "uuid": f"6ba7b810-9dad-41d1-80b4-{number:012d}",
        "name": name,
        "health": "healthy",
        "since": None,
        "maintenance": None,
        "busy": None,
        "rtt": 0.0017,
        "misses": 0,
        "faults": [],
    }


VMS = [vm(1, "web"), vm(2, "twin"), vm(3, "twin"), vm(4, "database")]
ENGINE = {
    "policy_file": None,
    "mode": "report",
    "libvirt": "connected",
    "awareness": 0,
    "pid": 1,
    "since": 0.0,
}
OFF: dict[str, Any] = {
    "uuid": "6ba7b810-9dad-41d1-80b4-000000000005",
    "name": "off",
    "maintenance": None,
}
OFF["why"] = "it is shut off"
STATUS: dict[str, Any] = {
    "engine": {**ENGINE, "maintenance": None, "faults": []},
    "vms": VMS,
    "unmonitored": [OFF],
}


class Served:
    """A control socket that knows VMS, and what it was asked beyond that."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.asked: list[dict[str, Any]] = []
        self.audit: dict[str, Any] = {}
        self.server = ControlServer(path, self.reply)
        self.server.start()

    def reply(self, line: bytes) -> dict[str, Any]:
        request = json.loads(line)
        if request["command"] == "status":
            return {"ok": STATUS}
        if request["command"] == "explain":
            # An audit is seen to run once before it is over.
            over = len(self.asked) > 1
            self.asked.append(request)
            checks = [{"name": "app", "status": "ok", "text": "", "perfdata": ""}]
            running = {**self.audit, "outcome": "running", "checks": []}
            said = {"audit": self.audit if over else running, "checks": checks}
            return {"ok": {**VMS[0], **said}}
        self.asked.append(request)
        if request["command"] == "audit":
            return {"ok": self.audit} if self.audit else {"error": "too soon"}
        if request["command"] == "detach" and request["vm"] != OFF["uuid"]:
            return {"error": "it is monitored"}
        return {"ok": "a.port" if request["command"] == "detach" else {"until": 1.7e9}}

    def run(self, *arguments: str) -> int:
        return main(["--socket", str(self.path), *arguments])


@pytest.fixture(name="engine")
def _engine(tmp_path: Path) -> Iterator[Served]:
    served = Served(tmp_path / "control.sock")
    yield served
    served.server.stop(5.0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("90s", 90), ("15m", 900), ("1h", 3600), ("2d", 172800), ("1h30m", 5400)],
)
def test_durations_are_read_with_their_units(text: str, expected: float) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["", "60", "1 h", "h", "-1h", "1.5h", "1w", "nan"])
def test_what_is_no_duration_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="1h30m"):
        seconds(text)


def test_a_vm_is_found_by_name_or_by_uuid_in_either_case() -> None:
    assert find(STATUS, "web") == VMS[0]
    assert find(STATUS, VMS[2]["uuid"].upper()) == VMS[2]


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ("databaze", "no VM databaze is monitored on this host; did you mean database"),
        ("nothing-like-it", "vmhb status lists"),
        ("off", "VM off is on this host and not monitored: it is shut off"),
        (OFF["uuid"], "not monitored"),
        ("twin", f"2 VMs are named twin: take one of {VMS[1]['uuid']}, {VMS[2]['uuid']}"),
        ("we\x1b[1m", r"no VM we?[1m is"),
    ],
)
def test_a_vm_that_is_not_to_be_found_is_said_with_a_hint(wanted: str, words: str) -> None:
    with pytest.raises(ControlError) as caught:
        find(STATUS, wanted)
    assert words in str(caught.value)


def test_status_shows_every_vm_by_name(engine: Served, capsys: pytest.CaptureFixture[str]) -> None:
    assert engine.run("status") == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()[4:]]
    assert names == ["database", "twin", "twin", "web"]


def test_status_of_one_vm_for_machines(engine: Served, capsys: pytest.CaptureFixture[str]) -> None:
    assert engine.run("status", "--json", "web") == 0
    assert json.loads(capsys.readouterr().out) == {**STATUS, "vms": [VMS[0]]}


def test_detach_says_what_was_taken_out_or_why_not(
    engine: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    assert engine.run("detach", "off") == 0
    assert capsys.readouterr().out == f"VM off ({OFF['uuid']}): a.port is detached\n"
    assert engine.run("detach", "web") == 1
    said = capsys.readouterr().err
    assert said == f"vmhb: VM web ({VMS[0]['uuid']}) keeps its channel: it is monitored\n"


def test_pause_and_resume_say_whom_they_mean(
    engine: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    assert engine.run("pause", "web", "--for", "1h", "--reason", "a new disk") == 0
    assert engine.run("pause", "--host", "--for", "2h", "--reason", "new firmware") == 0
    assert engine.run("resume", "web") == 0
    assert engine.run("resume", "--host") == 0
    assert engine.run("resume", "off") == 0
    web = VMS[0]["uuid"]
    assert engine.asked == [
        {"command": "pause", "vm": web, "seconds": 3600.0, "reason": "a new disk"},
        {"command": "pause", "vm": "", "seconds": 7200.0, "reason": "new firmware"},
        {"command": "resume", "vm": web},
        {"command": "resume", "vm": ""},
        {"command": "resume", "vm": OFF["uuid"]},
    ]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"VM web ({web}): maintenance until 20")
    assert lines[3] == "this host with all its VMs: maintenance is over"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["stop"],
        ["explain"],
        ["resume"],
        ["resume", "web", "--host"],
        ["pause", "web", "--for", "1h"],
        ["pause", "web", "--reason", "x"],
        ["pause", "web", "--reason", "x", "--for", "soon"],
    ],
)
def test_wrong_usage_is_told_without_asking_anybody(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--socket", "/nowhere", *arguments])
    assert caught.value.code == 2
    assert "usage: vmhb" in capsys.readouterr().err


def test_an_engine_that_does_not_run_is_told_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "control.sock"
    assert main(["--socket", str(path), "status"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"vmhb: no engine answers at {path}")
    assert line.endswith("systemctl status collectd")


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert all(
        command in text for command in ("status", "explain", "audit", "pause", "resume", "detach")
    )


def audit(outcome: str, text: str = "", **statuses: str) -> dict[str, Any]:
    found = {"text": "too many\x1b[31m clients", "perfdata": "", "duration": 0.412}
    return {
        "id": 7,
        "check": "disk",
        "level": "detailed",
        "timeout": 30.0,
        "outcome": outcome,
        "text": text,
        "checks": [{"name": name, "status": status, **found} for name, status in statuses.items()],
    }


def test_an_audit_is_awaited_and_shown(engine: Served, capsys: pytest.CaptureFixture[str]) -> None:
    engine.audit = audit("done", app="critical", disk="ok")
    assert engine.run("audit", "web", "--check", "disk", "--detailed", "--timeout", "1m") == 0
    asked = engine.asked[0]
    assert (asked["vm"], asked["check"], asked["detailed"]) == (VMS[0]["uuid"], "disk", True)
    assert asked["seconds"] == 60
    assert capsys.readouterr().out.splitlines() == [
        "CHECK  STATUS    TOOK      TEXT",
        "app    critical  412.0 ms  too many?[31m clients",
        "disk   ok        412.0 ms  too many?[31m clients",
    ]


@pytest.mark.parametrize(
    ("outcome", "shown", "words"),
    [
        ("timeout", True, "not every check ended within 30 s (no result of disk)"),
        ("unknown_check", False, "it has no check disk; it has reported: app"),
        ("refused", False, "the guest refused the audit: no result of disk"),
        ("unanswered", False, "the guest did not answer within 30 s; see vmhb explain"),
        ("interrupted", False, "the session ended before the answer"),
    ],
)
def test_an_audit_that_is_not_done_says_why(
    engine: Served, capsys: pytest.CaptureFixture[str], outcome: str, shown: bool, words: str
) -> None:
    found = {"app": "ok"} if shown else {}
    engine.audit = audit(outcome, "no result of disk", **found)
    assert engine.run("audit", "web") == 1
    said = capsys.readouterr()
    assert said.err.startswith(f"vmhb: VM web: {words}")
    assert ("app" in said.out) is shown


def test_an_audit_for_machines_and_one_that_cannot_be(
    engine: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    engine.audit = audit("done", app="ok")
    assert engine.run("audit", "web", "--json") == 0
    assert json.loads(capsys.readouterr().out) == engine.audit
    engine.audit = {}
    assert engine.run("audit", "web") == 1
    assert capsys.readouterr().err == "vmhb: no audit of VM web: too soon\n"
