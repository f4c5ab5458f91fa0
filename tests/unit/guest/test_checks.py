# SPDX-License-Identifier: Apache-2.0
"""Health checks as real processes; the clock is ours, and nobody sleeps."""

from __future__ import annotations

import contextlib
import os
import select
from collections.abc import Iterator
from pathlib import Path

import pytest

from vmhb_guest import jobs
from vmhb_guest.checks import SCAN_PERIOD, Checks, Schedule
from vmhb_guest.config import OwnCheck, Settings
from vmhb_guest.status import CheckResult, Status


class Bench:
    """A health directory, its checks, and a clock that a test moves."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.schedules: dict[str, Schedule] = {}
        self.own_checks: dict[str, OwnCheck] = {}
        self.checks = Checks(jobs.health_checks(self.settings), 2)
        self.now = 0.0

    @property
    def settings(self) -> Settings:
        return Settings(
            health_dir=str(self.directory), schedules=self.schedules, own_checks=self.own_checks
        )

    def put(self, name: str, script: str, mode: int = 0o755) -> Path:
        path = self.directory / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(mode)
        return path

    def settle(self) -> dict[str, CheckResult]:
        """Let every run that was started or is due now end by itself; time stands still."""
        results = {}
        while True:
            for result in self.checks.tick(self.now):
                results[result.name] = result
            try:
                os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
            except ChildProcessError:
                return results

    def wait_for_output(self) -> None:
        """Wait until a check has said something, which it does once it runs."""
        assert select.select(self.checks.filenos(), [], [], 10)[0]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.checks.stop()


@pytest.mark.parametrize(
    ("script", "status", "text"),
    [
        ("echo fine", Status.OK, "fine"),
        ("echo filling; exit 1", Status.WARNING, "filling"),
        ("echo full; exit 2", Status.CRITICAL, "full"),
        ("echo hm; exit 3", Status.UNKNOWN, "hm"),
        (
            "nosuchcommand",
            Status.CRITICAL,
            "check ended with exit code 127: a command was not found",
        ),
        ("kill -9 $$", Status.CRITICAL, "check was killed by SIGKILL"),
        ("echo fine >&2", Status.OK, "no output"),
    ],
)
def test_a_check_says_how_it_stands(bench: Bench, script: str, status: Status, text: str) -> None:
    bench.put("disk", script)
    result = bench.settle()["disk"]
    assert (result.status, result.text) == (status, text)


def test_a_check_runs_in_a_clean_environment(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "x")
    bench.put("env", 'echo "$VMHB_CHECK $LC_ALL $PWD [$SECRET] $(cat)"')
    assert bench.settle()["env"].text == "env C / []"


def test_endless_output_does_not_grow_the_agent(bench: Bench) -> None:
    bench.put("loud", "echo first; head -c 3000000 /dev/zero")
    bench.checks.tick(0.0)
    while bench.checks.filenos():
        bench.wait_for_output()
        results = bench.checks.tick(0.0)
    results += bench.settle().values()
    assert [result.text for result in results] == ["first"]


@pytest.mark.parametrize(
    "break_it",
    [
        lambda path: path.chmod(0o644),
        lambda path: path.write_text("#!/nonexistent/interpreter\n"),
        lambda path: (path.unlink(), path.symlink_to("/nonexistent/check")),
    ],
    ids=["not executable", "no interpreter", "dangling link"],
)
def test_a_check_that_cannot_run_is_critical(bench: Bench, break_it: object) -> None:
    path = bench.put("disk", "exit 0")
    assert callable(break_it)
    break_it(path)
    result = bench.settle()["disk"]
    assert result.status is Status.CRITICAL
    assert result.text.startswith("cannot be run: ")


def test_a_hung_check_is_critical_and_killed_with_all_it_started(bench: Bench) -> None:
    bench.put("hung", "sleep 600 & echo $!; exec sleep 600")
    assert bench.checks.tick(0.0) == []
    bench.wait_for_output()
    assert bench.checks.tick(9.9) == []
    assert bench.checks.deadline == 10.0
    (pipe,) = bench.checks.filenos()
    (result,) = bench.checks.tick(10.0)
    assert (result.status, result.text) == (Status.CRITICAL, "timed out after 10 s")
    # Both sleeps held the pipe open: it ends only when both are gone.
    hang_up = select.poll()
    hang_up.register(pipe, select.POLLHUP)
    assert hang_up.poll(10000)


def test_a_hung_check_does_not_run_twice_and_leaves_room_for_others(bench: Bench) -> None:
    for name in "ab":
        bench.put(name, "exec sleep 600")
    bench.put("c", "echo fine")
    assert bench.checks.tick(0.0) == []
    assert len(bench.checks.filenos()) == 2
    killed = {result.name for result in bench.checks.tick(10.0)}
    assert killed == {"a", "b"}
    os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
    bench.now = 10.0
    assert bench.settle()["c"].status is Status.OK


def test_a_check_is_repeated_at_its_interval(bench: Bench) -> None:
    bench.schedules["disk"] = Schedule(interval=60.0)
    count = bench.directory / ".count"
    bench.put("disk", f"echo x >>{count}; wc -l <{count}")
    texts = []
    for bench.now in (0.0, 59.9, 60.0, 119.0, 120.0):
        texts += [result.text for result in bench.settle().values()]
    assert texts == ["1", "2", "3"]


def test_bad_news_needs_its_attempts_and_good_news_does_not(bench: Bench) -> None:
    bench.schedules["app"] = Schedule(interval=30.0, attempts=3)
    story = []
    for run, code in enumerate([0, 2, 2, 0, 2, 1, 2, 2, 0]):
        bench.put("app", f"exit {code}")
        bench.now = 30.0 * run
        result = bench.settle().get("app")
        story.append((result.status.value, result.since) if result else None)
    assert story == [
        ("ok", 0.0),
        None,
        None,
        ("ok", 0.0),
        None,
        None,
        ("critical", 180.0),
        ("critical", 180.0),
        ("ok", 240.0),
    ]


def test_checks_come_and_go_with_their_files(bench: Bench) -> None:
    bench.put("a", "exit 0")
    bench.put(".hidden", "exit 0")
    bench.put("b.sh~", "exit 0")
    (bench.directory / "subdirectory").mkdir()
    bench.settle()
    assert bench.checks.names == {"a"}
    bench.put("new", "exec sleep 600")
    bench.now = SCAN_PERIOD
    bench.checks.tick(bench.now)
    assert bench.checks.names == {"a", "new"}
    (bench.directory / "new").unlink()
    bench.now = 2 * SCAN_PERIOD
    bench.checks.tick(bench.now)
    assert bench.checks.names == {"a"}
    assert bench.checks.filenos() == []


def test_a_file_that_vanished_is_no_failed_check(bench: Bench) -> None:
    bench.put("a", "exit 0")
    bench.settle()
    (bench.directory / "a").unlink()
    bench.now = 30.0 - SCAN_PERIOD / 2
    bench.checks.tick(bench.now - 1)
    assert bench.settle() == {}
    assert bench.checks.names == set()


def test_a_check_can_be_a_command_that_never_says_worse_than_warning(bench: Bench) -> None:
    bench.put("db", "echo the file is not run")
    bench.own_checks["db"] = OwnCheck("echo $VMHB_CHECK: down; exit 2")
    bench.schedules["db"] = Schedule(severity=Status.WARNING)
    result = bench.settle()["db"]
    assert (result.status, result.text) == (Status.WARNING, "db: down")


def test_a_check_runs_as_the_user_it_names(bench: Bench) -> None:
    """Needs root, as the agent does for this."""
    bench.own_checks["who"] = OwnCheck("echo $(id -un) $(id -Gn) $HOME", "daemon")
    bench.own_checks["nobody-knows"] = OwnCheck("true", "no-such-user")
    results = bench.settle()
    assert results["who"].text == "daemon daemon /usr/sbin"
    assert results["nobody-knows"].text == "cannot be run: there is no user no-such-user"


def test_a_reserved_name_is_refused(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    bench.put("app.db", "exit 0")
    assert bench.settle() == {}
    said = capsys.readouterr().err
    assert "health check app.db refused: names that begin with os. or app. are" in said


def test_reload_changes_what_is_run_and_keeps_how_it_stood(bench: Bench) -> None:
    bench.put("a", "exit 2")
    bench.settle()
    bench.own_checks["b"] = OwnCheck("echo new")
    bench.schedules["a"] = Schedule(interval=5.0)
    bench.checks.reload(jobs.health_checks(bench.settings), 1)
    bench.now = 1.0
    assert bench.settle()["b"].text == "new"
    bench.now = 30.0
    assert bench.settle()["a"].since == 0.0
    bench.now = 35.0
    assert "a" in bench.settle()


def test_a_refused_name_is_said_once(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    bench.put("we ird", "exit 0")
    for bench.now in (0.0, SCAN_PERIOD, 2 * SCAN_PERIOD):
        bench.settle()
    assert capsys.readouterr().err.count("'we ird' refused") == 1


def test_no_directory_means_no_checks(tmp_path: Path) -> None:
    checks = Checks(jobs.health_checks(Settings(health_dir=str(tmp_path / "none"))), 1)
    assert checks.tick(0.0) == []
    assert checks.names == set()
    assert checks.deadline == SCAN_PERIOD


def test_no_check_starts_while_the_vm_boots(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.checks = Checks(jobs.health_checks(bench.settings), 1, not_before=30.0)
    bench.put("a", "echo fine")
    for bench.now in (5.0, 29.9):
        assert bench.settle() == {}
        assert bench.checks.names == {"a"}
    bench.now = 30.0
    assert bench.settle()["a"].text == "fine"


def test_stop_leaves_no_process(bench: Bench) -> None:
    bench.put("hung", "exec sleep 600")
    bench.checks.tick(0.0)
    bench.checks.stop()
    with contextlib.suppress(ChildProcessError):
        assert os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
