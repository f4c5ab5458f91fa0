# SPDX-License-Identifier: Apache-2.0
"""How the role vmhb_vitrage edits vitrage.conf and collectd_conf.yaml, which others wrote."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import yaml

ROOT = Path(__file__).parents[3]
ROLE = ROOT / "ansible/roles/vmhb_vitrage"
OURS = "vitrage_notifier.driver.CollectdDriver"
STOCK = "vitrage.datasources.collectd.driver.CollectdDriver"
DEFAULTS = ["nova.host", "nova.instance"]
PATH = "/etc/vitrage/collectd_conf.yaml"


def load(path: str) -> ModuleType:
    """Imports one file of the role, which is no package."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROLE / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


conf = load("module_utils/vmhb_conf_text.py")
entries = load("filter_plugins/vmhb_vitrage.py")

CONFS = {
    "one line": "[DEFAULT]\nx = 1\n[datasources]\n# sources\ntypes = nova.host,nova.instance\n"
    "snapshots_interval = 600\n",
    "with blanks": "[datasources]\ntypes=nova.host, nova.instance\n",
    "several lines": "[datasources]\ntypes = nova.host,\n    nova.instance\npath = x\n",
    "not set": "[datasources]\n#types = nova.host\npath = x\n",
    "no section": "[DEFAULT]\ntypes = another\n",
    "empty value": "[datasources]\ntypes =\n",
    "set twice": "[datasources]\ntypes = static\ntypes = nova.host\n",
    "section twice": "[datasources]\ntypes = static\n[api]\n[datasources]\ntypes = aodh\n",
    "nothing": "",
}


@pytest.mark.parametrize("text", CONFS.values(), ids=CONFS)
def test_a_data_source_comes_and_goes_without_a_trace(text: str) -> None:
    edited = conf.with_type(text, "collectd", DEFAULTS)
    before = conf.values(text, "datasources", "types")
    expected = [*(DEFAULTS if before is None else before), "collectd"]
    assert conf.values(edited, "datasources", "types") == expected
    assert conf.without(edited) == text
    for line in text.splitlines():
        assert line.strip() in edited


def test_a_data_source_that_was_there_before_stays() -> None:
    text = "[datasources]\ntypes = nova.host,collectd\n"
    assert conf.with_type(text, "collectd", DEFAULTS) == text
    assert conf.without(text) == text


def test_what_others_added_behind_ours_stays() -> None:
    text = conf.with_type("[datasources]\ntypes = nova.host\n", "collectd", DEFAULTS)
    grown = text.replace("nova.host,collectd", "nova.host,collectd,aodh")
    assert conf.without(grown) == "[datasources]\ntypes = nova.host,aodh\n"


@pytest.mark.parametrize(
    "text",
    [
        "[collectd]\n# why\nconfig_file = x\n",
        "[api]\nport = 1\n",
        f"[collectd]\ndriver = {STOCK}\n",
    ],
    ids=["section", "no section", "Vitrage's own"],
)
def test_the_driver_comes_and_goes_without_a_trace(text: str) -> None:
    edited = conf.with_driver(text, OURS, STOCK)
    assert conf.option(edited, "collectd", "driver") == OURS
    assert conf.without(edited) == text


def test_somebody_elses_driver_is_left_and_named() -> None:
    with pytest.raises(ValueError, match=r"driver is their.Driver, .* take that line out"):
        conf.with_driver("[collectd]\ndriver = their.Driver\n", OURS, STOCK)


FILES = {
    "indented": "# why\ncollectd:\n  # theirs\n  - collectd_host: 'c1/.*'\n    type: nova.host\n"
    "    name: c1  # keep\n",
    "not indented": "---\ncollectd:\n- collectd_host: c1\n  type: nova.host\n  name: c1\nmore: 1\n",
    "no entry": "collectd:\n",
    "no key": "other: 1\n",
    "comments alone": "# to be filled\n",
    "nothing": "",
}


@pytest.mark.parametrize("text", FILES.values(), ids=FILES)
def test_our_entry_is_first_and_goes_without_a_trace(text: str) -> None:
    done = entries.with_entry(text, PATH)
    assert done["problem"] == ""
    before = (yaml.safe_load(text) or {}).get("collectd") or []
    assert yaml.safe_load(done["text"])["collectd"] == [entries.ENTRY, *before]
    assert entries.with_entry(done["text"], PATH)["text"] == done["text"]
    assert entries.without_entry(done["text"]) == text


def test_our_entry_is_that_of_the_package() -> None:
    shipped = yaml.safe_load((ROOT / "vitrage_notifier/templates/collectd_conf.yaml").read_text())
    assert shipped["collectd"] == [entries.ENTRY]


def test_our_entry_by_hand_is_left_alone() -> None:
    text = (ROOT / "vitrage_notifier/templates/collectd_conf.yaml").read_text()
    assert entries.with_entry(text, PATH) == {"text": text, "problem": ""}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("collectd:\n  - a: [\n", "is no YAML in line"),
        ("collectd: [{collectd_host: a, type: b, name: c}]\n", "write each of its entries"),
        ("collectd: {}\n", "has no list below a key collectd"),
        ("- collectd\n", "has no list below a key collectd"),
        ("just text\n", "has no list below a key collectd"),
    ],
)
def test_a_file_that_cannot_be_edited_is_left_and_said_why(text: str, problem: str) -> None:
    done = entries.with_entry(text, PATH)
    assert done["text"] == text
    assert done["problem"].startswith(PATH)
    assert problem in done["problem"]


def test_versions_are_sorted_by_their_numbers() -> None:
    assert entries.sorted_versions(["0.10.0", "0.9.0", "0.2.1"]) == ["0.2.1", "0.9.0", "0.10.0"]
