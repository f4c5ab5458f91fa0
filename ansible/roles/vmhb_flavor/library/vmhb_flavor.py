# SPDX-License-Identifier: Apache-2.0
"""Sets our extra specs on flavors and our property on images; tells whom that does not reach."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.vmhb_flavor_plan import (
    Change,
    PlanError,
    Vm,
    absent_change,
    findings,
    image_change,
    spec_change,
    wanted_specs,
)

DOCUMENTATION = r"""
module: vmhb_flavor
short_description: Extra specs of flavors and a property of images, for VM heartbeats
description:
  - Gives flavors exactly these of our extra specs, and images the property that brings a
    virtio-serial controller; other people's extra specs and properties stay.
  - Nothing is changed unless all flavors and images are found.
requirements: [openstacksdk]
options:
  cloud:
    description: Entry of clouds.yaml; without it OS_* of the environment counts.
    type: str
    default: ""
  state:
    description: Whether flavors ask for monitoring.
    type: str
    choices: [present, absent]
    default: present
  flavors:
    description: Their names or ids.
    type: list
    elements: str
    default: []
  specs:
    description: Our extra specs.
    type: dict
    default: {}
  images:
    description: Their names or ids.
    type: list
    elements: str
    default: []
  environment:
    description: Set for the SDK, such as OS_* of an openrc file.
    type: dict
    default: {}
  report:
    description: Whether Nova is asked for the VMs that have one of the flavors.
    type: bool
    default: true
author: [collectd-vmhb]
"""

EXAMPLES = r"""
- name: Ask for monitoring
  vmhb_flavor:
    cloud: admin
    flavors: [m1.vmhb]
    specs: {"vmhb:enabled": "true"}
"""

RETURN = r"""
report:
  description: VMs that the change does not reach by itself, and what to do for each.
  type: list
  returned: always
"""

#: The first microversion at which a server has its flavor's extra specs with it.
SPECS_VERSION = "2.47"
#: The first at which it has its image's properties with it as well.
PROPERTIES_VERSION = "2.98"
PAGE = 1000
PATCH = "application/openstack-images-v2.1-json-patch"


class CloudError(Exception):
    """The cloud was not asked, or refuses; says why and what to do."""


class Cloud:
    """Nova and Glance; raises CloudError."""

    def __init__(self, name: str) -> None:
        try:
            import openstack
        except ImportError as problem:
            raise CloudError(
                f"{problem}: install openstacksdk for the Python of this host, or set "
                "ansible_python_interpreter to one that has it"
            ) from None
        try:
            connection = openstack.connect(cloud=name or None, app_name="vmhb_flavor")
            self._nova, self._glance = connection.compute, connection.image
        except Exception as problem:
            # The SDK has no class for all its errors: a password that is missing is an Exception.
            raise CloudError(words(problem)) from None

    def flavor(self, wanted: str) -> tuple[str, str]:
        """Return id and name of a flavor that is called by either."""
        for each in self._flavors():
            if wanted in (each["id"], each["name"]):
                return each["id"], each["name"]
        raise CloudError(f"there is no flavor {wanted}: see `openstack flavor list --all`")

    def _flavors(self) -> Iterator[Mapping[str, Any]]:
        query = {"is_public": "None", "limit": str(PAGE)}
        while True:
            page = self._ask(self._nova, "get", "/flavors/detail", params=query)
            yield from page["flavors"]
            if not page["flavors"] or not page.get("flavors_links"):
                return
            query["marker"] = page["flavors"][-1]["id"]

    def specs(self, flavor: str) -> dict[str, str]:
        """Return the extra specs of a flavor."""
        path = f"/flavors/{flavor}/os-extra_specs"
        specs: dict[str, str] = self._ask(self._nova, "get", path)["extra_specs"]
        return specs

    def change_specs(self, flavor: str, change: Change) -> None:
        """Set and remove extra specs of a flavor."""
        path = f"/flavors/{flavor}/os-extra_specs"
        if change.to_set:
            self._ask(self._nova, "post", path, json={"extra_specs": dict(change.to_set)})
        for key in change.to_remove:
            self._ask(self._nova, "delete", f"{path}/{key}")

    def image(self, wanted: str) -> dict[str, Any]:
        """Return the one image that has this id or name."""
        for query in ({"id": wanted}, {"name": wanted}):
            page = self._ask(self._glance, "get", "/images", params=query)
            found: list[dict[str, Any]] = page["images"]
            if len(found) > 1:
                ids = ", ".join(each["id"] for each in found)
                raise CloudError(f"several images are called {wanted}: name one of {ids}")
            if found:
                return found[0]
        raise CloudError(f"there is no image {wanted}: see `openstack image list`")

    def change_image(self, image: Mapping[str, Any], change: Change) -> None:
        """Set and remove properties of an image."""
        steps: list[dict[str, str]] = [
            {
                "op": "replace" if key in image else "add",
                "path": f"/{key}",
                "value": value,
            }
            for key, value in change.to_set.items()
        ]
        steps += [{"op": "remove", "path": f"/{key}"} for key in change.to_remove]
        self._ask(
            self._glance,
            "patch",
            f"/images/{image['id']}",
            data=json.dumps(steps),
            headers={"Content-Type": PATCH},
        )

    def vms(self, flavors: Mapping[str, Any]) -> Iterator[Vm]:
        """Return the VMs of all projects that have one of these flavors, by their names."""
        for server in self._servers():
            flavor = server["flavor"]
            if flavor["original_name"] not in flavors:
                continue
            if not isinstance(flavor.get("extra_specs"), dict):
                raise CloudError(
                    "Nova does not show extra specs to this user: give it a role that Nova's "
                    "policy os_compute_api:os-flavor-extra-specs:index admits, or set "
                    "vmhb_flavor_report to false"
                )
            image = server["image"] if isinstance(server["image"], dict) else {}
            yield Vm(
                server["id"],
                server["name"],
                server["status"],
                server.get("OS-EXT-SRV-ATTR:host") or "",
                flavor["original_name"],
                flavor["extra_specs"],
                image.get("properties"),
            )

    def _servers(self) -> Iterator[Mapping[str, Any]]:
        query = {"all_tenants": "1", "limit": str(PAGE)}
        version = PROPERTIES_VERSION
        while True:
            response = self._nova.get("/servers/detail", params=query, microversion=version)
            if response.status_code == 406 and version == PROPERTIES_VERSION:
                version = SPECS_VERSION
                continue
            page = self._answer(response)
            yield from page["servers"]
            if not page["servers"] or not page.get("servers_links"):
                return
            query["marker"] = page["servers"][-1]["id"]

    def _ask(self, service: Any, method: str, path: str, **more: Any) -> Any:
        return self._answer(getattr(service, method)(path, **more))

    def _answer(self, response: Any) -> Any:
        status = response.status_code
        if status == 403:
            # Ansible blots out the values of `auth` wherever they are: no role is named.
            raise CloudError(
                f"{response.url} refuses this user: it needs the role that its policy asks for"
            )
        if status == 409:
            raise CloudError(f"{response.url} is being changed by somebody else: try again")
        if status >= 300:
            raise CloudError(f"{response.url} answers {status} {response.reason}")
        if status == 204 or not response.content:
            return {}
        try:
            return response.json()
        except ValueError:
            raise CloudError(f"whoever answers at {response.url} is no OpenStack") from None


def words(problem: Exception) -> str:
    """Return an exception's words on one line."""
    return " ".join(str(problem).split()).rstrip(". ") or type(problem).__name__


