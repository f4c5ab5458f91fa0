# SPDX-License-Identifier: Apache-2.0
"""The guest's codec: any cut of the stream gives the same lines, garbage gives WireError only."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmhb_guest import wire

LINES = st.lists(st.binary(max_size=40).map(lambda data: data.replace(b"\n", b"")), max_size=8)


@given(LINES, st.lists(st.integers(0, 400), max_size=8))
def test_any_cut_of_the_stream_gives_the_same_lines(lines: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(b"\n" + line + b"\n" for line in lines)
    edges = sorted({0, len(stream), *(min(cut, len(stream)) for cut in cuts)})
    decoder = wire.LineDecoder()
    received = []
    for start, end in zip(edges, edges[1:]):
        received += decoder.feed(stream[start:end])
    assert received == [line.strip() for line in lines if line.strip()]


@pytest.mark.parametrize(("size", "lines", "overlong"), [(wire.MAX_LINE, 2, 0), (50000, 1, 1)])
@pytest.mark.parametrize("chunk", [1000, 100000])
def test_a_line_beyond_the_bound_costs_only_itself(
    size: int, lines: int, overlong: int, chunk: int
) -> None:
    stream = b"x" * size + b"\nnext\n"
    decoder = wire.LineDecoder()
    received = []
    for start in range(0, len(stream), chunk):
        received += decoder.feed(stream[start : start + chunk])
    assert (len(received), received[-1], decoder.overlong) == (lines, b"next", overlong)


@given(st.binary(max_size=200))
def test_garbage_raises_wire_error_and_nothing_else(line: bytes) -> None:
    with contextlib.suppress(wire.WireError):
        wire.decode(line)


@pytest.mark.parametrize(
    "line",
    [
        b"[" * 10000,
        b'{"version":3,"msg_type":' + b"9" * 5000 + b"}",
        b'{"version":true,"msg_type":"x"}',
        b'{"version":3.0,"msg_type":"x"}',
        b'{"version":2,"msg_type":"x"}',
        b'{"msg_type":"x"}',
        b'{"version":3,"msg_type":null}',
        b"NaN",
    ],
)
def test_what_is_no_message_is_refused(line: bytes) -> None:
    with pytest.raises(wire.WireError):
        wire.decode(line)


def test_a_message_is_one_framed_line_of_ascii() -> None:
    line = wire.encode("exit", 7, {"log_msg": 'grün\n"\\'})
    assert line.startswith(b'\n{"version":3,"revision":1,"msg_type":"exit","sequence":7,')
    assert line.endswith(b"}\n")
    assert line.count(b"\n") == 2
    assert line.isascii()
    assert json.loads(line)["log_msg"] == 'grün\n"\\'
