# SPDX-License-Identifier: Apache-2.0
"""Brings the product to a bare lab with the project's Ansible roles, as an operator does."""

from __future__ import annotations

import json
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.lab.lab import Lab, Say, timed
from tests.lab.layout import DEMO_VENV, INSTALLED, WHEELHOUSE, LabError, require

_ANSIBLE = Path(__file__).parent / "ansible"
#: Seconds, of which pip takes most where the version is not installed yet.
_PATIENCE = 600.0
# As Debian's collectd.conf has it: a directory may be empty, a pattern must match.
_INCLUDE = """\
<Include "/run/collectd/collectd.conf.d">
  Filter "*.conf"
</Include>
"""


def roll_out(lab: Lab, say: Say, **options: float) -> None:
    """Install and configure the product, and have graph and collectd run with it.

    `options` are keys of <Module vmhb>. LabError gives the reason that a role gave.
    """
    variables = lab.directory / "rollout.json"
    variables.touch(mode=0o600)  # the broker's URL is a secret
    variables.write_text(json.dumps(_variables(lab, options), indent=2) + "\n")
    with ThreadPoolExecutor() as pool:
        parts = [pool.submit(_controller, lab, say), pool.submit(_compute_node, lab, say)]
    for part in parts:
        part.result()
    timed(say, "collectd", lab.node.collectd.run)


def _controller(lab: Lab, say: Say) -> None:
    timed(say, "vmhb_vitrage", lambda: _play(lab, "controller"))
    lab.vitrage.stop_services("graph")
    timed(say, "vitrage-graph", lambda: lab.vitrage.start_services("graph"))


def _compute_node(lab: Lab, say: Say) -> None:
    collectd = lab.node.collectd
    (collectd.directory / "collectd.conf.d").mkdir(parents=True, exist_ok=True)
    collectd.configure(_INCLUDE)
    timed(say, "vmhb_compute", lambda: _play(lab, "compute"))


def reason(said: str) -> str:
    """Return why a playbook ended early: what the last task that failed has to say."""
    results = re.findall(r"^(?:fatal|failed): \[.*? => (\{.*\})$", said, re.MULTILINE)
    if not results:
        return "; ".join(said.strip().splitlines()[-1:])
    return str(json.loads(results[-1])["msg"])


def _play(lab: Lab, group: str) -> None:
    log = lab.directory / f"rollout-{group}.log"
    program = require(DEMO_VENV) / "bin" / "ansible-playbook"
    options = ["--limit", group, "--extra-vars", f"@{lab.directory}/rollout.json"]
    environment = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        "ANSIBLE_CONFIG": str(_ANSIBLE / "ansible.cfg"),
    }
    with log.open("w") as output:
        try:
            done = subprocess.run(
                [str(program), *options, str(_ANSIBLE / "rollout.yml")],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                timeout=_PATIENCE,
            )
        except subprocess.TimeoutExpired:
            raise LabError(f"Ansible takes longer than {_PATIENCE:g} s: see {log}") from None
    if done.returncode:
        raise LabError(f"{reason(log.read_text())}\nall that Ansible said: {log}")


def _variables(lab: Lab, options: dict[str, float]) -> dict[str, object]:
    return {
        "lab_directory": str(lab.directory),
        "lab_installed": str(INSTALLED),
        "lab_wheelhouse": str(require(WHEELHOUSE)),
        "lab_broker_url": lab.vitrage.broker_url,
        "lab_options": options,
    }
