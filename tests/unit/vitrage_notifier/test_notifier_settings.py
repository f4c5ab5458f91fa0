# SPDX-License-Identifier: Apache-2.0
"""The stanza: what may be written, and what an operator is told when it is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fakes.collectd import Config
from vitrage_notifier.settings import Settings, Value, read_settings

URL = "rabbit://vmhb:s3cret@10.0.0.1:5672/"


def block(**keys: Value) -> Config:
    return Config("Module", ["vitrage_notifier"], [Config(k, [v]) for k, v in keys.items()])


def test_the_url_is_all_that_is_needed() -> None:
    settings, errors = read_settings(block(TransportUrl=URL))
    assert errors == []
    assert settings == Settings(URL, "vitrage_notifications", Path("/var/lib/vmhb"), 60.0, 10.0)


def test_every_key_is_heard_whatever_its_case() -> None:
    settings, errors = read_settings(
        block(transporturl=URL, TOPIC="t", StateDir="/srv", ResendInterval=5, SendTimeout=2)
    )
    assert errors == []
    assert settings == Settings(URL, "t", Path("/srv"), 5.0, 2.0)


@pytest.mark.parametrize(
    ("keys", "complaint"),
    [
        ({}, "TransportUrl: is missing"),
        ({"TransportUrl": "10.0.0.1"}, "TransportUrl: is no URL"),
        ({"TransportUrl": ""}, "TransportUrl: takes a text"),
        ({"TransportUrl": 5}, "TransportUrl: takes a text"),
        ({"ResendInterval": "60"}, "ResendInterval: takes seconds from 1 to 3600"),
        ({"ResendInterval": 0}, "ResendInterval: takes seconds from 1 to 3600"),
        ({"SendTimeout": True}, "SendTimeout: takes seconds from 1 to 300"),
        ({"SendTimeout": float("nan")}, "SendTimeout: takes seconds"),
        ({"StateDir": "var"}, "StateDir: takes an absolute path"),
        ({"ResendIntervall": 60}, "ResendIntervall: is not known; known are ResendInterval,"),
    ],
)
def test_every_error_names_its_key(keys: dict[str, Value], complaint: str) -> None:
    settings, errors = read_settings(block(**{"TransportUrl": URL, **keys} if keys else {}))
    assert settings is None
    assert [error for error in errors if error.startswith(complaint)] == errors


def test_all_errors_are_told_at_once() -> None:
    _, errors = read_settings(block(StateDir="x", SendTimeout=0, Nonsense=1))
    assert [error.split(":")[0] for error in errors] == [
        "StateDir",
        "SendTimeout",
        "Nonsense",
        "TransportUrl",
    ]


def test_a_key_twice_or_with_two_values_is_an_error() -> None:
    nodes = [
        Config("TransportUrl", [URL]),
        Config("transporturl", [URL]),
        Config("Topic", ["a", "b"]),
    ]
    _, errors = read_settings(Config("Module", ["vitrage_notifier"], nodes))
    assert errors == ["TransportUrl: is given twice", "Topic: takes one value"]


def test_no_password_is_ever_shown() -> None:
    settings = Settings("rabbit://vmhb:first@10.0.0.1:5672,vmhb:p%40ss@10.0.0.2:5672/")
    said = f"{settings!r} {settings.redact('login vmhb:p@ss refused')}"
    assert not [secret for secret in ("first", "p%40ss", "p@ss") if secret in said]
    assert "rabbit://vmhb:***@10.0.0.1:5672,vmhb:***@10.0.0.2:5672/" in said
