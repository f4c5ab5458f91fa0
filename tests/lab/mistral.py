# SPDX-License-Identifier: Apache-2.0
"""Vitrage's own Mistral notifier with a stand-in for Mistral that notes what it is to start.

vitrage-notifier imports it, as `[mistral] notifier` of its configuration says.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from oslo_config import cfg
from vitrage.notifier.plugins.mistral.mistral_notifier import MistralNotifier

#: To be appended to vitrage.conf.
CONF = """\
[DEFAULT]
notifiers = mistral
[mistral]
notifier = tests.lab.mistral.Notifier
"""


class _Executions:
    """Notes each execution as a line of JSON."""

    def create(self, workflow_identifier: str, workflow_input: Any, wf_params: Any) -> bool:
        """Start a workflow, as python-mistralclient has it."""
        line = json.dumps({"workflow": workflow_identifier, "input": workflow_input})
        with (Path(cfg.CONF.log_dir) / "mistral.jsonl").open("a") as notes:
            notes.write(line + "\n")
        return True


class _Mistral:
    executions = _Executions()


class Notifier(MistralNotifier):  # type: ignore[misc]
    """Differs from Vitrage's in whom it calls, and in nothing else."""

    client = _Mistral()
