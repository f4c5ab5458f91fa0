# SPDX-License-Identifier: Apache-2.0
"""`vmhb-vitrage verify` on a node with the real engine and notifier: each broken link by its name.

The node's VMs are those of libvirt's test driver, so that nothing has to boot.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.controller.conftest import Compute, Controller
from tests.integration.stand_in import Mode
from tests.lab.keystone import Keystone
from tests.lab.vitrage import COLLECTD_CONF

pytestmark = [pytest.mark.timeout(180), pytest.mark.filterwarnings("ignore::DeprecationWarning")]


@pytest.fixture(name="vitrage", scope="module")
def _vitrage(controller: Controller) -> Controller:
    controller.vitrage.be_ready()
    return controller


def broken(said: tuple[int, str]) -> tuple[str, str]:
    """The link that is called broken, and why."""
    status, text = said
    last = text.splitlines()[-1]
    assert status == 1, text
    assert last.startswith("broken link: "), text
    link, _, why = last[len("broken link: ") :].partition(": ")
    return link, why


def test_a_whole_way_is_walked_for_the_host_and_for_a_vm(
    vitrage: Controller, compute: Compute
) -> None:
    compute.start()
    vitrage.vitrage.announce_instance(compute.vm.uuid, "web", "compute-1", "p-1")
    for whose in (["--host"], ["--vm", compute.vm.uuid]):
        status, text = compute.verify(*whose)
        assert status == 0, text
        lines = text.splitlines()
        assert [line[:23].rstrip() for line in lines[:-1]] == [
            "broker takes messages",
            "Vitrage's API answers",
            "raised by the engine",
            "taken by the notifier",
            "shown by Vitrage",
            "cleared in Vitrage",
        ]
        assert all(line.endswith(" s") for line in lines[:-1])
        assert lines[-1] == "the way to Vitrage is whole"
    vitrage.lists({})
    history = vitrage.vitrage.cli("alarm", "history", "--all")
    assert history.count("VM heartbeat verification") == 2


def test_keystone_lets_the_commands_in_and_keeps_strangers_out(
    vitrage: Controller, compute: Compute
) -> None:
    compute.start()
    with Keystone(vitrage.vitrage.endpoint) as keystone:
        status, text = compute.verify(**keystone.env())
        assert status == 0, text
        installed = vitrage.command("templates", "install", "vmhb_vm", **keystone.env())
        assert installed.stdout == "vmhb_vm: installed\n", installed.stderr
        assert vitrage.command("templates", "remove", **keystone.env()).returncode == 0
        link, why = broken(compute.verify(**keystone.env(password="wrong")))
    assert link == "API"
    assert why.startswith("Keystone refuses the user")


def test_the_engine_does_not_run(vitrage: Controller, compute: Compute) -> None:
    link, why = broken(compute.verify())
    assert link == "engine"
    assert "is collectd running" in why


@pytest.mark.long
def test_the_engine_reports_nothing_by_order(vitrage: Controller, compute: Compute) -> None:
    compute.start(settings='Mode "observe"')
    assert broken(compute.verify()) == (
        "engine",
        "Mode is observe, in which no fault leaves this host",
    )


@pytest.mark.long
def test_the_vm_is_not_here(vitrage: Controller, compute: Compute) -> None:
    compute.start()
    link, why = broken(compute.verify("--vm", "6ba7b810-9dad-41d1-80b4-ffffffffffff"))
    assert link == "engine"
    assert "is on this host" in why


@pytest.mark.long
def test_the_notifier_is_not_loaded(vitrage: Controller, compute: Compute) -> None:
    compute.start(notifier=False)
    link, why = broken(compute.verify())
    assert link == "notifier"
    assert "is vitrage_notifier.plugin imported" in why


def test_the_broker_refuses_the_password(vitrage: Controller, compute: Compute) -> None:
    compute.with_url(vitrage.broker.url.replace("guest:guest", "guest:wrong"))
    compute.start()
    link, why = broken(compute.verify())
    assert link == "broker"
    assert "check user, password" in why
    assert "wrong" not in why


@pytest.mark.long
def test_no_broker_is_where_the_url_says(vitrage: Controller, compute: Compute) -> None:
    compute.with_url("rabbit://guest:guest@127.0.0.1:1/")
    compute.start()
    link, why = broken(compute.verify())
    assert link == "broker"
    assert "check the hosts and ports" in why


@pytest.mark.long
def test_nobody_reads_the_topic(vitrage: Controller, compute: Compute) -> None:
    compute.start(topic="notifications")
    link, why = broken(compute.verify(topic="notifications"))
    assert link == "topic"
    assert "nobody reads it" in why


@pytest.mark.long
def test_the_api_is_away_or_does_not_trust_us(vitrage: Controller, compute: Compute) -> None:
    compute.start()
    link, why = broken(compute.verify(VITRAGE_ENDPOINT="http://127.0.0.1:1"))
    assert (link, why.partition(":")[0]) == ("API", "Vitrage is not reached")
    link, why = broken(compute.verify(VITRAGE_ROLES="member"))
    assert link == "API"
    assert "the role that Vitrage's policy asks for" in why
    assert compute.verify(OS_AUTH_TYPE="password")[0] == 1


@pytest.mark.long
def test_the_graph_does_not_run(vitrage: Controller, compute: Compute) -> None:
    compute.start()
    vitrage.vitrage.stop_services("graph")
    link, _ = broken(compute.verify())
    vitrage.vitrage.start_services("graph")
    assert link == "topic"


@pytest.mark.long
def test_the_persistor_does_not_run(vitrage: Controller, compute: Compute) -> None:
    compute.start()
    vitrage.vitrage.stop_services("persistor")
    link, why = broken(compute.verify())
    vitrage.vitrage.start_services("persistor")
    assert link == "persistor"
    assert "does vitrage-persistor run" in why


@pytest.mark.long
def test_vitrage_does_not_know_the_vm(vitrage: Controller, compute: Compute) -> None:
    other = compute.node.vm("unknown-to-vitrage")
    # Those with small numbers were announced by other tests.
    other.number = 4711
    compute.start()
    link, why = broken(compute.verify("--vm", other.uuid))
    assert link == "resource"
    assert other.uuid in why


@pytest.mark.long
def test_reconcile_shows_what_is_missing_on_either_side(
    vitrage: Controller, compute: Compute
) -> None:
    assert compute.reconcile()[0] == 2
    # Without what an earlier verification could not end.
    vitrage.vitrage.be_ready()
    compute.start()
    vitrage.vitrage.announce_instance(compute.vm.uuid, "web", "compute-1", "p-1")
    compute.node.wait_health(compute.vm, 2)
    status, text = compute.reconcile()
    assert (status, text.count("\n")) == (0, 1), text
    compute.node.guest("web").mode = Mode.SILENT
    vitrage.lists({"VM heartbeat lost": 1})
    status, text = compute.reconcile()
    assert status == 0, text
    assert f"{compute.vm.uuid}  VM heartbeat lost" in text
    vitrage.vitrage.stop_services("graph")
    assert compute.reconcile()[0] == 2
    vitrage.vitrage.start_services("graph")
    # The restart made it forget; the re-send comes within a minute.
    vitrage.lists({})
    status, text = compute.reconcile()
    assert status == 1
    (line,) = [line for line in text.splitlines() if line.startswith("!")]
    assert line.split()[-2:] == ["FAILURE", "-"]


@pytest.mark.parametrize("missing", ["mapping", pytest.param("datasource", marks=pytest.mark.long)])
def test_the_datasource_drops_the_event(
    controller: Controller, compute: Compute, tmp_path: Path, missing: str
) -> None:
    """Last, as it has vitrage-graph start anew."""
    conf = tmp_path / "collectd_conf.yaml"
    conf.write_text("collectd:\n  - {collectd_host: other, type: nova.host, name: other}\n")
    types = "[datasources]\ntypes = nova.host,nova.instance,nova.zone,static\n"
    if missing == "mapping":
        controller.vitrage.collectd_conf = conf
    else:
        controller.vitrage.conf = types
    try:
        controller.vitrage.be_ready()
        compute.start()
        link, why = broken(compute.verify())
    finally:
        controller.vitrage.collectd_conf = COLLECTD_CONF
        controller.vitrage.conf = ""
    assert link == "datasource"
    assert "collectd_conf.yaml" in why
    assert os.linesep not in why
