# SPDX-License-Identifier: Apache-2.0
"""Builds what the lab's guests boot: Debian's cloud kernel and an initramfs of ours.

Five flavours: `sh` is busybox with guest/sh/vmhb-guest.sh, `c` the same with guest/c/vmhb-guest.c;
`python` adds Debian's Python with pyserial and guest/vmhb_guest, and `systemd` starts that one by
Debian's systemd and udev; `qemu-ga` is `c` with QEMU's guest agent besides. None needs a disk or a
network. image_files/ has what else is in each.
"""

from __future__ import annotations

import hashlib
import os
import py_compile
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.lab import systemd_files
from tests.lab.cpio import Archive
from tests.lab.layout import CACHE, KERNEL, QEMU_GA, ROOT, LabError, require

#: Flavour -> the parts of image_files that it has.
FLAVOURS = {
    "sh": ("both", "sh"),
    "c": ("both", "c"),
    "python": ("both", "python"),
    "systemd": ("both", "python", "systemd"),
    "qemu-ga": ("both", "c"),
}
#: What most guests are.
USUAL = ("sh", "python")

_FILES = Path(__file__).parent / "image_files"
_BUSYBOX = Path("/bin/busybox")
_PYTHON = Path("/usr/bin/python3.11")
_STDLIB = Path("/usr/lib/python3.11")
_SITE = "/usr/lib/python3/dist-packages"
_SERIAL = Path(_SITE) / "serial"

# In the order in which they load: virtio needs the symbols of virtio_ring, and so on.
_MODULES = (
    "virtio_ring",
    "virtio",
    "virtio_pci_modern_dev",
    "virtio_pci_legacy_dev",
    "virtio_pci",
    "virtio_console",
    "virtio_blk",
    # The driver of libvirt's <panic model='isa'/>.
    "pvpanic",
    "pvpanic-mmio",
    # The power button, which `virsh shutdown` presses, and the device that tells of it.
    "button",
    "evdev",
)

# Parts of the standard library that neither the agent nor a check in the lab imports: with them
# the image is three times as large, and guests without hardware virtualisation boot slowly enough.
_LEFT_OUT = {
    "__pycache__", "asyncio", "curses", "dbm", "distutils", "ensurepip", "idlelib", "lib2to3",
    "multiprocessing", "pydoc_data", "sqlite3", "test", "tkinter", "turtledemo", "unittest",
    "venv", "wsgiref", "xml", "xmlrpc",
}  # fmt: skip
_ENCODINGS = {"__init__", "aliases", "ascii", "idna", "latin_1", "utf_8", "utf_8_sig"}


@dataclass(frozen=True)
class Image:
    """What to boot, as paths on this machine."""

    kernel: Path
    initrd: Path


@dataclass(frozen=True)
class _Source:
    """A file of this machine and where it goes in the guest; Python sources go as byte code."""

    file: Path
    path: str

    def content(self) -> bytes:
        return _byte_code(self.file) if self.file.suffix == ".py" else self.file.read_bytes()

    def add_to(self, archive: Archive) -> None:
        path = self.path + "c" if self.file.suffix == ".py" else self.path
        archive.file(path, self.content(), 0o755 if os.access(self.file, os.X_OK) else 0o644)


def build(flavour: str) -> Image:
    """Return the image; it is made anew only when something that it consists of has changed."""
    if flavour not in FLAVOURS:
        raise LabError(f"no image {flavour!r}: there are {', '.join(FLAVOURS)}")
    sources = sorted(_sources(flavour), key=lambda source: source.path)
    initrd = CACHE / "images" / f"{flavour}-{_digest(sources)}.cpio"
    if not initrd.exists():
        _write(initrd, sources)
        for older in set(initrd.parent.glob(f"{flavour}-*.cpio")) - {initrd}:
            older.unlink()
    return Image(require(KERNEL / "vmlinuz"), initrd)


