# SPDX-License-Identifier: Apache-2.0
"""What is to be changed on flavors and images, and which VMs that does not reach; pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

#: Another name of vmhb:enabled, which others may have set.
ALIAS = "sw:wrs:guest:heartbeat"
#: Those of docs/operations.md.
KEYS = (
    "vmhb:enabled",
    "vmhb:interval",
    "vmhb:timeout",
    "vmhb:miss_threshold",
    "vmhb:recovery_threshold",
    "vmhb:grace_period",
    "vmhb:required",
    "vmhb:channel",
)
#: With it Nova gives a VM a virtio-serial controller.
PROPERTY = "hw_qemu_guest_agent"
#: Says on an image that PROPERTY is from us.
MARK = "vmhb_marked"

_TRUE = ("1", "t", "true", "on", "y", "yes")


class PlanError(ValueError):
    """What is wanted makes no sense; says what to change."""


def wanted_specs(given: Mapping[str, Any]) -> dict[str, str]:
    """Return extra specs as Nova takes them, which are texts; PlanError names a wrong key."""
    for key, value in given.items():
        if key != ALIAS and key not in KEYS:
            raise PlanError(f"{key} is no extra spec of ours, which are {', '.join(KEYS)}")
        if not isinstance(value, (bool, int, float, str)) or value == "":
            raise PlanError(f"{key}: takes a text or a number")
    return {key: _text(value) for key, value in given.items()}


def _text(value: Any) -> str:
    # Ansible hands on booleans of its own making as True.
    text = str(value)
    return text.lower() if text in ("True", "False") else text


@dataclass(frozen=True)
class Change:
    """What to set and what to remove."""

    to_set: Mapping[str, str]
    to_remove: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.to_set or self.to_remove)

    def applied(self, to: Mapping[str, str]) -> dict[str, str]:
        """Return what is there after the change."""
        left = {key: value for key, value in to.items() if key not in self.to_remove}
        return {**left, **self.to_set}


def spec_change(there: Mapping[str, str], wanted: Mapping[str, str]) -> Change:
    """Return what gives a flavor exactly these of our extra specs; others' stay.

    The alias is somebody else's unless it is wanted by name.
    """
    to_set = {key: value for key, value in wanted.items() if there.get(key) != value}
    gone = [key for key in there if key in KEYS and key not in wanted]
    return Change(to_set, tuple(gone))


def absent_change(there: Mapping[str, str], wanted: Mapping[str, str]) -> Change:
    """Return what takes all of ours away, and the alias if it was wanted."""
    return Change(
        {}, tuple(key for key in there if key in KEYS or (key == ALIAS and ALIAS in wanted))
    )


def image_change(there: Mapping[str, Any], present: bool) -> Change:
    """Return what has an image ask for a controller, or takes back what we had it ask for."""
    asks = str(there.get(PROPERTY, "")).lower() in _TRUE
    if present:
        # Whoever has set it before us will want to keep it.
        return Change({} if asks else {PROPERTY: "yes", MARK: PROPERTY}, ())
    marked = there.get(MARK) == PROPERTY
    return Change({}, tuple(key for key in (PROPERTY, MARK) if key in there) if marked else ())


@dataclass(frozen=True)
class Vm:
    """A server as Nova shows it: ``properties`` are its image's, None where nobody tells."""

    uuid: str
    name: str
    status: str
    host: str
    flavor: str
    specs: Mapping[str, str]
    properties: Mapping[str, Any] | None

    @property
    def title(self) -> str:
        """Say which it is, on one line."""
        name = "".join(each if each.isprintable() else "?" for each in self.name)
        where = f", {self.host}" if self.host else ""
        return f"{self.uuid} {name} ({self.status}, {self.flavor}{where})"


@dataclass(frozen=True)
class Finding:
    """VMs that the change does not reach by itself, and what to do for each."""

    why: str
    vms: tuple[Vm, ...]
    steps: tuple[str, ...]

    def lines(self) -> list[str]:
        """Return it for people."""
        return [
            f"{self.why}:",
            *(f"  {vm.title}" for vm in self.vms),
            "for each of them:",
            *(f"  {step}" for step in self.steps),
        ]


_CONTROLLER_STEPS = (
    "openstack server stop VM",
    f"on a controller: nova-manage image_property set VM --property {PROPERTY}=yes",
    "openstack server start VM",
    "or, without what is on its disk: openstack server rebuild VM, whose image has the property",
)


def findings(vms: Iterable[Vm], flavors: Mapping[str, Mapping[str, str]]) -> list[Finding]:
    """Return what keeps each VM of these flavors from what its flavor says now.

    ``flavors`` are the extra specs after the change, by name.
    """
    old, fresh, bare, unknown = [], [], [], []
    for vm in vms:
        now = _ours(flavors[vm.flavor])
        if _ours(vm.specs) != now:
            old.append(vm)
        elif _enabled(now):
            fresh.append(vm)
        if _enabled(now) and not now.get("vmhb:channel", "").startswith("serial:"):
            if vm.properties is None:
                unknown.append(vm)
            elif str(vm.properties.get(PROPERTY, "")).lower() not in _TRUE:
                bare.append(vm)
    found = (
        Finding(
            "their flavor's extra specs reach them at their next resize, as Nova copies these "
            "when a VM is made or resized",
            tuple(old),
            (
                "openstack server resize --flavor OTHER VM, where OTHER is another flavor with "
                "the same extra specs, as Nova resizes no VM to the flavor that it has",
                "openstack server resize confirm VM",
            ),
        ),
        Finding(
            "they have no virtio-serial controller, as their image did not say "
            f"{PROPERTY}=yes when they were made; none can be plugged in",
            tuple(bare),
            _CONTROLLER_STEPS,
        ),
        Finding(
            "whether they have a virtio-serial controller, this Nova does not tell (they were "
            "made from a volume, or Nova has no microversion 2.98)",
            tuple(unknown),
            (
                "on its host: virsh dumpxml VM | grep virtio-serial; if it prints nothing:",
                *_CONTROLLER_STEPS,
            ),
        ),
        Finding(
            "they have their extra specs; if they were last started under a Nova before 32 "
            "(2025.2), their domain has not, until a hard reboot",
            tuple(fresh),
            (
                "on its host: virsh dumpxml VM | grep nova:extraSpecs; if it prints nothing:",
                "openstack server reboot --hard VM",
            ),
        ),
    )
    return [finding for finding in found if finding.vms]


def _ours(specs: Mapping[str, str]) -> dict[str, str]:
    return {key: str(value) for key, value in specs.items() if key in (*KEYS, ALIAS)}


def _enabled(specs: Mapping[str, str]) -> bool:
    return specs.get("vmhb:enabled", specs.get(ALIAS, "")).lower() in _TRUE
