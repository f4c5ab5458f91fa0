# SPDX-License-Identifier: Apache-2.0
"""guest/README.md says what the agent does: its settings are the defaults, its checks exist."""

from __future__ import annotations

import re
from pathlib import Path

from vmhb_guest import config
from vmhb_guest.audits import DEFAULTS

README = (Path(__file__).parents[3] / "guest" / "README.md").read_text("utf-8")


def settings_shown() -> str:
    section = README.split("\n## Settings\n")[1].split("\n## ")[0]
    return "\n".join(line[4:] for line in section.splitlines() if line.startswith("    "))


def test_the_settings_shown_are_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "agent.conf"
    path.write_text(settings_shown())
    shown = config.load(str(path))
    assert shown._replace(schedules={}) == config.Settings()


def test_every_key_is_shown() -> None:
    shown = set(re.findall(r"^(\w+) =", settings_shown(), re.MULTILINE))
    keys = {*config._AGENT, *config._CHECKS, *config._AUDITS} - {"severity", "port_path"}
    assert shown == keys
    assert "`port_path`" in README


def test_every_audit_is_described_with_its_limit() -> None:
    described = dict(re.findall(r"^\| `os\.(\w+)` \| (.*) \|$", README, re.MULTILINE))
    assert set(described) == set(DEFAULTS)
    for kind, text in described.items():
        assert kind == "root" or f"{DEFAULTS[kind].critical:g} " in text
