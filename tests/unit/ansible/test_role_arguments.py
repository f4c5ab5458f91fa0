# SPDX-License-Identifier: Apache-2.0
"""A role's defaults are what its argument specification and its documentation say they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

ROLES = sorted((Path(__file__).parents[3] / "ansible/roles").iterdir())


def options(role: Path) -> dict[str, dict[str, Any]]:
    specification = yaml.safe_load((role / "meta/argument_specs.yml").read_text())
    found: dict[str, dict[str, Any]] = specification["argument_specs"]["main"]["options"]
    return found


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_the_specification_has_the_defaults(role: Path) -> None:
    defaults = yaml.safe_load((role / "defaults/main.yml").read_text())
    described = {name: each["default"] for name, each in options(role).items() if "default" in each}
    assert described == defaults


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_what_is_called_secret_is_not_logged(role: Path) -> None:
    for name, option in options(role).items():
        described = option["description"]
        text = " ".join(described) if isinstance(described, list) else described
        if "Secret." in text:
            assert option.get("no_log"), name
