# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from collectd_vmhb.domain import Domain, DomainState, Instance, parse_domain
from collectd_vmhb.policy import policy_for
from collectd_vmhb.settings import FlavorPolicy, Settings
from collectd_vmhb.sources import FILE, NOBODY, XML, Told, extra_specs_of

GOLDEN = sorted((Path(__file__).parents[2] / "fixtures/domain-xml").glob("nova-*.xml"))
ON, SLOW, OFF = {"vmhb:enabled": "true"}, {"vmhb:interval": "2"}, {"vmhb:enabled": "false"}
PATTERNS = (FlavorPolicy("hb.test*", OFF), FlavorPolicy("hb.*", {**ON, **SLOW}))


def vm(specs: Mapping[str, str] | None, flavor: str = "m1.small") -> Domain:
    instance = Instance("web", "p-1", flavor, specs)
    return Domain("vm", "instance-1", 1, DomainState.RUNNING, instance, (), True)


@pytest.mark.parametrize(
    ("domain", "policies", "expected"),
    [
        (vm(ON), {}, Told(ON, XML)),
        (vm(ON, "hb.a"), {"vm": OFF}, Told(ON, XML)),
        # What is known to have none is not asked of the next.
        (vm({}, "hb.a"), {"vm": ON}, Told({}, XML)),
        (vm(None), {"vm": ON}, Told(ON, FILE)),
        (vm(None, "hb.a"), {"vm": {}}, Told({}, FILE)),
        (vm(None), {"other": ON}, Told(None, NOBODY)),
        (vm(None, "hb.a"), {"other": ON}, Told({**ON, **SLOW}, 'FlavorPolicy "hb.*"')),
        (vm(None, "hb.test1"), {}, Told(OFF, 'FlavorPolicy "hb.test*"')),
        # A pattern is a shell's: its dot is a dot, upper and lower case differ.
        (vm(None, "hbx"), {}, Told(None, NOBODY)),
        (vm(None, "HB.a"), {}, Told(None, NOBODY)),
        (vm(None, ""), {}, Told(None, NOBODY)),
    ],
)
def test_the_first_source_that_knows_of_a_vm_decides_alone(
    domain: Domain, policies: Mapping[str, Mapping[str, str]], expected: Told
) -> None:
    assert extra_specs_of(domain, policies, PATTERNS) == expected


def test_a_domain_that_nova_did_not_make_has_the_file_alone() -> None:
    strange = Domain("vm", "pet", 1, DomainState.RUNNING, None, (), True)
    everything = (FlavorPolicy("*", ON),)
    assert extra_specs_of(strange, {}, everything) == Told(None, NOBODY)
    assert extra_specs_of(strange, {"vm": ON}, everything) == Told(ON, FILE)


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_a_vm_of_each_nova_release_is_monitored_from_the_source_that_it_leaves(path: Path) -> None:
    domain = parse_domain(path.read_text("utf-8"), DomainState.RUNNING, 1)
    patterns = (FlavorPolicy("m1.vm??", ON),)
    by_release = int(path.stem.split("-")[1].split(".")[0]) >= 32
    assert extra_specs_of(domain, {}, patterns).source == (
        XML if by_release else 'FlavorPolicy "m1.vm??"'
    )
    told = extra_specs_of(domain, {domain.uuid: {**ON, **SLOW}}, patterns)
    assert told.source == (XML if by_release else FILE)
    policy = policy_for(told.extra_specs, Settings()).policy
    assert policy is not None
    assert policy.interval == (1.0 if by_release else 2.0)


def test_after_an_upgrade_vms_of_both_kinds_live_on_one_host() -> None:
    started_since, from_before = vm({**ON, **SLOW}), vm(None)
    policies = {"vm": ON}
    assert extra_specs_of(started_since, policies, ()).source == XML
    assert extra_specs_of(from_before, policies, ()).source == FILE
