# SPDX-License-Identifier: Apache-2.0
"""The settings file: what it says is used, what is wrong is named with file, section and key."""

from __future__ import annotations

from pathlib import Path

import pytest

from vmhb_guest.checks import Schedule
from vmhb_guest.config import ConfigError, Settings, load


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
            "[check:db]\ntimeout = 2.5\nattempts = 1\n",
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
        schedules={"db": Schedule(interval=60.0, timeout=2.5, attempts=1)},
    )
    assert settings.schedule_of("db").timeout == 2.5
    assert settings.schedule_of("other").timeout == 10.0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "[agent]\nport_nam = x\n",
            "[agent] port_nam: unknown key; known: interval, port_name, port_path",
        ),
        ("[agent]\nport_name = a/b\n", "[agent] port_name = a/b: a port name has"),
        ("[agent]\nport_path = vport\n", "[agent] port_path = vport: an absolute path expected"),
        ("[agent]\ninterval = fast\n", "[agent] interval = fast: seconds from 0.1 to 60 expected"),
        ("[agent]\ninterval = nan\n", "[agent] interval = nan: seconds"),
        ("[checks]\nparallel = 0\n", "[checks] parallel = 0: a whole number from 1 to 64 expected"),
        ("[checks]\nattempts = 1.5\n", "[checks] attempts = 1.5: a whole number"),
        ("[check:db]\nparallel = 1\n", "[check:db] parallel: unknown key"),
        ("[check:a b]\n", "unknown section [check:a b]"),
        ("[DEFAULT]\nx = 1\n", "unknown section [DEFAULT]"),
        ("[agent]\n[agent]\n", "'agent' already exists"),
        ("interval = 1\n", "no section headers"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, text: str, words: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as error:
        load(path)
    assert path in str(error.value)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*/none: No such file"):
        load(str(tmp_path / "none"))
