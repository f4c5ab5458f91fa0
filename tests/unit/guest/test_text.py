# SPDX-License-Identifier: Apache-2.0
"""Text for messages and logs: printable, bounded, no character cut in half."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmhb_guest.text import clean


@pytest.mark.parametrize(
    ("text", "limit", "cleaned"),
    [
        ("disk full", 100, "disk full"),
        ("a\tb\x1b[31mc\x00", 100, "a b [31mc"),
        ("üüü", 5, "üü"),
        ("admin\u202egnp.exe", 100, "admin gnp.exe"),
        ("lone \ud800 surrogate", 100, "lone   surrogate"),
        ("one\ntwo\r\n", 100, "one two"),
    ],
)
def test_clean(text: str, limit: int, cleaned: str) -> None:
    assert clean(text, limit) == cleaned


@given(st.text(), st.integers(0, 50))
def test_it_is_always_printable_and_within_the_limit(text: str, limit: int) -> None:
    cleaned = clean(text, limit)
    assert cleaned.isprintable()
    assert len(cleaned.encode()) <= limit
