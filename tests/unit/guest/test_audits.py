# SPDX-License-Identifier: Apache-2.0
"""The built-in audits, run as the agent runs them: in a child, on this system."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import pytest

from vmhb_guest import audits, jobs
from vmhb_guest.audits import DEFAULTS, Audit, Limits
from vmhb_guest.checks import Checks, Schedule
from vmhb_guest.config import Settings
from vmhb_guest.nagios import Outcome
from vmhb_guest.status import CheckResult, Status

GENEROUS = Limits(50.0, 60.0)
NONE_ALLOWED = Limits(0.0, 0.0)
TIMED = ["timer", "exec", "loopback", "fsync"]


def settle(checks: Checks, now: float = 0.0) -> dict[str, CheckResult]:
    """Let every audit that is due run to its end; time stands still."""
    results = {}
    while True:
        for result in checks.tick(now):
            results[result.name] = result
        try:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
        except ChildProcessError:
            return results


def run(settings: Settings) -> dict[str, CheckResult]:
    return settle(Checks(jobs.os_audits(settings), 8))


def test_a_machine_that_works_passes_all() -> None:
    limits = {**DEFAULTS, **dict.fromkeys(TIMED, GENEROUS), "space": Limits(0.2, 0.1)}
    results = run(Settings(audits=limits))
    assert {"os.timer", "os.exec", "os.loopback", "os.fsync", "os.space", "os.root"} <= set(results)
    assert [result for result in results.values() if result.status is not Status.OK] == []
    assert all(results[f"os.{kind}"].perfdata.startswith("time=") for kind in TIMED)
    assert not list(Path("/var/tmp").glob(f".vmhb-guest-*{os.getpid()}"))


@pytest.mark.parametrize("kind", TIMED)
def test_what_takes_too_long_is_critical(kind: str) -> None:
    (result,) = run(Settings(audits={kind: NONE_ALLOWED})).values()
    assert (result.name, result.status) == (f"os.{kind}", Status.CRITICAL)


def test_a_full_root_is_critical() -> None:
    (result,) = run(Settings(audits={"space": Limits(101.0, 100.0)})).values()
    assert result.status is Status.CRITICAL
    assert result.text.endswith("on / is free")


def test_an_error_is_critical_and_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_route(*_: object) -> None:
        raise OSError(errno.ENETUNREACH, "Network is unreachable")

    monkeypatch.setattr("socket.socket.connect", no_route)
    (result,) = run(Settings(audits={"loopback": GENEROUS})).values()
    assert (result.status, result.text) == (Status.CRITICAL, "Network is unreachable")


def test_a_mistake_of_ours_is_unknown_and_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(_: Limits) -> None:
        raise ValueError("boom")

    monkeypatch.setitem(audits._MEASURE, "root", wrong)
    (result,) = run(Settings(audits={"root": GENEROUS})).values()
    assert (result.status, result.text) == (Status.UNKNOWN, "ValueError: boom")


def test_a_system_that_measures_no_pressure_has_no_such_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only_memory = Settings(audits={"memory": Limits(10.0, 30.0)})
    monkeypatch.setattr(audits, "_PRESSURE", str(tmp_path / "memory"))
    assert run(only_memory) == {}
    (tmp_path / "memory").write_text(
        "some avg10=80.00 avg60=9.00 avg300=1.00 total=5\n"
        "full avg10=12.50 avg60=7.00 avg300=1.00 total=3\n"
    )
    (result,) = run(only_memory).values()
    assert (result.status, result.perfdata) == (Status.WARNING, "stalled=12.5%;10;30;0;100")


@pytest.mark.parametrize(
    ("fstab", "wanted"),
    [
        ("UUID=1 / ext4 errors=remount-ro 0 1\n", True),
        ("# / ext4\nUUID=1 / ext4 noatime,ro 0 1\n", False),
        ("UUID=2 /var ext4 rw 0 1\n", False),
        ("", False),
    ],
)
def test_a_read_only_root_is_bad_only_where_another_is_wanted(fstab: str, wanted: bool) -> None:
    assert audits.wanted_writable(fstab) is wanted


def test_a_hang_is_critical_within_two_intervals_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def hang(_: Limits) -> None:
        time.sleep(600)

    monkeypatch.setitem(audits._MEASURE, "fsync", hang)
    settings = Settings(audits={"fsync": GENEROUS, "exec": GENEROUS})
    checks = Checks(jobs.os_audits(settings), 8)
    seen = []
    for now in (0.0, 20.0, 30.0, 50.0):
        seen += [(now, result.name, result.status) for result in checks.tick(now)]
        while checks.filenos() and not any(name == "os.exec" for _, name, _ in seen):
            seen += [(now, result.name, result.status) for result in checks.tick(now)]
    checks.stop()
    assert (20.0, "os.fsync", Status.CRITICAL) in seen
    assert (0.0, "os.exec", Status.OK) in seen


def test_a_run_that_cannot_even_be_killed_is_told_again_and_not_started_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A process in an uninterruptible wait, as on a disk that does not answer, cannot be killed."""
    monkeypatch.setitem(audits._MEASURE, "fsync", lambda _: time.sleep(600))
    schedule = Schedule(interval=30.0, timeout=20.0, attempts=2)
    settings = Settings(audits={"fsync": GENEROUS}, audit_schedule=schedule)
    checks = Checks(jobs.os_audits(settings), 8)
    assert checks.tick(0.0) == []
    (pipe,) = checks.filenos()
    with monkeypatch.context() as patch:
        patch.setattr(os, "kill", lambda pid, number: None)
        patch.setattr(os, "killpg", lambda pid, number: None)
        assert checks.tick(20.0) == []
        assert checks.deadline == 30.0 or checks.tick(checks.deadline) == []
        (result,) = checks.tick(30.0)
    assert result.text == "timed out after 20 s, and cannot be killed"
    assert checks.filenos() == [pipe]
    checks.stop()


def test_an_audit_runs_without_the_privileges_of_the_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    adjustment = Path("/proc/self/oom_score_adj")

    def tell(_: Limits) -> Outcome:
        open_files = sorted(int(entry.name) for entry in Path("/proc/self/fd").iterdir())[:-1]
        text = f"{adjustment.read_text().strip()} {os.getsid(0) == os.getpid()} {open_files}"
        return Outcome(Status.OK, text, "")

    monkeypatch.setitem(audits._MEASURE, "root", tell)
    before = adjustment.read_text()
    adjustment.write_text("100")
    try:
        (result,) = run(Settings(audits={"root": GENEROUS})).values()
    finally:
        adjustment.write_text(before)
    assert result.text == "0 True [0, 1, 2]"


def test_limits_say_what_they_mean() -> None:
    assert Audit("space", Limits(5.0, 2.0)).limits.judge(2.0) is Status.CRITICAL
    assert Limits(5.0, 2.0).judge(4.0) is Status.WARNING
    assert Limits(5.0, 2.0).judge(6.0) is Status.OK
    assert Limits(2.0, 5.0).judge(6.0) is Status.CRITICAL
