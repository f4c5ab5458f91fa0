# SPDX-License-Identifier: Apache-2.0
"""Adds a data source and, if wanted, a driver to vitrage.conf, or takes out what it added."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.vmhb_conf_text import (
    ConfError,
    option,
    values,
    with_driver,
    with_type,
    without,
)

DOCUMENTATION = r"""
module: vmhb_vitrage_conf
short_description: One data source and one driver in vitrage.conf
description:
  - Adds C(collectd) to C([datasources] types) and, if wanted, sets C([collectd] driver).
    Comments and order survive. What it added is marked by a comment, and nothing else is ever
    taken out.
  - Its diff has its own lines alone, as the file holds secrets.
options:
  path:
    description: The file.
    type: path
    required: true
  state:
    description: With C(read) the file is only looked at.
    type: str
    choices: [present, absent, read]
    default: present
  default_types:
    description: What Vitrage takes where the option C(types) is not set.
    type: list
    elements: str
    default: []
  driver:
    description: Whether our driver takes the place of Vitrage's.
    type: bool
    default: false
  must_exist:
    description: Whether it is a mistake if the file is not there.
    type: bool
    default: true
author: [collectd-vmhb]
"""

EXAMPLES = r"""
- name: Have Vitrage listen to collectd
  vmhb_vitrage_conf:
    path: /etc/vitrage/vitrage.conf
"""

RETURN = r"""
types:
  description: The data sources before the change.
  type: list
  returned: always
topics:
  description: The topics that Vitrage listens to.
  type: list
  returned: always
config_file:
  description: Where Vitrage looks for collectd_conf.yaml.
  type: str
  returned: always
"""

TYPE = "collectd"
STOCK = "vitrage.datasources.collectd.driver.CollectdDriver"
OURS = "vitrage_notifier.driver.CollectdDriver"
TOPIC = "vitrage_notifications"
CONFIG_FILE = "/etc/vitrage/collectd_conf.yaml"


def edited(text: str, state: str, default_types: list[str], driver: bool) -> str:
    """Return what the file should say; ConfError says why it cannot."""
    if state == "read":
        return text
    bare = without(text)
    if state == "absent":
        return bare
    wanted = with_type(bare, TYPE, default_types)
    return with_driver(wanted, OURS, STOCK) if driver else wanted


def own_lines(before: str, after: str) -> dict[str, str]:
    """Return a diff of what differs alone: the lines around it may be secrets."""
    old, new = before.splitlines(keepends=True), after.splitlines(keepends=True)
    return {
        "before": "".join(line for line in old if line not in new),
        "after": "".join(line for line in new if line not in old),
    }


def read(path: str) -> str:
    """Return the file's text, whatever its bytes are."""
    with Path(path).open(encoding="utf-8", errors="surrogateescape", newline="") as there:
        return there.read()


def write(module: AnsibleModule, path: str, text: str) -> None:
    """Replace the file at once, with the owner and mode that it has."""
    handle, partial = tempfile.mkstemp(dir=module.tmpdir)
    with os.fdopen(handle, "w", encoding="utf-8", errors="surrogateescape", newline="") as new:
        new.write(text)
    module.atomic_move(partial, path)


def main() -> None:
    """Run as a module of Ansible."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "state": {
                "type": "str",
                "choices": ["present", "absent", "read"],
                "default": "present",
            },
            "default_types": {"type": "list", "elements": "str", "default": []},
            "driver": {"type": "bool", "default": False},
            "must_exist": {"type": "bool", "default": True},
        },
        supports_check_mode=True,
    )
    given = module.params
    path = given["path"]
    try:
        text = read(path) if given["must_exist"] or Path(path).exists() else ""
        wanted = edited(text, given["state"], given["default_types"], given["driver"])
    except OSError as problem:
        module.fail_json(
            msg=f"{path}: {problem.strerror}; set vmhb_vitrage_config to where this host has "
            "Vitrage's configuration"
        )
    except ConfError as problem:
        module.fail_json(msg=f"{path}: {problem}")
    changed = wanted != text
    if changed and not module.check_mode:
        write(module, path, wanted)
    types = values(text, "datasources", "types")
    module.exit_json(
        changed=changed,
        diff=own_lines(text, wanted) if changed else {},
        types=given["default_types"] if types is None else types,
        topics=values(text, "datasources", "notification_topics")
        or values(text, "datasources", "notification_topic")
        or [TOPIC],
        config_file=option(text, "collectd", "config_file") or CONFIG_FILE,
    )


if __name__ == "__main__":
    main()
