# SPDX-License-Identifier: Apache-2.0
"""Many VMs of a host fall silent together: what the engine, the notifier and Vitrage make of it."""

from __future__ import annotations

import pytest

from tests.controller.conftest import Compute, Controller
from tests.integration.collectd_node import FAST, SETTINGS
from tests.integration.stand_in import Mode

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

VMS = 8
SILENT = 6
WITHIN = 60.0


def test_vms_that_fall_silent_together_are_effects_of_one_alarm_on_their_host(
    controller: Controller, compute: Compute
) -> None:
    controller.vitrage.be_ready()
    assert controller.command("templates", "install").returncode == 0
    specs = {**FAST, "vmhb:interval": "1"}
    vms = [compute.node.vm(f"vm-{number}", specs=specs) for number in range(VMS)]
    for vm in vms:
        controller.vitrage.announce_instance(vm.uuid, vm.name, "compute-1", "p-1")
    compute.start(SETTINGS)
    for vm in vms:
        compute.node.wait_established(vm)
    for vm in vms[:SILENT]:
        compute.node.guest(vm.name).mode = Mode.SILENT
    controller.lists(
        {
            "VM heartbeat lost": SILENT,
            "VM is unresponsive": SILENT,
            "VM heartbeat engine impaired": 1,
            "VM heartbeats lost on host": 1,
        },
        WITHIN,
    )
    assert controller.states()["compute-1"] == "SUBOPTIMAL"
    for vm in vms[:SILENT]:
        compute.node.guest(vm.name).mode = Mode.HEALTHY
    controller.lists({}, WITHIN)
    assert controller.command("templates", "remove").returncode == 0
