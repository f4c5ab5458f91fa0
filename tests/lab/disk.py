# SPDX-License-Identifier: Apache-2.0
"""A file system of a node's own whose I/O can be stalled: writing to it waits, and waits."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.lab.layout import LabError
from tests.lab.node import Node

_SIZE = 16 * 2**20
#: It thaws as its input ends, also if whoever froze it is killed: nothing ends what waits for a
#: frozen file system, not even SIGKILL.
_FREEZE = 'fsfreeze -f "$1" && echo frozen; cat >/dev/null; fsfreeze -u "$1"'


class Disk:
    """An ext4 on a loop device, mounted at `path` in the node alone; goes with the node."""

    def __init__(self, node: Node, name: str = "slow") -> None:
        self.path = f"/run/{name}"
        self._node = node
        self._image = node.directory / f"{name}.img"

    def mount(self) -> None:
        """Make the file system, empty, and mount it."""
        self._image.write_bytes(b"")
        with self._image.open("r+b") as file:
            file.truncate(_SIZE)
        (self._node.run / Path(self.path).name).mkdir(exist_ok=True)
        _run(["mkfs.ext4", "-q", "-F", str(self._image)])
        _run(self._node.command("mount", "-o", "loop", str(self._image), self.path))

    def unmount(self) -> None:
        """Take it away."""
        _run(self._node.command("umount", self.path))

    @contextlib.contextmanager
    def stalled(self) -> Iterator[None]:
        """Stall all that is written to it, until the end of the block."""
        freezer = subprocess.Popen(
            self._node.command("sh", "-c", _FREEZE, "freeze", self.path),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        try:
            if freezer.stdout is None or not freezer.stdout.readline():
                raise LabError(f"{self.path} cannot be frozen (fsfreeze is of util-linux)")
            yield
        finally:
            freezer.communicate()


def _run(command: list[str]) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except FileNotFoundError:
        raise LabError(f"no {command[0]}: apt-get install e2fsprogs mount") from None
    except subprocess.CalledProcessError as error:
        raise LabError(f"{' '.join(command)}: {error.stderr.strip()}") from None
