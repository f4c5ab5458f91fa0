# SPDX-License-Identifier: Apache-2.0
"""Many guests from one that was saved as it ran: each goes on within a second, without a boot."""

from __future__ import annotations

import threading
from dataclasses import replace
from uuid import uuid4

from tests.lab.guest import Guest

#: libvirt's own part of a saved guest, which has its XML, is smaller than that.
_HEADER = 256 * 1024


class Clones:
    """Begins a run of a guest from what `original` was when it was saved here.

    Name and UUID of a clone are as long as those of the original: they are written over them in
    the header of the file, in its place. What the guest itself knows is that of the original.
    """

    def __init__(self, original: Guest) -> None:
        self._node = original.node
        self._original = self._now = original
        self._inside = f"/var/lib/libvirt/qemu/{original.name}.save"
        self._lock = threading.Lock()
        original.domain.save(self._inside)

    def another(self, name: str) -> Guest:
        """Return a guest like the original; it does not run before `restore`."""
        guest = replace(self._original, name=name, display_name=name, uuid=str(uuid4()))
        guest.define()
        return guest

    def restore(self, guest: Guest) -> None:
        """Begin a run of a guest; any other run of it must be over."""
        with self._lock:
            self._rename(guest)
            self._node.connection.restore(self._inside)

    def _rename(self, guest: Guest) -> None:
        file = self._node.root / self._inside[1:]
        with file.open("r+b") as image:
            header = image.read(_HEADER)
            for before, after in ((self._now.uuid, guest.uuid), (self._now.name, guest.name)):
                if len(before) != len(after):
                    raise ValueError(f"{after} is not as long as {before}")
                header = header.replace(before.encode(), after.encode())
            image.seek(0)
            image.write(header)
        self._now = guest