def _sources(flavour: str) -> Iterator[_Source]:
    yield _Source(_BUSYBOX, "/bin/busybox")
    for number, name in enumerate(_MODULES):
        yield _Source(
            require(KERNEL / "modules" / f"{name}.ko"), f"/lib/modules/{number}-{name}.ko"
        )
    for part in FLAVOURS[flavour]:
        yield from _tree(_FILES / part, "/")
    if flavour == "qemu-ga":
        program = require(QEMU_GA / "usr/sbin/qemu-ga")
        yield _Source(program, "/usr/sbin/qemu-ga")
        for library in _libraries(program):
            yield _Source(library, str(library))
    if "sh" in FLAVOURS[flavour]:
        yield from _tree(ROOT / "guest" / "sh", "/usr/share/vmhb-guest")
    elif "c" in FLAVOURS[flavour]:
        yield _Source(_compiled(ROOT / "guest" / "c" / "vmhb-guest.c"), "/usr/bin/vmhb-guest")
    else:
        yield from _python()
        yield from _tree(_SERIAL, f"{_SITE}/serial")
        yield from _tree(ROOT / "guest" / "vmhb_guest", f"{_SITE}/vmhb_guest")
    if flavour == "systemd":
        yield from _systemd()


def _tree(top: Path, path: str) -> Iterator[_Source]:
    for file in top.rglob("*"):
        if file.is_file() and "__pycache__" not in file.parts:
            yield _Source(file, f"{path.rstrip('/')}/{file.relative_to(top)}")


def _python() -> Iterator[_Source]:
    base = set(_libraries(_PYTHON))
    for file in (_PYTHON, *base):
        yield _Source(file, str(file))
    for file in _STDLIB.rglob("*.py"):
        if _is_wanted(file.relative_to(_STDLIB)):
            yield _Source(file, str(file))
    for file in (_STDLIB / "lib-dynload").glob("*.so"):
        if base.issuperset(_libraries(file)):
            yield _Source(file, str(file))


def _is_wanted(module: Path) -> bool:
    if module.parts[0] == "encodings":
        return module.stem in _ENCODINGS
    return _LEFT_OUT.isdisjoint(module.parts) and not module.parts[0].startswith("config-")


def _systemd() -> Iterator[_Source]:
    for file, path in systemd_files.found():
        yield _Source(file, path)
        if path in systemd_files.PROGRAMS:
            for library in _libraries(file, *systemd_files.LIBRARIES):
                yield _Source(library, f"/lib/x86_64-linux-gnu/{library.name}")
    unit = ROOT / "guest" / "systemd" / "vmhb-guest.service"
    yield _Source(unit, "/lib/systemd/system/vmhb-guest.service")


def _compiled(source: Path) -> Path:
    """Return the program, built as guest/c/README.md says."""
    program = CACHE / "c" / source.stem
    program.parent.mkdir(parents=True, exist_ok=True)
    rule = ["gcc", "-std=c99", "-O2", "-Wall", "-Wextra", "-Werror", "-static", "-o"]
    try:
        subprocess.run([*rule, program, source], check=True)
    except FileNotFoundError:
        raise LabError("no C compiler: apt-get install gcc libc6-dev") from None
    return program


def _libraries(file: Path, *directories: Path) -> Iterator[Path]:
    environment = {**os.environ, "LD_LIBRARY_PATH": ":".join(map(str, directories))}
    command = ["ldd", str(file)]
    printed = subprocess.run(
        command, env=environment, check=True, capture_output=True, text=True
    ).stdout
    for word in printed.split():
        if word.startswith("/"):
            yield Path(word)


def _byte_code(file: Path) -> bytes:
    with tempfile.NamedTemporaryFile(suffix=".pyc") as out:
        py_compile.compile(
            str(file),
            out.name,
            doraise=True,
            invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
        )
        return Path(out.name).read_bytes()


def _digest(sources: list[_Source]) -> str:
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for source in sources:
        digest.update(f"{source.path} {source.file.stat().st_mode} ".encode())
        digest.update(source.file.read_bytes())
    return digest.hexdigest()[:16]


def _write(initrd: Path, sources: list[_Source]) -> None:
    archive = Archive()
    archive.character_device("/dev/console", 5, 1)
    for source in sources:
        source.add_to(archive)
    archive.link("/usr/bin/python3", _PYTHON.name)
    initrd.parent.mkdir(parents=True, exist_ok=True)
    # Two runs at the same time must not see each other's half an image.
    partial = initrd.with_suffix(f".{os.getpid()}")
    partial.write_bytes(archive.to_bytes())
    partial.rename(initrd)