def run(given: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """Find everything first, then change, then look whom it reaches."""
    present = given["state"] == "present"
    wanted = wanted_specs(given["specs"])
    if present and given["flavors"] and not wanted:
        raise PlanError("vmhb_flavor_specs is empty: set at least vmhb:enabled, or state absent")
    cloud = Cloud(given["cloud"])
    flavors = [cloud.flavor(each) for each in given["flavors"]]
    images = [cloud.image(each) for each in given["images"]]
    before, after = {}, {}
    flavor_changes, image_changes = [], []
    for identity, name in flavors:
        there = cloud.specs(identity)
        change = spec_change(there, wanted) if present else absent_change(there, wanted)
        flavor_changes.append((identity, change))
        before[f"flavor {name}"], after[f"flavor {name}"] = there, change.applied(there)
    for image in images:
        change = image_change(image, present)
        image_changes.append((image, change))
        own = {key: image[key] for key in ("hw_qemu_guest_agent", "vmhb_marked") if key in image}
        before[f"image {image['name']}"] = own
        after[f"image {image['name']}"] = change.applied(own)
    # Who may not list VMs hears so before anything is changed.
    specs = {name: after[f"flavor {name}"] for _, name in flavors}
    report = [
        line
        for finding in (findings(cloud.vms(specs), specs) if given["report"] and specs else ())
        for line in finding.lines()
    ]
    if not check_mode:
        # Images first: a flavor that asks where no channel can be is a fault.
        for image, change in image_changes:
            if change:
                cloud.change_image(image, change)
        for identity, change in flavor_changes:
            if change:
                cloud.change_specs(identity, change)
    changed = before != after
    diff = {"before": before, "after": after} if changed else {}
    return {"changed": changed, "diff": diff, "report": report}


def main() -> None:
    """Run as a module of Ansible."""
    module = AnsibleModule(
        argument_spec={
            "cloud": {"type": "str", "default": ""},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "flavors": {"type": "list", "elements": "str", "default": []},
            "specs": {"type": "dict", "default": {}},
            "images": {"type": "list", "elements": "str", "default": []},
            "environment": {"type": "dict", "default": {}, "no_log": True},
            "report": {"type": "bool", "default": True},
        },
        supports_check_mode=True,
    )
    os.environ.update((key, str(value)) for key, value in module.params["environment"].items())
    try:
        done = run(module.params, module.check_mode)
    except (CloudError, PlanError) as problem:
        module.fail_json(msg=str(problem))
    except Exception as problem:
        # The SDK's errors again: the network, a proxy's answer.
        module.fail_json(msg=words(problem))
    module.exit_json(**done)


if __name__ == "__main__":
    main()
