# SPDX-License-Identifier: Apache-2.0
"""Where a VM's extra specs come from: the first source that knows decides, alone; pure.

The domain's XML (Nova 32 and later) comes before the policy file, and that before the stanza's
patterns of flavor names. A source that knows of a VM and has no extra specs for it knows that it
is not to be monitored: the next source is not asked.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from collectd_vmhb.domain import Domain
from collectd_vmhb.settings import FlavorPolicy
from collectd_vmhb.wording import shown

#: Instance UUID -> the extra specs of its flavor that are ours, none included.
Policies = Mapping[str, Mapping[str, str]]

XML = "the domain's XML"
FILE = "the policy file"
NOBODY = "nobody"


@dataclass(frozen=True)
class PoliciesRead:
    """What is in force of the policy file.

    ``written`` is the file's date in Unix time, None without one; ``error`` says why what is in
    force is not what the file says.
    """

    policies: Policies
    written: float | None = None
    error: str | None = None


NO_POLICIES = PoliciesRead({})


@dataclass(frozen=True)
class Told:
    """A VM's extra specs, None if nobody knows them; ``source`` says who told, for people."""

    extra_specs: Mapping[str, str] | None
    source: str


def extra_specs_of(domain: Domain, policies: Policies, patterns: Sequence[FlavorPolicy]) -> Told:
    """Asks the sources for a domain's extra specs, in their order."""
    instance = domain.instance
    if instance is not None and instance.extra_specs is not None:
        return Told(instance.extra_specs, XML)
    if domain.uuid in policies:
        return Told(policies[domain.uuid], FILE)
    if instance is not None and instance.flavor:
        for each in patterns:
            if fnmatch.fnmatchcase(instance.flavor, each.pattern):
                return Told(each.extra_specs, f'FlavorPolicy "{shown(each.pattern)}"')
    return Told(None, NOBODY)


class Sources:
    """The sources as they are now; ``patterns`` are the stanza's, ``read`` is the policy file."""

    def __init__(self, patterns: Sequence[FlavorPolicy]) -> None:
        self._patterns = patterns
        self.read = NO_POLICIES

    def told(self, domain: Domain) -> Told:
        """Returns a domain's extra specs (any thread)."""
        return extra_specs_of(domain, self.read.policies, self._patterns)
