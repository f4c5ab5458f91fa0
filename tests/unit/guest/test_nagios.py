# SPDX-License-Identifier: Apache-2.0
"""How the end of a check is read: nothing but exit code 0 is ok."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmhb_guest.nagios import PERFDATA_MAX, TEXT_MAX, interpret
from vmhb_guest.status import Status


@pytest.mark.parametrize(
    ("returncode", "output", "outcome"),
    [
        (0, b"fine\n", (Status.OK, "fine", "")),
        (1, b"filling | used=85%;80;90\n", (Status.WARNING, "filling", "used=85%;80;90")),
        (2, b"full\nsecond line\n", (Status.CRITICAL, "full", "")),
        (3, b"no idea", (Status.UNKNOWN, "no idea", "")),
        (0, b"", (Status.OK, "no output", "")),
        (2, b"\n\nlate\n", (Status.CRITICAL, "no output", "")),
        (0, b"\x1b[1mred\xff\r\n", (Status.OK, "[1mred\ufffd", "")),
        (4, b"", (Status.CRITICAL, "check ended with exit code 4: no plugin exit code", "")),
        (
            126,
            b"",
            (Status.CRITICAL, "check ended with exit code 126: a command was not executable", ""),
        ),
        (
            127,
            b"oops",
            (Status.CRITICAL, "check ended with exit code 127: a command was not found (oops)", ""),
        ),
        (-9, b"fine so far", (Status.CRITICAL, "check was killed by SIGKILL (fine so far)", "")),
        (-63, b"", (Status.CRITICAL, "check was killed by signal 63", "")),
    ],
)
def test_interpret(returncode: int, output: bytes, outcome: tuple[Status, str, str]) -> None:
    assert tuple(interpret(returncode, output)) == outcome


@given(st.integers(-64, 255), st.binary(max_size=3000))
def test_any_end_gives_bounded_printable_text(returncode: int, output: bytes) -> None:
    outcome = interpret(returncode, output)
    assert outcome.text.isprintable()
    assert outcome.perfdata.isprintable()
    assert 0 < len(outcome.text.encode()) <= TEXT_MAX
    assert len(outcome.perfdata.encode()) <= PERFDATA_MAX
    assert (outcome.status is Status.OK) == (returncode == 0)
