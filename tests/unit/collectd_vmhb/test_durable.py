# SPDX-License-Identifier: Apache-2.0
"""A file is replaced whole, and nothing but that file is written to."""

from __future__ import annotations

from pathlib import Path

from collectd_vmhb import durable


def test_a_link_in_the_way_leads_nowhere_else(tmp_path: Path) -> None:
    """The directory is another user's: root must not write where that user points to."""
    elsewhere = tmp_path / "passwd"
    elsewhere.write_bytes(b"root")
    directory = tmp_path / "state"
    directory.mkdir()
    path = directory / "policies.json"
    (directory / "policies.json.new").symlink_to(elsewhere)
    durable.replace(path, b"policies")
    assert elsewhere.read_bytes() == b"root"
    assert path.read_bytes() == b"policies"
    assert not path.is_symlink()


def test_what_a_power_cut_left_half_written_is_no_obstacle(tmp_path: Path) -> None:
    path = tmp_path / "engine.json"
    (tmp_path / "engine.json.new").write_bytes(b"much more than is written now")
    durable.replace(path, b"whole")
    assert path.read_bytes() == b"whole"
    assert list(tmp_path.iterdir()) == [path]
