# SPDX-License-Identifier: Apache-2.0
"""What Vitrage's client raises becomes a sentence that says what to do; long lists are read whole.

python-vitrageclient is not installed here: tests/controller has the real one.
"""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from keystoneauth1 import exceptions
from keystoneauth1.loading import Opt

from vitrage_notifier import vitrage_api
from vitrage_notifier.vitrage_api import (
    NoPermissionError,
    NotAvailableError,
    Vitrage,
    VitrageError,
)


class ClientError(Exception):
    """As vitrageclient.exceptions.ClientException."""

    def __init__(self, code: int) -> None:
        super().__init__(f"Unknown Error (HTTP {code})")
        self.code = code


class FakeClient:
    """Lists so many alarms, or fails."""

    def __init__(self, count: int = 0, problem: Exception | None = None) -> None:
        self.alarm = self
        self._ids = [f"{number:05}" for number in range(count)]
        self._problem = problem
        self.calls = 0

    def list(
        self, vitrage_id: str, all_tenants: bool, limit: int, marker: str | None
    ) -> list[dict[str, Any]]:
        print("get msg failed")  # noqa: T201 - as the client does with an answer that is no JSON
        self.calls += 1
        if self._problem is not None:
            raise self._problem
        assert (vitrage_id, all_tenants) == ("all", True)
        begin = self._ids.index(marker) + 1 if marker else 0
        return [{"vitrage_id": each} for each in self._ids[begin : begin + limit]]


@pytest.fixture(autouse=True)
def _client_library(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("vitrageclient.exceptions")
    vars(module).update(vars(SimpleNamespace(ClientException=ClientError)))
    monkeypatch.setitem(sys.modules, "vitrageclient", ModuleType("vitrageclient"))
    monkeypatch.setitem(sys.modules, "vitrageclient.exceptions", module)


@pytest.mark.parametrize(("count", "calls"), [(0, 1), (9, 1), (10, 2), (25, 3)])
def test_a_long_list_is_read_page_by_page(
    count: int, calls: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(vitrage_api, "PAGE", 10)
    client = FakeClient(count)
    rows = Vitrage(client).alarms()
    assert [row["vitrage_id"] for row in rows] == client._ids
    assert client.calls == calls
    assert capsys.readouterr().out == "", "the client's own words"


@pytest.mark.parametrize(
    ("problem", "kind", "text"),
    [
        (ClientError(403), NoPermissionError, "the role that Vitrage's policy asks for"),
        (ClientError(503), NotAvailableError, "does vitrage-graph run"),
        (ClientError(404), VitrageError, "Vitrage refuses"),
        (exceptions.Unauthorized("no such user"), NoPermissionError, "Keystone refuses the user"),
        (exceptions.ConnectFailure("refused"), VitrageError, "Vitrage is not reached"),
        (
            OSError("invalid path: /nonexist"),
            VitrageError,
            "invalid path: /nonexist; check OS_CACERT",
        ),
        (exceptions.EndpointNotFound("rca"), VitrageError, "Vitrage is not reached"),
        (exceptions.NoMatchingPlugin("magic"), VitrageError, "OS_AUTH_TYPE"),
    ],
)
def test_each_failure_says_what_to_do(
    problem: Exception, kind: type[VitrageError], text: str
) -> None:
    with pytest.raises(kind, match=text):
        Vitrage(FakeClient(problem=problem)).alarms()


@pytest.mark.parametrize(
    ("auth_type", "variable"),
    [("password", "OS_PROJECT_ID missing"), ("vitrage-noauth", "VITRAGE_PROJECT_ID missing")],
)
def test_what_is_missing_is_named_as_it_has_to_be_set(
    monkeypatch: pytest.MonkeyPatch, auth_type: str, variable: str
) -> None:
    monkeypatch.setenv("OS_AUTH_TYPE", auth_type)
    missing = exceptions.MissingRequiredOptions([Opt("project-id")])
    with pytest.raises(VitrageError, match=f"^{variable}"):
        Vitrage(FakeClient(problem=missing)).alarms()
