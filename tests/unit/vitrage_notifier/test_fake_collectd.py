# SPDX-License-Identifier: Apache-2.0
"""The fake collectd has what the stub promises, and bites where the daemon bites."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes import collectd

STUB = Path(__file__).parents[3] / "stubs" / "collectd.pyi"


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    collectd.reset()
    yield
    collectd.reset()


def functions_of(body: list[ast.stmt], prefix: str = "") -> Iterator[tuple[str, list[str]]]:
    for node in body:
        if isinstance(node, ast.ClassDef):
            yield from functions_of(node.body, f"{node.name}.")
        elif isinstance(node, ast.FunctionDef) and not node.decorator_list:
            yield prefix + node.name, [each.arg for each in node.args.args]


STUB_TREE = ast.parse(STUB.read_text()).body


@pytest.mark.parametrize(("name", "parameters"), list(functions_of(STUB_TREE)))
def test_signatures_are_those_of_the_stub(name: str, parameters: list[str]) -> None:
    found: object = collectd
    for part in name.split("."):
        found = getattr(found, part)
    assert callable(found)
    assert list(inspect.signature(found).parameters) == parameters


def test_constants_are_those_of_the_stub() -> None:
    lines = STUB.read_text().splitlines()
    promised = {
        line.split(":")[0]: int(line.split("#")[1])
        for line in lines
        if line.startswith(("NOTIF_", "LOG_", "DS_TYPE_"))
    }
    assert len(promised) == 12
    assert {name: getattr(collectd, name) for name in promised} == promised


def heard() -> list[collectd.Notification]:
    got: list[collectd.Notification] = []
    collectd.register_notification(got.append, name="listener")
    return got


def test_a_field_is_cut_at_127_bytes_and_the_message_at_255() -> None:
    got = heard()
    collectd.Notification(type="gauge", type_instance="x" * 300, message="y" * 300).dispatch()
    assert (len(got[0].type_instance), len(got[0].message)) == (127, 255)


def test_a_cut_through_a_character_arrives_as_bytes() -> None:
    got = heard()
    collectd.Notification(type="gauge", type_instance="x" * 126 + "é").dispatch()
    arrived: object = got[0].type_instance
    assert arrived == b"x" * 126 + b"\xc3"


def test_a_cut_between_characters_arrives_as_text() -> None:
    got = heard()
    collectd.Notification(type="gauge", type_instance="x" * 125 + "éé").dispatch()
    assert got[0].type_instance == "x" * 125 + "é"


def test_nul_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="null"):
        collectd.Notification(type="gauge", message="a\0b")
    with pytest.raises(TypeError, match="null"):
        collectd.error("a\0b")


def test_a_type_that_types_db_lacks_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="heartbeats not found"):
        collectd.Values(type="heartbeats")


def test_a_notification_that_nobody_hears_is_a_runtime_error() -> None:
    with pytest.raises(RuntimeError, match="read the logs"):
        collectd.Notification(type="gauge").dispatch()


def test_defaults_are_filled_in_on_dispatch() -> None:
    got = heard()
    collectd.Notification(type="gauge").dispatch(message="hello", severity=collectd.NOTIF_OKAY)
    assert (got[0].host, got[0].plugin, got[0].message) == ("compute-1", "python", "hello")
    assert got[0].time > 0


def test_meta_arrives_in_the_types_that_collectd_knows() -> None:
    got = heard()
    meta: dict[str, collectd.Scalar] = {"text": "é" * 900, "n": 3, "yes": True, "half": 0.5}
    collectd.Notification(type="gauge", meta=meta).dispatch()
    assert got[0].meta == meta
    assert isinstance(got[0].meta["n"], collectd.Signed)


def test_what_a_listener_raises_is_logged_and_kept_from_the_sender() -> None:
    def broken(_: object) -> None:
        raise ValueError("no")

    collectd.register_notification(broken, name="broken")
    collectd.Notification(type="gauge").dispatch()
    assert "ValueError" in collectd.daemon.lines(collectd.LOG_ERR)[0]


def test_a_second_listener_of_one_name_takes_over_a_second_reader_does_not() -> None:
    calls: list[str] = []
    collectd.register_notification(lambda n: calls.append("first"), name="x")
    collectd.register_notification(lambda n: calls.append("second"), name="x")
    collectd.register_read(lambda: calls.append("first read"), name="x")
    collectd.register_read(lambda: calls.append("second read"), name="x")
    collectd.Notification(type="gauge").dispatch()
    assert collectd.daemon.read()
    assert calls == ["second", "first read"]


def test_values_outside_a_read_callback_without_interval_are_complained_about() -> None:
    collectd.Values(type="gauge", values=[1]).dispatch()
    assert "plugin_get_interval" in collectd.daemon.lines(collectd.LOG_ERR)[0]
    collectd.reset()
    collectd.register_read(collectd.Values(type="gauge", values=[1]).dispatch, interval=3.0)
    collectd.daemon.read()
    assert collectd.daemon.values[0].interval == 3.0
    assert collectd.daemon.log == []


def test_init_and_shutdown_run_last_registered_first() -> None:
    calls: list[str] = []
    for name in ("a", "b"):
        collectd.register_init(lambda name: calls.append(f"init {name}"), data=name, name=name)
        collectd.register_shutdown(lambda name: calls.append(f"stop {name}"), data=name, name=name)
    collectd.daemon.init()
    collectd.daemon.shutdown()
    assert calls == ["init b", "init a", "stop b", "stop a"]
