# SPDX-License-Identifier: Apache-2.0
"""The settings file: what it says is used, what is wrong is named with file, section and key."""

from __future__ import annotations

from pathlib import Path

import pytest

from vmhb_guest.audits import DEFAULTS, Limits
from vmhb_guest.checks import Schedule
from vmhb_guest.config import ConfigError, OwnCheck, Settings, load
from vmhb_guest.status import Status


def write(directory: Path, text: str) -> str:
    path = directory / "agent.conf"
    path.write_text(text)
    return str(path)


def test_an_empty_file_means_the_defaults(tmp_path: Path) -> None:
    assert load(write(tmp_path, "")) == Settings()


def test_everything_can_be_set(tmp_path: Path) -> None:
    settings = load(
        write(
            tmp_path,
            "[agent]\nport_name = cgcs.heartbeat\nport_path = /dev/vport1p1\ninterval = 0.5\n"
            "[checks]\nhealth_dir = /opt/100%\nparallel = 2\nboot_delay = 90\n"
            "interval = 60\nattempts = 3\n"
            "[check:db]\ntimeout = 2.5\nattempts = 1\nseverity = warning\n"
            "command = pg_isready -q || exit 2\nuser = postgres\n"
            "[audits]\ninterval = 5\nfsync = 0.5 3\nmemory = off\n",
        )
    )
    assert settings == Settings(
        port_name="cgcs.heartbeat",
        port_path="/dev/vport1p1",
        interval=0.5,
        health_dir="/opt/100%",
        parallel=2,
        boot_delay=90.0,
        schedule=Schedule(interval=60.0, timeout=10.0, attempts=3),
        schedules={"db": Schedule(60.0, 2.5, 1, Status.WARNING)},
        own_checks={"db": OwnCheck("pg_isready -q || exit 2", "postgres")},
        audits={
            **{name: limits for name, limits in DEFAULTS.items() if name != "memory"},
            "fsync": Limits(0.5, 3.0),
        },
        audit_schedule=Schedule(interval=5.0, timeout=5.0),
    )
    assert settings.schedule_of("db").timeout == 2.5
    assert settings.schedule_of("other").timeout == 10.0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "[agent]\nport_nam = x\n",
            ":2: [agent] port_nam: unknown key; known: interval, port_name, port_path, run_dir",
        ),
        ("[agent]\nport_name = a/b\n", "[agent] port_name = a/b: a port name has"),
        (
            "[agent]\nport_path = vport\n",
            "[agent] port_path = vport: an absolute path or a COM port expected",
        ),
        ("[agent]\ninterval = fast\n", "[agent] interval = fast: seconds from 0.1 to 60 expected"),
        ("[agent]\ninterval = nan\n", "[agent] interval = nan: seconds"),
        (
            "# a\n[checks]\n\nparallel = 0\n",
            ":4: [checks] parallel = 0: a whole number from 1 to 64 expected",
        ),
        ("[checks]\nattempts = 1.5\n", "[checks] attempts = 1.5: a whole number"),
        ("[check:db]\nparallel = 1\n", "[check:db] parallel: unknown key"),
        ("[check:a b]\n", "[check:a b]: a check's name has 1 to 48 of"),
        ("[check:os.timer]\n", "does not begin with os. or app."),
        ("[check:db]\nseverity = ok\n", "[check:db] severity = ok: warning or critical expected"),
        ("[check:db]\ncommand =\n", "[check:db] command = : one line expected"),
        ("[audits]\nenabled = maybe\n", "[audits] enabled = maybe: on or off expected"),
        ("[audits]\nroot = 1 2\n", "[audits] root = 1 2: on or off expected"),
        ("[audits]\nfsync = 5 1\n", "[audits] fsync = 5 1: off expected, or two numbers"),
        ("[audits]\nspace = 1 5\n", "from 0 to 100: warning > critical"),
        ("[audits]\nfsync = 1\n", "[audits] fsync = 1: off expected, or two numbers from 0 to 60"),
        (
            "[audits]\ninterval = 5\ntimeout = 6\n",
            ":1: [audits] timeout = 6: must not be above the interval, which is 5",
        ),
        ("[DEFAULT]\nx = 1\n", ":1: unknown section [DEFAULT]"),
        ("[check:a b]\n", ":1: [check:a b]: a check's name"),
        ("[agent]\n[agent]\n", ":2: agent stands in line 1 already"),
        ("[agent]\ninterval = 1\nInterval = 2\n", ":3: interval stands in line 2 already"),
        ("interval = 1\n", ":1: a [section] expected before interval = 1"),
        ("[agent]\ninterval 1\n", ":2: key = value expected, not interval 1"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, text: str, words: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as error:
        load(path)
    assert path in str(error.value)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_audits_can_be_switched_off(tmp_path: Path) -> None:
    assert load(write(tmp_path, "[audits]\nenabled = off\nfsync = 1 2\n")).audits == {}


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*/none: No such file"):
        load(str(tmp_path / "none"))
