# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collectd_vmhb.policy_file import ENTRIES_MAX, GONE_LOOKS, SIZE_MAX, PolicyFile, parse, render
from collectd_vmhb.sources import NO_POLICIES, PoliciesRead

WEB, DB = (f"6ba7b810-9dad-41d1-80b4-00000000000{number}" for number in (1, 2))
ON = {"vmhb:enabled": "true"}


def text(entries: Any, **more: Any) -> bytes:
    return json.dumps({"format": 1, "extra_specs": entries, **more}).encode()


def test_what_is_written_is_read_and_equal_policies_are_equal_files() -> None:
    policies = {WEB: {"vmhb:interval": "2", **ON}, DB: {}}
    assert parse(render(policies)) == policies
    assert render(dict(reversed(policies.items()))) == render(policies)


def test_a_person_may_write_it_and_add_remarks() -> None:
    assert parse(text({WEB: ON}, remark="for the audit", by="me")) == {WEB: ON}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"format": 1,\n "extra_specs": {\n  nonsense}}', "line 3: Expecting property name"),
        (b"", "line 1: Expecting value"),
        (b"\xff\xfe", "it is not UTF-8"),
        (b"[" * 100000, "nested too deeply"),
        (b"[]", 'not an object with "format": 1'),
        (b'{"format": 2, "extra_specs": {}}', 'not an object with "format": 1'),
        (b'{"format": 1}', '"extra_specs" is not an object'),
        (text({"web": ON}), "web is no UUID in lower case"),
        (text({WEB.upper(): ON}), "is no UUID in lower case"),
        (text({WEB: ["vmhb:enabled"]}), f"{WEB}: an object of at most 64 extra specs"),
        (text({WEB: {str(n): "" for n in range(65)}}), f"{WEB}: an object of at most 64"),
        (text({WEB: {"vmhb:enabled": True}}), f"{WEB}: vmhb:enabled: a text in quotes"),
        (text({WEB: {"vmhb:interval": 2}}), f"{WEB}: vmhb:interval: a text in quotes"),
        (text({WEB: {"vmhb:note": "x" * 256}}), f"{WEB}: vmhb:note: a text in quotes of at most"),
        (text({"x\x1b[1m": ON}), r"x?[1m is no UUID"),
        (
            f'{{"format": 1, "extra_specs": {{"{WEB}": {{}}, "{WEB}": {{}}}}}}'.encode(),
            f"{WEB} is given twice",
        ),
        (
            text({f"{n:08x}-9dad-41d1-80b4-000000000000": {} for n in range(ENTRIES_MAX + 1)}),
            "more",
        ),
        (b" " * (SIZE_MAX + 1), "larger than 4 MiB"),
    ],
)
def test_a_mistake_is_told_by_line_uuid_and_key(content: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=r"\w") as caught:
        parse(content)
    assert words in str(caught.value)
    assert str(caught.value).isprintable()


@given(st.binary() | st.recursive(st.none() | st.text(), st.lists).map(json.dumps).map(str.encode))
def test_garbage_raises_value_error_and_nothing_else(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse(content)


def write(file: PolicyFile, content: bytes, at: float = 1e9) -> None:
    file.path.write_bytes(content)
    os.utime(file.path, (at, at))


@pytest.fixture(name="file")
def _file(tmp_path: Path) -> PolicyFile:
    return PolicyFile(tmp_path)


def test_without_a_file_there_are_no_policies(file: PolicyFile) -> None:
    assert file.first() == NO_POLICIES
    assert file.look() is None


def test_a_change_is_told_once_with_its_date(file: PolicyFile) -> None:
    write(file, render({WEB: ON}))
    assert file.first() == PoliciesRead({WEB: ON}, 1e9)
    assert file.look() is None
    write(file, render({DB: ON}), 1e9 + 1)
    assert file.look() == PoliciesRead({DB: ON}, 1e9 + 1)
    os.utime(file.path, (2e9, 2e9))
    assert file.look() == PoliciesRead({DB: ON}, 2e9), "confirmed, and as good as new"


def test_a_broken_file_leaves_the_last_good_one_in_force_and_is_told_once(
    file: PolicyFile,
) -> None:
    write(file, render({WEB: ON}))
    file.first()
    write(file, b"{\n{", 1e9 + 1)
    broken = file.look()
    assert broken is not None
    assert (broken.policies, broken.written) == ({WEB: ON}, 1e9 + 1)
    assert broken.error == (
        f"the policy file {file.path} is refused: line 2: Expecting property name enclosed in "
        f"double quotes; what it said before stays in force"
    )
    assert file.look() is None
    write(file, render({WEB: ON}), 1e9 + 2)
    assert file.look() == PoliciesRead({WEB: ON}, 1e9 + 2)


def test_a_broken_file_switches_no_vm_off_after_a_restart_either(file: PolicyFile) -> None:
    write(file, render({WEB: ON}))
    file.first()
    write(file, b"broken", 1e9 + 1)
    after = PolicyFile(file.path.parent).first()
    assert after.policies == {WEB: ON}
    assert after.error is not None


def test_the_copy_of_the_last_good_file_is_for_root_alone(file: PolicyFile) -> None:
    write(file, render({WEB: ON}))
    file.first()
    copy = file.path.with_name("policies.json.good")
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600


def test_who_takes_the_file_away_means_it(file: PolicyFile) -> None:
    write(file, render({WEB: ON}))
    file.first()
    file.path.unlink()
    assert [file.look() for _ in range(GONE_LOOKS - 1)] == [None] * (GONE_LOOKS - 1)
    assert file.look() == NO_POLICIES
    assert file.look() is None
    write(file, b"broken")
    assert PolicyFile(file.path.parent).first().policies == {}


def test_an_editor_that_moves_the_file_away_and_back_ends_nothing(file: PolicyFile) -> None:
    write(file, render({WEB: ON}))
    file.first()
    aside = file.path.with_name("policies.json~")
    for _ in range(2):
        file.path.rename(aside)
        assert [file.look() for _ in range(GONE_LOOKS - 1)] == [None] * (GONE_LOOKS - 1)
        aside.rename(file.path)
        assert file.look() == PoliciesRead({WEB: ON}, 1e9)


def test_a_file_that_was_taken_away_during_a_restart_is_gone_at_once(file: PolicyFile) -> None:
    write(file, render({WEB: ON}))
    file.first()
    file.path.unlink()
    assert PolicyFile(file.path.parent).first() == NO_POLICIES


def test_what_is_no_file_is_refused_and_nobody_waits_for_it(file: PolicyFile) -> None:
    os.mkfifo(file.path)
    error = file.first().error
    assert error is not None
    assert "it is no regular file" in error


def test_a_file_whose_reading_failed_is_tried_again(
    file: PolicyFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rights that are corrected leave its date as it was."""

    def refuse(path: object, flags: int) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    write(file, render({WEB: ON}))
    with monkeypatch.context() as rights:
        rights.setattr(os, "open", refuse)
        error = file.first().error
        assert error is not None
        assert "Permission denied" in error
        assert file.look() is None, "told once"
    assert file.look() == PoliciesRead({WEB: ON}, 1e9)


def test_a_file_that_may_not_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "policies.json").mkdir()
    error = PolicyFile(tmp_path).first().error
    assert error is not None
    assert "no regular file" in error or "Is a directory" in error
