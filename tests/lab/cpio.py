# SPDX-License-Identifier: Apache-2.0
"""Writes a "newc" cpio archive, the form in which Linux takes an initramfs."""

from __future__ import annotations

import stat


class Archive:
    """Collects files by their absolute path in the guest; parent directories come by themselves."""

    def __init__(self) -> None:
        self._entries: dict[str, tuple[int, bytes, tuple[int, int]]] = {}

    def directory(self, path: str) -> None:
        """Add a directory and those above it."""
        parts = path.strip("/").split("/")
        for depth in range(1, len(parts) + 1):
            name = "/".join(parts[:depth])
            self._entries.setdefault(name, (stat.S_IFDIR | 0o755, b"", (0, 0)))

    def file(self, path: str, content: bytes, mode: int = 0o644) -> None:
        """Add a regular file."""
        self._add(path, stat.S_IFREG | mode, content)

    def link(self, path: str, target: str) -> None:
        """Add a symbolic link."""
        self._add(path, stat.S_IFLNK | 0o777, target.encode())

    def character_device(self, path: str, major: int, minor: int) -> None:
        """Add a device node."""
        self._add(path, stat.S_IFCHR | 0o600, b"", (major, minor))

    def to_bytes(self) -> bytes:
        """Return the archive; the same contents give the same bytes."""
        out = bytearray()
        for inode, (name, (mode, content, device)) in enumerate(self._entries.items(), start=1):
            out += _entry(inode, name, mode, content, device)
        out += _entry(0, "TRAILER!!!", 0, b"", (0, 0))
        return bytes(out)

    def _add(self, path: str, mode: int, content: bytes, device: tuple[int, int] = (0, 0)) -> None:
        parent = path.strip("/").rpartition("/")[0]
        if parent:
            self.directory(parent)
        self._entries[path.strip("/")] = (mode, content, device)


def _entry(inode: int, name: str, mode: int, content: bytes, device: tuple[int, int]) -> bytes:
    encoded = name.encode() + b"\0"
    fields = (inode, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(encoded), 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields)
    return _padded(header + encoded) + _padded(content)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
