# SPDX-License-Identifier: Apache-2.0
"""The command `vmhb-vitrage` tells a user's mistake in a line, and never by a traceback."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from vitrage_notifier.cli import main


@pytest.mark.parametrize(
    ("option", "value", "bounds"),
    [
        ("--repeat", "0", "from 1 to 600"),
        ("--repeat", "nan", "from 1 to 600"),
        ("--repeat", "often", "from 1 to 600"),
        ("--repeat-for", "inf", "from 0 to 86400"),
        ("--grace", "-5", "from 0 to 3600"),
    ],
)
def test_seconds_that_make_no_sense_are_refused(
    capsys: pytest.CaptureFixture[str], option: str, value: str, bounds: str
) -> None:
    with pytest.raises(SystemExit):
        main(["sweep", f"{option}={value}"])
    assert f"{option}: takes seconds {bounds}" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["sweep"], ["sweep", "--retire", "compute-1"], ["verify"]])
def test_without_oslo_messaging_it_says_what_to_install(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: list[str],
) -> None:
    monkeypatch.setitem(sys.modules, "vitrage_notifier.transport", None)
    url = tmp_path / "url"
    url.touch(mode=0o600)
    url.write_text("rabbit://vmhb:s3cret@127.0.0.1:1/")
    assert main([*command, "--transport-url-file", str(url)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "install python3-oslo.messaging, or collectd-vmhb[notifier] with pip" in line
