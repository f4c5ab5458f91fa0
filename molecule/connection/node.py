# SPDX-License-Identifier: Apache-2.0
"""A test node: the namespaces of a process, in which a task takes one `nsenter`.

Molecule's are containers of podman, whose own connection has no pipelining, and so takes some six
`podman exec` for a task, each of which costs twenty times an `nsenter` and more than most tasks.
"""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.plugins.connection import ConnectionBase

DOCUMENTATION = """
name: node
short_description: the namespaces of a process
description:
  - Runs tasks as root in the namespaces of a process, such as the first one of a container.
author: the collectd-vmhb authors
options:
  remote_addr:
    description: The node's name.
    type: str
    vars:
      - name: inventory_hostname
      - name: ansible_host
  pid_file:
    description: A file with the process's number; by default /run/NAME.pid.
    type: path
    vars:
      - name: ansible_node_pid_file
"""


#: What podman would set.
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "container": "podman",
}


class Connection(ConnectionBase):
    """Runs commands in the node that the inventory calls ansible_host."""

    transport = "node"
    has_pipelining = True

    def _connect(self) -> Connection:
        self._connected = True
        return self

    def exec_command(
        self, cmd: str, in_data: bytes | None = None, sudoable: bool = True
    ) -> tuple[int, bytes, bytes]:
        """Run a command with `in_data` as its standard input."""
        super().exec_command(cmd, in_data=in_data, sudoable=sudoable)
        return self._run(["/bin/sh", "-c", cmd], in_data or b"")

    def put_file(self, in_path: str, out_path: str) -> None:
        """Bring a file to the node."""
        super().put_file(in_path, out_path)
        self._succeed(f"cat >{shlex.quote(out_path)}", Path(in_path).read_bytes())

    def fetch_file(self, in_path: str, out_path: str) -> None:
        """Bring a file from the node."""
        super().fetch_file(in_path, out_path)
        Path(out_path).write_bytes(self._succeed(f"cat {shlex.quote(in_path)}", b""))

    def close(self) -> None:
        """Nothing stays open."""
        self._connected = False

    def _succeed(self, cmd: str, in_data: bytes) -> bytes:
        status, output, errors = self._run(["/bin/sh", "-c", cmd], in_data)
        if status:
            raise AnsibleError(errors.decode())
        return output

    def _run(self, argv: list[str], in_data: bytes) -> tuple[int, bytes, bytes]:
        run = subprocess.run(
            ["nsenter", "--target", self._pid(), "--all", *argv],
            env=ENVIRONMENT,
            input=in_data,
            capture_output=True,
            check=False,
        )
        return run.returncode, run.stdout, run.stderr

    def _pid(self) -> str:
        node = self.get_option("remote_addr")
        # Where default/create.yml writes it.
        path = Path(self.get_option("pid_file") or f"/run/{node}.pid")
        try:
            return path.read_text().strip()
        except OSError as error:
            raise AnsibleConnectionFailure(f"{node} is not up: {error}") from error
