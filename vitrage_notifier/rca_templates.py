# SPDX-License-Identifier: Apache-2.0
"""`vmhb-vitrage templates`: installs, lists and removes our templates in Vitrage.

Templates are known by their names, which are those of the files below templates/rca. All others
are left alone.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

import yaml

from vitrage_notifier.vitrage_api import Row, Vitrage

DIRECTORY = Path(__file__).parent / "templates" / "rca"
#: Installed unless others are named: these only report, and cost little however many VMs there are.
DEFAULT = ("vmhb_vm", "vmhb_host")
#: Seconds that Vitrage may take to load or to delete a template.
PATIENCE = 60.0

Say = Callable[[str], None]


class TemplateError(Exception):
    """A template was not installed or removed; says which, and what Vitrage says."""


@dataclass(frozen=True)
class Shipped:
    """One template as it should be in Vitrage."""

    name: str
    content: Mapping[str, Any]

    @property
    def description(self) -> str:
        """Say in one sentence what it is for."""
        return str(self.content["metadata"]["description"])

    @property
    def text(self) -> str:
        """Return it as YAML."""
        return str(yaml.safe_dump(self.content, sort_keys=False))


def shipped(parameters: Mapping[str, str] | None = None) -> dict[str, Shipped]:
    """Return our templates by name; `parameters` take the place of their defaults."""
    files = sorted(DIRECTORY.glob("*.yaml"))
    return {path.stem: Shipped(path.stem, _load(path, parameters or {})) for path in files}


def _load(path: Path, given: Mapping[str, str]) -> dict[str, Any]:
    # Vitrage keeps a template without its parameters: only so can the two be compared.
    text = path.read_text("utf-8")
    # All values as texts, as python-vitrageclient sends them.
    content: dict[str, Any] = yaml.load(text, Loader=yaml.BaseLoader)  # noqa: S506
    for name, parameter in content.pop("parameters", {}).items():
        content = _filled(content, f"get_param({name})", given.get(name, parameter["default"]))
    return content


def _filled(value: Any, call: str, result: str) -> Any:
    if isinstance(value, dict):
        return {key: _filled(each, call, result) for key, each in value.items()}
    if isinstance(value, list):
        return [_filled(each, call, result) for each in value]
    return result if value == call else value


class Templates:
    """Brings the templates in Vitrage and ours together; `say` hears of each step."""

    def __init__(
        self,
        vitrage: Vitrage,
        ours: Mapping[str, Shipped],
        say: Say,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._vitrage = vitrage
        self._ours = ours
        self._say = say
        self._clock = clock
        self._sleep = sleep

    def state(self, name: str) -> str:
        """Return in a word or two how a template of ours stands in Vitrage."""
        there = self._there(name)
        if there is None:
            return "not installed"
        if there["status"] != "ACTIVE":
            return f"{there['status'].lower()}: {there['status details']}"
        return "installed" if self._is_ours(there) else "differs"

    def install(self, names: Sequence[str]) -> None:
        """Have these templates active in Vitrage, and leave alone what is; TemplateError."""
        for name in names:
            # All of them first: half an installation helps nobody.
            self._validate(name)
        for name in names:
            self._install(name)

    def remove(self, names: Sequence[str]) -> None:
        """Have none of these in Vitrage."""
        for name in names:
            there = self._there(name)
            if there is None:
                self._say(f"{name}: is not installed")
            else:
                self._delete(there)
                self._say(f"{name}: removed")

    def _validate(self, name: str) -> None:
        found = self._vitrage.validate_template(self._ours[name].text)
        if found["status code"]:
            raise TemplateError(
                f"{name}: Vitrage finds it invalid: {found['description']}: {found['message']}"
            )

    def _install(self, name: str) -> None:
        there = self._there(name)
        if there is not None:
            if there["status"] == "ACTIVE" and self._is_ours(there):
                self._say(f"{name}: is installed already")
                return
            self._delete(there)
        added = self._vitrage.add_template(self._ours[name].text)
        self._wait(name, lambda: self._loaded(name, added), "load it")
        self._say(f"{name}: {'replaced' if there else 'installed'}")

    def _loaded(self, name: str, added: Row) -> bool:
        there = self._there(name) or added
        if there["status"] == "ERROR":
            raise TemplateError(f"{name}: Vitrage cannot load it: {there['status details']}")
        return bool(there["status"] == "ACTIVE")

    def _delete(self, there: Row) -> None:
        self._vitrage.delete_template(there["uuid"])
        name = there["name"]
        self._wait(name, lambda: self._there(name) is None, "delete it")

    def _wait(self, name: str, ready: Callable[[], bool], what: str) -> None:
        deadline = self._clock() + PATIENCE
        while not ready():
            if self._clock() > deadline:
                raise TemplateError(
                    f"{name}: Vitrage did not {what} within {PATIENCE:g} s: does vitrage-graph run?"
                )
            self._sleep(0.2)

    def _there(self, name: str) -> Row | None:
        rows = [row for row in self._vitrage.templates() if row["name"] == name]
        return rows[-1] if rows else None

    def _is_ours(self, there: Row) -> bool:
        return self._vitrage.template(there["uuid"]) == self._ours[there["name"]].content


def run(vitrage: Vitrage, action: str, names: Sequence[str], workflow: str, say: Say) -> None:
    """Do what `vmhb-vitrage templates` was asked; TemplateError or VitrageError says why not."""
    ours = shipped({"workflow": workflow} if workflow else None)
    unknown = [name for name in names if name not in ours]
    if unknown:
        raise TemplateError(f"{unknown[0]}: is none of ours, which are {', '.join(ours)}")
    templates = Templates(vitrage, ours, say)
    if action == "install":
        templates.install(names or DEFAULT)
    elif action == "remove":
        templates.remove(names or list(ours))
    else:
        for each in ours.values():
            say(f"{each.name:<14} {templates.state(each.name):<14} {each.description}")
