# SPDX-License-Identifier: Apache-2.0
"""A test node: a container of podman, in which a task takes one `podman exec`.

The collection's own connection has no pipelining, and so takes some six of them for a task, each
of which costs more than the task itself.
"""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

from ansible.errors import AnsibleError
from ansible.plugins.connection import ConnectionBase

DOCUMENTATION = """
name: node
short_description: a container of podman
description:
  - Runs tasks in a container of podman that is there, as its root.
author: the collectd-vmhb authors
options:
  remote_addr:
    description: Name of the container.
    type: str
    vars:
      - name: ansible_host
"""


class Connection(ConnectionBase):
    """Runs commands in the container that the inventory calls ansible_host."""

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
        """Bring a file to the container."""
        super().put_file(in_path, out_path)
        self._succeed(f"cat >{shlex.quote(out_path)}", Path(in_path).read_bytes())

    def fetch_file(self, in_path: str, out_path: str) -> None:
        """Bring a file from the container."""
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
            ["podman", "exec", "--interactive", self.get_option("remote_addr"), *argv],
            input=in_data,
            capture_output=True,
            check=False,
        )
        return run.returncode, run.stdout, run.stderr
