# SPDX-License-Identifier: Apache-2.0
"""Our RCA templates in the real Vitrage, installed by the command."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.controller.conftest import Controller, impaired, lost, until, uuid
from tests.lab.layout import ROOT
from vitrage_notifier.alarm import Alarm, Subject

pytestmark = [pytest.mark.timeout(180), pytest.mark.filterwarnings("ignore::DeprecationWarning")]

PROJECTS = {1: "p-1", 2: "p-1", 3: "p-2"}


@pytest.fixture(scope="module", name="cloud")
def _cloud(controller: Controller) -> Iterator[Controller]:
    controller.vitrage.be_ready()
    for number, project in PROJECTS.items():
        controller.vitrage.announce_instance(uuid(number), f"vm-{number}", "compute-1", project)
    yield controller
    controller.command("templates", "remove")


def test_installing_says_what_it_did_and_does_nothing_twice(cloud: Controller) -> None:
    first = cloud.command("templates", "install")
    assert (first.returncode, first.stderr) == (0, "")
    assert first.stdout == "vmhb_vm: installed\nvmhb_host: installed\n"
    second = cloud.command("templates", "install")
    assert second.stdout == "vmhb_vm: is installed already\nvmhb_host: is installed already\n"
    listed = cloud.command("templates", "list").stdout.splitlines()
    assert [line[:29].strip() for line in listed] == [
        "vmhb_host      installed",
        "vmhb_pair      not installed",
        "vmhb_vm        installed",
        "vmhb_workflow  not installed",
    ]


def test_a_lost_heartbeat_puts_the_vm_in_error_and_raises_an_alarm_for_everybody(
    cloud: Controller,
) -> None:
    cloud.raises(lost(1, "a"))
    cloud.lists({"VM heartbeat lost": 1, "VM is unresponsive": 1})
    until(lambda: cloud.states()[uuid(1)] == "ERROR", 5, "the VM is not in error")
    assert cloud.states()[uuid(2)] == "OK"
    cloud.clears(lost(1, "a"))
    cloud.lists({})
    until(lambda: cloud.states()[uuid(1)] == "OK", 5, "the VM is not well again")


def test_a_failed_check_makes_the_vm_suboptimal(cloud: Controller) -> None:
    failed = Alarm("c", 1, Subject("compute-1", uuid(2), "check.db"), "FAILURE", 1790000000.0)
    cloud.raises(failed)
    cloud.lists({"VM health check failed: db": 1, "VM application is degraded": 1})
    until(lambda: cloud.states()[uuid(2)] == "SUBOPTIMAL", 5, "the VM is not suboptimal")
    cloud.clears(failed)
    cloud.lists({})


def test_many_vms_of_an_impaired_host_make_one_alarm_on_the_host(cloud: Controller) -> None:
    vms = [lost(number, f"many-{number}") for number in (1, 2, 3)]
    cloud.raises(*vms)
    cloud.lists({"VM heartbeat lost": 3, "VM is unresponsive": 3})
    cloud.raises(impaired("mass"))
    cloud.lists(
        {
            "VM heartbeat lost": 3,
            "VM is unresponsive": 3,
            "VM heartbeat engine impaired": 1,
            "VM heartbeats lost on host": 1,
        }
    )
    assert cloud.states()["compute-1"] == "SUBOPTIMAL"
    assert causes(cloud)["VM heartbeat engine impaired"] == {
        "VM heartbeat lost",
        "VM heartbeats lost on host",
    }
    cloud.clears(*vms, impaired("mass"))
    cloud.lists({})


@pytest.mark.long
def test_two_vms_of_one_host_make_it_suspect_where_the_operator_wants_that(
    cloud: Controller,
) -> None:
    assert cloud.command("templates", "install", "vmhb_pair").returncode == 0
    cloud.raises(lost(1, "p1"))
    cloud.lists({"VM heartbeat lost": 1, "VM is unresponsive": 1})
    cloud.raises(lost(2, "p2"))
    pair = {"VM heartbeat lost": 2, "VM is unresponsive": 2, "VM heartbeats lost on host": 1}
    cloud.lists(pair)
    cloud.clears(lost(1, "p1"))
    cloud.lists({"VM heartbeat lost": 1, "VM is unresponsive": 1})
    cloud.clears(lost(2, "p2"))
    cloud.lists({})
    assert cloud.command("templates", "remove", "vmhb_pair").stdout == "vmhb_pair: removed\n"


@pytest.mark.long
def test_removing_leaves_the_templates_of_others(cloud: Controller) -> None:
    other = (ROOT / "vitrage_notifier/templates/rca/vmhb_vm.yaml").read_text()
    path = cloud.directory / "other.yaml"
    path.write_text(other.replace("name: vmhb_vm", "name: site"))
    cloud.vitrage.cli("template", "add", "--path", str(path))
    removed = cloud.command("templates", "remove")
    assert "vmhb_vm: removed" in removed.stdout
    assert "vmhb_pair: is not installed" in removed.stdout
    listed = cloud.vitrage.cli("template", "list")
    assert "site" in listed
    assert "vmhb_" not in listed
    cloud.vitrage.cli("template", "delete", "site")


@pytest.mark.long
def test_a_template_of_our_name_that_is_not_ours_any_more_is_replaced(cloud: Controller) -> None:
    old = (ROOT / "vitrage_notifier/templates/rca/vmhb_vm.yaml").read_text()
    path = cloud.directory / "old.yaml"
    path.write_text(old.replace("state: ERROR", "state: SUBOPTIMAL"))
    cloud.vitrage.cli("template", "add", "--path", str(path), "--wait", "20")
    assert "differs" in cloud.command("templates", "list").stdout
    assert cloud.command("templates", "install", "vmhb_vm").stdout == "vmhb_vm: replaced\n"
    cloud.command("templates", "remove")


def test_what_is_wrong_is_said_in_one_line(cloud: Controller) -> None:
    away = cloud.command("templates", "list", VITRAGE_ENDPOINT="http://127.0.0.1:1")
    assert away.returncode == 1
    assert "vmhb-vitrage: Vitrage is not reached" in away.stderr
    assert "Traceback" not in away.stderr
    nobody = cloud.command("templates", "list", OS_AUTH_TYPE="password")
    assert "OS_AUTH_URL missing in the environment" in nobody.stderr
    unknown = cloud.command("templates", "install", "bogus")
    assert "bogus: is none of ours" in unknown.stderr


def causes(cloud: Controller) -> dict[str, set[str]]:
    """What each alarm causes, by name."""
    shown = cloud.vitrage.cli("topology", "show", "--graph-type", "graph", "--all-tenants")
    graph = json.loads(shown)
    found: dict[str, set[str]] = {}
    for link in graph["links"]:
        if link["relationship_type"] == "causes":
            cause, effect = (graph["nodes"][link[end]]["name"] for end in ("source", "target"))
            found.setdefault(cause, set()).add(effect)
    return found
