# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from collectd_vmhb.protocol.lines import LineSplitter, TooLong

lines = st.lists(st.binary(min_size=1, max_size=40).filter(lambda b: b"\n" not in b and b.strip()))


@given(lines, st.data())
def test_any_cut_of_the_stream_gives_the_same_lines(sent: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(b"\n" + line + b"\n" for line in sent)
    splitter, got = LineSplitter(64), []
    while stream:
        cut = data.draw(st.integers(1, len(stream)))
        got += splitter.feed(stream[:cut])
        stream = stream[cut:]
    assert got == sent


def test_a_line_that_never_ends_is_dropped_and_holds_no_memory() -> None:
    splitter = LineSplitter(100)
    dropped = sum(
        isinstance(line, TooLong) for _ in range(1000) for line in splitter.feed(b"x" * 90)
    )
    assert dropped == 1
    assert len(splitter._rest) <= 100
    assert splitter.feed(b"tail\nnext\n") == [b"next"]


def test_a_whole_line_above_the_limit_is_one_too_long_and_the_next_is_read() -> None:
    got = LineSplitter(10).feed(b"x" * 11 + b"\nok\n")
    assert isinstance(got[0], TooLong)
    assert got[1:] == [b"ok"]


def test_blanks_are_no_line() -> None:
    assert LineSplitter().feed(b"\n\n \t\n\r\n{}\n") == [b"{}"]


def test_half_a_line_of_an_old_connection_does_not_spoil_the_next() -> None:
    splitter = LineSplitter()
    splitter.feed(b'{"version"')
    splitter.reset()
    assert splitter.feed(b"{}\n") == [b"{}"]
