# SPDX-License-Identifier: Apache-2.0
"""Each way in which a health check can go wrong, in a real guest: one notification, of its name."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.conftest import SPECS, Cloud
from tests.lab.guest import Guest

pytestmark = [pytest.mark.long, pytest.mark.timeout(180)]

FAILURE, WARNING = 1, 2
#: Check -> (what it does once /run/fail exists, severity for the host, words in the guest).
KINDS = {
    "warning": ("echo low; exit 1", WARNING, "low"),
    "critical": ("echo gone; exit 2", FAILURE, "gone"),
    "unknown": ("exit 3", WARNING, "no output"),
    "odd-code": ("exit 42", FAILURE, "exit code 42: no plugin exit code"),
    "signal": ("kill -SEGV $$", FAILURE, "killed by SIGSEGV"),
    "code-126": ("/etc/hosts", FAILURE, "126: a command was not executable"),
    "code-127": ("no-such-program", FAILURE, "127: a command was not found"),
    "hang": ("sleep 500 & sleep 501", FAILURE, "timed out after 9 s"),
    "flood": ("yes | head -c 300000; exit 2", FAILURE, "y"),
    "silent": ("exit 2", FAILURE, "no output"),
    "no-mode": ("true", FAILURE, "cannot be run: Permission denied"),
    "dangling": ("true", FAILURE, "cannot be run: No such file or directory"),
    "no-user": ("true", FAILURE, "there is no user ghost"),
}
CHECKS = "/etc/vmhb-guest/health.d"
CONFIG = "/etc/vmhb-guest/vmhb-guest.conf"
BREAK = (
    f"touch /run/fail; chmod -x {CHECKS}/no-mode; ln -sf /nowhere {CHECKS}/dangling;"
    f" sed -i 's/^user = root/user = ghost/' {CONFIG}; kill -HUP $(cat /run/agent.pid)"
)
MEND = (
    f"rm /run/fail; chmod +x {CHECKS}/no-mode; ln -sf /well {CHECKS}/dangling;"
    f" sed -i 's/^user = ghost/user = root/' {CONFIG}; kill -HUP $(cat /run/agent.pid)"
)


@pytest.fixture(scope="module")
def guest(cloud: Cloud) -> Iterator[Guest]:
    """A guest with one health check of each kind, all well."""
    specs = {**SPECS, "vmhb:miss_threshold": "60"}
    guest = cloud.lab.boot("checks", image="python", extra_specs=specs, agent=False)
    guest.wait_booted()
    guest.run("printf '#!/bin/sh\\n' >/well; chmod +x /well")
    guest.run("touch /etc/hosts; echo root::0:0::/:/bin/sh >/etc/passwd")
    for name, (command, _, _) in KINDS.items():
        if name == "dangling":
            guest.run(f"ln -s /well {CHECKS}/{name}")
        else:
            body = f"#!/bin/sh\\nif [ -e /run/fail ]; then\\n{command}\\nfi\\n"
            guest.run(f"printf '{body}' >{CHECKS}/{name}; chmod +x {CHECKS}/{name}")
    settings = (
        "[checks]\\nboot_delay = 0\\ninterval = 10\\ntimeout = 9\\nparallel = 8\\n"
        "[check:no-user]\\nuser = root\\n[audits]\\nenabled = off\\n"
    )
    guest.run(f"printf '{settings}' >{CONFIG}")
    guest.start_agent()
    cloud.healthy(guest)
    yield guest
    guest.destroy()
    guest.undefine()


def test_each_failure_is_one_notification_of_its_name_and_ends_with_it(
    cloud: Cloud, guest: Guest
) -> None:
    mark = cloud.mark()
    guest.run(BREAK)
    for name, (_, severity, _) in KINDS.items():
        row = cloud.notified(guest, f"check.{name}", bad=True, since=mark, within=60)
        assert row["severity"] == severity, name
        assert row["meta"]["instance_name"] == "checks"
    shown = guest.run("python3 -m vmhb_guest status || true", 40)
    for name, (_, _, words) in KINDS.items():
        (line,) = [line for line in shown.splitlines() if line.startswith(f"{name}: ")]
        assert words in line
        assert len(line) < 1100
    assert cloud.value(guest, "gauge-health") == 4.0
    assert guest.run("ps | grep -c '[s]leep 50[01]' || true") in ("0", "2"), "hung checks pile up"
    mended = cloud.mark()
    guest.run(MEND)
    for name in KINDS:
        cloud.notified(guest, f"check.{name}", bad=False, since=mended, within=60)
    told = [fault for fault in cloud.faults(mark) if fault[0] == guest.uuid]
    assert sorted(told) == sorted(
        (guest.uuid, f"check.{name}", bad) for name in KINDS for bad in (False, True)
    )
    assert guest.run("sleep 5; ps | grep -c '[s]leep 50[01]' || true") == "0"


def test_a_crash_is_still_an_alarm_when_the_agent_is_started_again(
    cloud: Cloud, guest: Guest
) -> None:
    mark = cloud.mark()
    guest.run("python3 -m vmhb_guest run web -- sh -c 'sleep 1; exit 7' || true", 40)
    cloud.notified(guest, "check.app.web", bad=True, since=mark)
    guest.kill_agent()
    guest.start_agent()
    guest.run("until python3 -m vmhb_guest status | grep -q session:.enabled; do sleep 1; done", 90)
    assert "app.web: critical" in guest.run("python3 -m vmhb_guest status || true", 40)
    assert (guest.uuid, "check.app.web", False) not in cloud.faults(mark)
    guest.run("python3 -m vmhb_guest run web -- true", 40)
    cloud.notified(guest, "check.app.web", bad=False, since=mark)
