# SPDX-License-Identifier: Apache-2.0
"""Policies that Nova does not tell, in a real collectd: the policy file and flavor names."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from collectd_vmhb.control import ask
from tests.integration.collectd_node import FAST, SETTINGS, Node, Vm
from tests.integration.stand_in import Mode

pytestmark = pytest.mark.timeout(60)

FAILURE, WARNING, OKAY = 1, 2, 4
HEALTHY = 2


class OldNode(Node):
    """A node of a Nova before 32."""

    @property
    def policies(self) -> Path:
        return self.directory / "state/policies.json"

    def tell(self, specs: Mapping[str, Mapping[str, str]] | str) -> None:
        """Puts a policy file, or what is none, into its place, as a rename does."""
        self.policies.parent.mkdir(mode=0o700, exist_ok=True)
        fresh = self.policies.with_suffix(".mine")
        if not isinstance(specs, str):
            entries = {self.vms[name].uuid: each for name, each in specs.items()}
            specs = json.dumps({"format": 1, "extra_specs": entries})
        fresh.write_text(specs)
        fresh.replace(self.policies)

    def ask_engine(self, command: str, **more: str) -> Any:
        return ask(str(self.directory / "run/control.sock"), {"command": command, **more})

    def source(self, vm: Vm) -> str:
        explained: str = self.ask_engine("explain", vm=vm.uuid)["policy"]["source"]
        return explained


@pytest.fixture(name="node")
def _node() -> Iterator[OldNode]:
    directory = Path(tempfile.mkdtemp(prefix="vmhb-"))
    node = OldNode(directory)
    try:
        yield node
    finally:
        node.close()
        shutil.rmtree(directory)


def test_the_policy_file_decides_and_its_changes_are_followed(node: OldNode) -> None:
    web, db = node.vm("web", specs=None), node.vm("db", specs=None)
    node.tell({"web": FAST, "db": {}})
    node.start()
    node.wait_health(web, HEALTHY)
    assert node.source(web) == "the policy file"
    (other,) = node.ask_engine("status")["unmonitored"]
    assert (other["uuid"], "so says the policy file" in other["why"]) == (db.uuid, True)
    node.guest("web").mode = Mode.SILENT
    node.wait_row("heartbeat-lost", FAILURE, web.uuid)
    node.tell({"web": {}, "db": FAST})
    over = node.wait_row("heartbeat-lost", OKAY, web.uuid)
    assert over["meta"]["reason"] == "monitoring is switched off"
    node.wait_health(db, HEALTHY)


def test_a_broken_policy_file_switches_nobody_off_not_even_over_a_restart(node: OldNode) -> None:
    web = node.vm("web", specs=None)
    node.tell({"web": FAST})
    node.start()
    node.wait_health(web, HEALTHY)
    node.guest("web").mode = Mode.SILENT
    lost = node.wait_row("heartbeat-lost", FAILURE, web.uuid)
    node.tell('{"format": 1,\n "extra_specs": oops}')
    fault = node.wait_row("engine-impaired", WARNING)
    assert "line 2" in fault["message"]
    node.stop()
    since = len(node.rows())
    node.start()
    again = node.wait_row("heartbeat-lost", FAILURE, web.uuid, since)
    assert again["meta"]["incident"] == lost["meta"]["incident"]
    node.wait_row("open-faults", OKAY, since=since)
    assert node.about(web, since) == [("heartbeat-lost", FAILURE)]
    node.tell({"web": FAST})
    node.wait_row("engine-impaired", OKAY, since=since)
    assert "Traceback" not in node.log()


def test_flavor_names_decide_where_nobody_else_does(node: OldNode) -> None:
    old, new = node.vm("old", specs=None), node.vm("new", specs={})
    words = " ".join(f'"{key}={value}"' for key, value in FAST.items())
    node.start(f'{SETTINGS}FlavorPolicy "x*" "vmhb:enabled=false"\nFlavorPolicy "m?" {words}\n')
    node.wait_health(old, HEALTHY)
    assert node.source(old) == 'FlavorPolicy "m?"'
    assert [vm["uuid"] for vm in node.ask_engine("status")["unmonitored"]] == [new.uuid]


def test_a_mistake_in_a_flavor_policy_is_told_by_key(node: OldNode) -> None:
    node.start('FlavorPolicy "hb.*" "vmhb:enabled=true" "vmhb:intervall=2"')
    row = node.wait_row("engine-impaired", FAILURE)
    assert 'FlavorPolicy "hb.*": vmhb:intervall="2"' in row["message"]
