# SPDX-License-Identifier: Apache-2.0
"""Perfdata as plugins write it, and as no plugin should."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collectd_vmhb.perfdata import LABEL_MAX, Figures, parse
from collectd_vmhb.protocol.messages import PERFDATA_MAX


@pytest.mark.parametrize(
    ("text", "figures"),
    [
        ("", []),
        ("time=0.021s", [("time", 0.021)]),
        ("/=2643MB;5948;5958;0;5968", [("/", 2643.0)]),
        ("rta=0.5ms;100:;@~:500;0 pl=0%;20;60;;", [("rta", 0.5), ("pl", 0.0)]),
        ("'a label'=1 'it''s'=-2.5c", [("a label", 1.0), ("it's", -2.5)]),
        ("  x=.5   y=1e-3  ", [("x", 0.5), ("y", 0.001)]),
        ("x=U y=3", [("y", 3.0)]),
    ],
)
def test_figures_are_read(text: str, figures: list[tuple[str, float]]) -> None:
    assert parse(text) == figures


@pytest.mark.parametrize(
    "text",
    ["x", "x=", "x=a", "=1", "x=1,5", "x=nan", "x=inf", "x=1 and more", "'x=1", "x=1;2;3;4;5;6"],
)
def test_of_what_is_no_perfdata_nothing_is_read(text: str) -> None:
    assert parse(text) == []
    assert parse("fine=1 " + text) == []


def test_a_number_that_is_too_large_is_none() -> None:
    assert parse("x=1e999 y=2") == [("y", 2.0)]


def test_names_say_check_and_label_and_are_fit_for_a_file() -> None:
    figures = Figures(16)
    figures.take("disk.root", "/srv/a.b=1 'two words'=2 /=3")
    assert figures.current() == {
        "perf.disk.root._srv_a_b": 1.0,
        "perf.disk.root.two_words": 2.0,
        "perf.disk.root._": 3.0,
    }


def test_a_check_replaces_its_own_figures_and_no_others() -> None:
    figures = Figures(16)
    figures.take("a", "x=1 y=2")
    figures.take("a.x", "z=3")
    figures.take("a", "x=4")
    assert figures.current() == {"perf.a.x": 4.0, "perf.a.x.z": 3.0}
    figures.take("a", "no perfdata")
    assert figures.current() == {"perf.a.x.z": 3.0}
    figures.clear()
    assert figures.current() == {}


def test_names_are_first_come_first_served_for_as_long_as_the_vm_runs() -> None:
    figures = Figures(2)
    figures.take("a", "x=1 y=2")
    assert not figures.over
    figures.take("a", "z=3 y=4")
    assert figures.over
    assert figures.current() == {"perf.a.y": 4.0}
    figures.take("a", "x=5 z=6")
    assert figures.current() == {"perf.a.x": 5.0}


@given(st.lists(st.tuples(st.sampled_from("abc"), st.text(max_size=PERFDATA_MAX)), max_size=10))
def test_no_guest_makes_more_names_or_other_ones(said: list[tuple[str, str]]) -> None:
    figures = Figures(4)
    names: set[str] = set()
    for check, text in said:
        figures.take(check, text)
        for name, value in figures.current().items():
            assert re.fullmatch(rf"perf\.[abc]\.[A-Za-z0-9_-]{{1,{LABEL_MAX}}}", name)
            assert math.isfinite(value)
        names |= figures.current().keys()
    assert len(names) <= 4


@given(st.lists(st.tuples(st.text("xyz'= ;", min_size=1, max_size=5), st.floats(-1e9, 1e9))))
def test_what_a_plugin_quotes_is_read_back(figures: list[tuple[str, float]]) -> None:
    kept = [(label.replace("=", "-"), value) for label, value in figures]
    text = " ".join("'{}'={!r}s".format(label.replace("'", "''"), n) for label, n in kept)
    assert parse(text) == kept
