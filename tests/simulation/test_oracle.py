# SPDX-License-Identifier: Apache-2.0
"""Random stories of one VM, played on the whole engine, agree with the pages (oracle.py).

VMHB_SEED=TEXT repeats a run; without it each run has stories of its own.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import pytest

from collectd_vmhb.detector import Detector
from collectd_vmhb.engine import Engine
from collectd_vmhb.monitor import Monitor
from collectd_vmhb.reporter import Reporter
from tests.simulation import cloud
from tests.simulation.oracle import main, play_many

ROOT = Path(__file__).parents[2]
SEQUENCES = 20_000


#: What the stories tell, also if this test is killed in the middle of them.
LOG = ROOT / ".lab" / "oracle.log"


@pytest.mark.timeout(300)
def test_random_stories_are_told_as_the_pages_say(capfd: pytest.CaptureFixture[str]) -> None:
    seed = os.environ.get("VMHB_SEED") or str(int.from_bytes(os.urandom(4), "big"))
    command = [sys.executable, "-m", "tests.simulation.oracle", "--seed", seed]
    command += ["--sequences", str(SEQUENCES), "--processes", "2"]
    path = os.pathsep.join((str(ROOT), str(ROOT / "guest")))
    with capfd.disabled():
        sys.stdout.write(f"\n{SEQUENCES} sequences, VMHB_SEED={seed}, told in {LOG}\n")
    LOG.parent.mkdir(exist_ok=True)
    with LOG.open("w") as log:
        run = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": path},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            status = run.wait(280)
        except subprocess.TimeoutExpired:
            # With its workers, which would wait for ever.
            os.killpg(run.pid, signal.SIGKILL)
            status = run.wait()
    told = LOG.read_text()
    assert f"{SEQUENCES} played, 0 told otherwise" in told, told[-6000:]
    assert status == 0, told[-6000:]


def breaks(*_: object, **__: object) -> None:
    """Is what an engine does that is broken altogether."""
    raise ZeroDivisionError("broken")


def test_a_story_that_breaks_something_is_told_with_its_seed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with patch.object(Monitor, "rebooted", breaks):
        found = play_many("broken", 0, 30)
        broken = next(each for each in found if "an error of the engine" in each.wrong)
        assert main(["--one", broken.seed]) == 1
    told = capsys.readouterr().out
    assert "reboot at" in told
    assert f"--one {broken.seed}" in told
    assert main(["--one", broken.seed]) == 0


def test_time_that_stands_still_is_told() -> None:
    with patch.object(cloud, "TURNS_MAX", 5):
        (found,) = play_many("still", 0, 1)
    assert "time stands still" in found.wrong


def nothing(*_: object, **__: object) -> None:
    """Is what a broken engine does."""


@pytest.mark.parametrize(
    ("owner", "broken", "expected"),
    [
        (Monitor, "rebooted", "lost"),
        (Monitor, "pause", "it is paused"),
        (Monitor, "resume", "it is healthy"),
        (Monitor, "_on_exit", "lost"),
        (Detector, "miss", "it is lost"),
        (Reporter, "close", "nobody is to watch it"),
        (Engine, "_on_scanned", "it is healthy"),
    ],
)
def test_an_engine_that_forgets_something_is_found_out(
    owner: type, broken: str, expected: str
) -> None:
    with patch.object(owner, broken, nothing):
        found = play_many("broken", 0, 300)
    assert [each for each in found if expected in each.wrong], found[:3]


def test_what_a_story_tells_is_repeated_by_its_seed() -> None:
    with patch.object(Detector, "miss", nothing):
        first, again = (play_many("again", 0, 40) for _ in range(2))
    assert first == again != []
