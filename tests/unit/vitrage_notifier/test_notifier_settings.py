# SPDX-License-Identifier: Apache-2.0
"""The stanza: what may be written, and what an operator is told when it is wrong."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.fakes.collectd import Config
from vitrage_notifier.settings import Settings, Value, read_settings, with_url

URL = "rabbit://vmhb:s3cret@10.0.0.1:5672/"


def block(**keys: Value) -> Config:
    return Config("Module", ["vitrage_notifier"], [Config(k, [v]) for k, v in keys.items()])


def test_the_url_is_all_that_is_needed() -> None:
    settings, errors = read_settings(block(TransportUrl=URL))
    assert errors == []
    assert settings == Settings(transport_url=URL)
    assert settings.state_dir == Path("/var/lib/vmhb")


def test_every_key_is_heard_whatever_its_case() -> None:
    settings, errors = read_settings(
        block(
            transporturl=URL,
            TOPIC="t",
            StateDir="/srv",
            ResendInterval=5,
            RepeatOkFor=7,
            SendTimeout=2,
        )
    )
    assert errors == []
    assert settings == Settings(
        transport_url=URL,
        topic="t",
        state_dir=Path("/srv"),
        resend_interval=5.0,
        repeat_ok_for=7.0,
        send_timeout=2.0,
    )


@pytest.mark.parametrize(
    ("keys", "complaint"),
    [
        ({}, "TransportUrlFile: is missing"),
        ({"TransportUrlFile": "/etc/vmhb/url"}, "TransportUrlFile: is given besides"),
        ({"TransportUrl": "rabbit:///"}, "TransportUrl: names no host"),
        ({"TransportUrl": "rabbit://vmhb:s3cret@/"}, "TransportUrl: names no host"),
        ({"TransportUrl": "rabbit://u:p@10.0.0.1,u:p@:5672/"}, "TransportUrl: names no host"),
        ({"TransportUrl": "rabbit://u:p @10.0.0.1/"}, "TransportUrl: is no URL"),
        ({"TransportUrl": "10.0.0.1"}, "TransportUrl: is no URL"),
        ({"TransportUrl": ""}, "TransportUrl: takes a text"),
        ({"TransportUrl": 5}, "TransportUrl: takes a text"),
        ({"ResendInterval": "60"}, "ResendInterval: takes seconds from 1 to 120"),
        ({"ResendInterval": 0}, "ResendInterval: takes seconds from 1 to 120"),
        ({"SendTimeout": True}, "SendTimeout: takes seconds from 1 to 300"),
        ({"SendTimeout": float("nan")}, "SendTimeout: takes seconds"),
        ({"StateDir": "var"}, "StateDir: takes an absolute path"),
        ({"ResendIntervall": 60}, "ResendIntervall: is not known; known are RepeatOkFor,"),
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
        "TransportUrlFile",
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


@pytest.mark.parametrize(
    "url",
    [
        "rabbit://user:s3cret#1@10.0.0.1/",
        "rabbit://user:s3cr/et@10.0.0.1/",
        "rabbit://user:s3cret?@10.0.0.1/",
        "rabbit://user:s3c,ret@10.0.0.1/",
        "rabbit://user:12/s3cret@10.0.0.1/",
        "rabbit://user:p@10.0.0.1,user:s3cret#@10.0.0.2/",
        "rabbit://user:[s3cret#@10.0.0.1/",
        "rabbit://user:s3cret@10.0.0.1:amqp/",
    ],
)
def test_a_password_with_special_characters_is_refused_without_showing_it(url: str) -> None:
    settings, (error,) = read_settings(block(TransportUrl=url))
    assert settings is None
    assert "write # ? @ , as %23 %3F %40 %2C, and have no /" in error
    assert not [part for part in ("s3c", "ret", "user") if part in error]


@pytest.mark.parametrize(
    "url",
    [
        "rabbit://vmhb:s%23cret@broker-1.example_org:5672,vmhb:p@ss@[fe80::1]:5672/vhost?a=b",
        "rabbit://vmhb:p@[::1]/",
        "rabbit://vmhb:p@fd00::1/",
        "rabbit://10.0.0.1",
    ],
)
def test_urls_of_all_shapes_are_taken(url: str) -> None:
    settings, errors = read_settings(block(TransportUrl=url))
    assert errors == []
    assert settings == Settings(transport_url=url)


def test_of_two_passwords_that_begin_alike_nothing_is_shown() -> None:
    settings = Settings("rabbit://vmhb:first@10.0.0.1,vmhb:first-and-more@10.0.0.2/")
    assert settings.redact("login first-and-more refused") == "login *** refused"


@pytest.fixture(name="url_file")
def _url_file(tmp_path: Path) -> Path:
    path = tmp_path / "transport-url"
    path.touch(0o600)
    path.write_text(URL + "\n")
    return path


def test_the_url_comes_from_a_file_for_root_alone(url_file: Path) -> None:
    assert with_url(Settings(transport_url_file=url_file)).transport_url == URL


def test_a_file_that_others_can_read_is_refused_with_what_to_do(url_file: Path) -> None:
    url_file.chmod(0o640)
    with pytest.raises(ValueError, match=r"^TransportUrlFile: .* mode 0640.*chmod 0600") as refused:
        with_url(Settings(transport_url_file=url_file))
    assert "s3cret" not in str(refused.value)


def test_a_file_of_somebody_else_is_refused(url_file: Path) -> None:
    if os.geteuid():
        pytest.fail("run the tests as root: a file has to change its owner")
    os.chown(url_file, 12345, 0)
    with pytest.raises(ValueError, match="owner 12345"):
        with_url(Settings(transport_url_file=url_file))


@pytest.mark.parametrize("text", ["", "s3cret", "rabbit://vmhb:s3cret@/", "\n\n" + URL + "\nmore"])
def test_a_file_that_holds_no_url_is_refused_without_showing_it(url_file: Path, text: str) -> None:
    url_file.write_text(text)
    with pytest.raises(ValueError, match=r"^TransportUrlFile: what .* holds") as refused:
        with_url(Settings(transport_url_file=url_file))
    assert "s3cret" not in str(refused.value)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^TransportUrlFile: cannot be read: .*No such file"):
        with_url(Settings(transport_url_file=tmp_path / "none"))


def test_a_file_that_is_no_text_is_refused(url_file: Path) -> None:
    url_file.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"^TransportUrlFile: cannot be read"):
        with_url(Settings(transport_url_file=url_file))


@pytest.mark.parametrize(
    ("query", "trusts"),
    [("", False), ("?ssl=true", True), ("?ssl=True&x=1", True), ("?ssl=1&ssl_ca_file=/ca", False)],
)
def test_tls_that_checks_nothing_is_found(query: str, trusts: bool) -> None:
    assert Settings(transport_url=URL + query).trusts_any_broker is trusts


@pytest.mark.parametrize("login", ["vmhb:s%2Fcret", "vm%2fhb:secret"])
def test_a_slash_with_which_the_library_cannot_log_in_is_refused(login: str) -> None:
    url = f"rabbit://vmhb:fine@10.0.0.1:5672,{login}@10.0.0.2:5672/"
    settings, (error,) = read_settings(block(TransportUrl=url))
    assert settings is None
    assert "another password" in error
    assert "cret" not in error
