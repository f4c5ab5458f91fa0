# SPDX-License-Identifier: Apache-2.0
"""Templates: ours are brought up to date, all others left alone, and Vitrage's words are passed on.

What Vitrage makes of their content is tested with the real one, in tests/controller.
"""

from __future__ import annotations

from typing import Any, cast

import pytest
import yaml

from vitrage_notifier.alarm import _NAMES
from vitrage_notifier.rca_templates import DEFAULT, PATIENCE, TemplateError, Templates, run, shipped
from vitrage_notifier.vitrage_api import Vitrage


class FakeVitrage:
    """Templates as Vitrage's API shows them: a template is loaded when it is looked at again."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.content: dict[str, Any] = {}
        self.invalid = ""
        self.next_status = "ACTIVE"
        self.number = 0

    def templates(self) -> list[dict[str, Any]]:
        return list(self.rows)

    def template(self, uuid: str) -> Any:
        return self.content[uuid]

    def validate_template(self, text: str) -> dict[str, Any]:
        name = yaml.safe_load(text)["metadata"]["name"]
        wrong = name == self.invalid
        return {"status code": 4 if wrong else 0, "description": "Syntax", "message": "line 3"}

    def add_template(self, text: str) -> dict[str, Any]:
        content = yaml.load(text, Loader=yaml.BaseLoader)
        self.number += 1
        row = {
            "uuid": str(self.number),
            "name": content["metadata"]["name"],
            "status": self.next_status,
            "status details": "no such entity",
        }
        self.rows.append(row)
        self.content[row["uuid"]] = content
        return {**row, "status": "LOADING"}

    def delete_template(self, uuid: str) -> None:
        self.rows = [row for row in self.rows if row["uuid"] != uuid]


class Scene:
    def __init__(self) -> None:
        self.vitrage = FakeVitrage()
        self.said: list[str] = []
        self.now = 0.0

    def run(self, action: str, *names: str, workflow: str = "") -> list[str]:
        self.said.clear()
        run(cast(Vitrage, self.vitrage), action, names, workflow, self.said.append)
        return list(self.said)

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture(name="scene")
def _scene() -> Scene:
    return Scene()


def test_the_default_only_reports() -> None:
    for name in DEFAULT:
        assert "execute_mistral" not in shipped()[name].text


def test_every_name_in_a_template_is_one_that_the_notifier_sends() -> None:
    for each in shipped().values():
        for entity in each.content["entities"].values():
            if entity.get("type") == "collectd" and "name" in entity:
                assert entity["name"] in _NAMES.values()


def test_installing_twice_does_nothing_the_second_time(scene: Scene) -> None:
    assert scene.run("install") == ["vmhb_vm: installed", "vmhb_host: installed"]
    before = list(scene.vitrage.rows)
    assert scene.run("install") == [
        "vmhb_vm: is installed already",
        "vmhb_host: is installed already",
    ]
    assert scene.vitrage.rows == before


def test_what_differs_or_could_not_be_loaded_is_replaced(scene: Scene) -> None:
    scene.run("install", "vmhb_workflow")
    assert scene.run("install", "vmhb_workflow", workflow="mine") == ["vmhb_workflow: replaced"]
    assert "mine" in str(scene.vitrage.content)
    scene.vitrage.rows[-1]["status"] = "ERROR"
    assert scene.run("install", "vmhb_workflow", workflow="mine") == ["vmhb_workflow: replaced"]
    assert len(scene.vitrage.rows) == 1


def test_one_that_is_invalid_keeps_all_from_being_installed(scene: Scene) -> None:
    scene.vitrage.invalid = "vmhb_host"
    with pytest.raises(TemplateError, match="vmhb_host: Vitrage finds it invalid: Syntax: line 3"):
        scene.run("install")
    assert scene.vitrage.rows == []


def test_what_vitrage_cannot_load_is_said_in_its_words(scene: Scene) -> None:
    scene.vitrage.next_status = "ERROR"
    with pytest.raises(TemplateError, match="vmhb_vm: Vitrage cannot load it: no such entity"):
        scene.run("install")


def test_a_vitrage_that_never_loads_it_is_not_waited_for_for_ever(scene: Scene) -> None:
    scene.vitrage.next_status = "LOADING"
    templates = Templates(
        cast(Vitrage, scene.vitrage), shipped(), scene.said.append, lambda: scene.now, scene.sleep
    )
    with pytest.raises(TemplateError, match="did not load it within 60 s"):
        templates.install(["vmhb_vm"])
    assert scene.now < PATIENCE + 1


def test_only_ours_are_removed(scene: Scene) -> None:
    scene.vitrage.add_template("metadata: {name: site}")
    scene.run("install")
    said = scene.run("remove")
    assert "vmhb_vm: removed" in said
    assert "vmhb_pair: is not installed" in said
    assert [row["name"] for row in scene.vitrage.rows] == ["site"]
    with pytest.raises(TemplateError, match="site: is none of ours, which are vmhb_host"):
        scene.run("remove", "site")


def test_the_list_says_how_each_stands(scene: Scene) -> None:
    scene.run("install", "vmhb_vm")
    scene.vitrage.add_template("metadata: {name: vmhb_host}")
    states = {line.split()[0]: line[15:29].strip() for line in scene.run("list")}
    assert states == {
        "vmhb_vm": "installed",
        "vmhb_host": "differs",
        "vmhb_pair": "not installed",
        "vmhb_workflow": "not installed",
    }
