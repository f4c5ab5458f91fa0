# SPDX-License-Identifier: Apache-2.0
"""The command `vmhb-nova-policy`: asks Nova for the extra specs of this host's VMs.

For Nova before release 32, which does not write them into the domain. It fills the policy file
that the engine reads; who runs it (a timer, a person) decides how old the file gets. Credentials
are those of clouds.yaml, or OS_* of the environment.

Exit status: 0 the file says what Nova says, 1 it stays as it was (one line on stderr says why),
2 wrong usage.
"""

from __future__ import annotations

import argparse
import logging
import os
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from collectd_vmhb import durable
from collectd_vmhb.policy import is_ours, policy_for
from collectd_vmhb.policy_file import NAME, parse, render
from collectd_vmhb.settings import Settings
from collectd_vmhb.sources import Policies
from collectd_vmhb.wording import shown

#: The first at which a server has its flavor's extra specs with it (Nova 16, Pike).
MICROVERSION = "2.47"
#: Seconds that Nova or Keystone may be silent.
SILENCE_MAX = 30.0
#: Servers a page; Nova's own limit is 1000 unless the operator lowered it.
PAGE = 1000
PAGES_MAX = 100
#: Where a server says on which host it is, to those who may know.
_HOST = "OS-EXT-SRV-ATTR:host"


class NovaError(Exception):
    """Nova was not asked, or did not answer; the text says why and what to do."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Brings the policy file up to date and returns the exit status."""
    options = _parser().parse_args(arguments)
    # The SDK's loggers speak up where nobody else listens; what matters comes as an error.
    logging.getLogger().addHandler(logging.NullHandler())
    try:
        _say(_run(options))
    except NovaError as error:
        sys.stderr.write(f"vmhb-nova-policy: {error}; {options.output} stays as it was\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("vmhb-nova-policy: interrupted\n")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vmhb-nova-policy",
        description="Writes the extra specs of this host's VMs, as Nova knows them, into the "
        "file from which the VM heartbeat engine takes what the domain XML does not say.",
    )
    parser.add_argument(
        "--os-cloud", metavar="NAME", help="entry of clouds.yaml (default: OS_CLOUD, or OS_*)"
    )
    host = socket.gethostname()
    parser.add_argument("--host", default=host, help=f"the host as Nova calls it (default: {host})")
    output = Settings.state_dir / NAME
    parser.add_argument(
        "--output", type=Path, default=output, metavar="FILE", help=f"(default: {output})"
    )
    parser.add_argument(
        "--timeout",
        type=_seconds,
        default=SILENCE_MAX,
        metavar="SECONDS",
        help=f"how long Nova or Keystone may be silent (default: {SILENCE_MAX:g})",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the file, write nothing")
    parser.add_argument("--verbose", action="store_true", help="a line for each VM on stderr")
    return parser


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{shown(text)}: a number from 0 to 3600 is allowed")
    return seconds


def _run(options: argparse.Namespace) -> str:
    policies = {}
    for server in _servers(options.os_cloud, options.host, options.timeout):
        uuid, specs = _policy(server)
        policies[uuid] = specs
        if options.verbose:
            words = " ".join(f"{shown(key)}={shown(value)}" for key, value in specs.items())
            sys.stderr.write(f"{uuid} {shown(str(server.get('name')))}: {words or '-'}\n")
    content = _checked(policies)
    if options.dry_run:
        return content.decode("ascii").rstrip()
    done = _write(options.output, content)
    enabled = sum(policy_for(specs, Settings()).policy is not None for specs in policies.values())
    return f"{len(policies)} VMs on {options.host}, {enabled} to be monitored; {done}"


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


# -- Nova -----------------------------------------------------------------------------------


def _servers(cloud: str | None, host: str, timeout: float) -> list[Mapping[str, Any]]:
    """Asks for the servers of a host; raises NovaError."""
    try:
        import openstack
    except ImportError as error:
        raise NovaError(f"{error}: install openstacksdk, or python3-openstacksdk") from None
    try:
        connection = openstack.connect(
            cloud=cloud, app_name="vmhb-nova-policy", api_timeout=timeout
        )
        nova = connection.compute
        servers = list(_listed(nova, host))
        if not servers:
            _check_host(nova, host)
    except NovaError:
        raise
    except Exception as error:
        # The SDK has no class for all its errors: a password that is missing is an Exception.
        raise NovaError(_words(error)) from None
    return servers


def _listed(nova: Any, host: str) -> Iterator[Mapping[str, Any]]:
    query = {"host": host, "all_tenants": "1", "limit": str(PAGE)}
    for _ in range(PAGES_MAX):
        answer = _get(nova, "/servers/detail", query)
        servers = _list(answer, "servers")
        if any(server.get(_HOST, host) != host for server in servers):
            raise NovaError(
                "Nova lists servers of other hosts as well: give this user a role that Nova's "
                "policy os_compute_api:servers:allow_all_filters admits"
            )
        yield from servers
        # Nova's own limit may be lower: what says that there are more is the link alone.
        if not servers or not answer.get("servers_links"):
            return
        query["marker"] = str(servers[-1].get("id"))
    raise NovaError(f"Nova's answer has no end: {PAGES_MAX} pages")


def _check_host(nova: Any, host: str) -> None:
    """Tells a host without VMs from one that Nova does not have, or cannot see now.

    Nova answers a wrong name, and one in a cell that is down, with an empty list.
    """
    answer = _get(nova, "/os-services", {"host": host, "binary": "nova-compute"})
    if not _list(answer, "services"):
        raise NovaError(
            f"Nova has no compute service on a host {shown(host)}: give --host as "
            f"`openstack compute service list` has it"
        )


def _get(nova: Any, path: str, query: Mapping[str, str]) -> Mapping[str, Any]:
    response = nova.get(path, params=query, microversion=MICROVERSION)
    status = response.status_code
    if status == 200:
        try:
            answer = response.json()
        except (ValueError, RecursionError):
            answer = None
        if isinstance(answer, dict):
            return answer
        raise NovaError(f"whoever answers at {response.url} is no Nova: no JSON object")
    if status in _REFUSALS:
        raise NovaError(_REFUSALS[status])
    raise NovaError(f"Nova answers {path} with status {status} {shown(str(response.reason))}")


_REFUSALS = {
    401: "Keystone's token is not accepted by Nova: are the credentials still valid?",
    403: "Nova refuses: this user may not list the servers of all projects by host; give it the "
    "role admin, or one that Nova's policy servers:detail:get_all_tenants, "
    "servers:allow_all_filters and os-services:list admits",
    404: "Nova's endpoint in Keystone's catalogue leads to nothing (status 404)",
    406: f"this Nova is older than 16 (Pike): it has no microversion {MICROVERSION}",
}


def _list(answer: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    found = answer.get(name)
    if isinstance(found, list) and all(isinstance(each, dict) for each in found):
        return found
    raise NovaError(f"Nova's answer makes no sense: it has no list of {name}")


def _words(error: Exception) -> str:
    """Returns an exception's words on one line."""
    text = " ".join(str(error).split())
    return shown(text or type(error).__name__, 400).rstrip(". ")


# -- the file -------------------------------------------------------------------------------


def _policy(server: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
    """Returns a server's UUID and those extra specs of its flavor that are ours."""
    uuid, flavor = server.get("id"), server.get("flavor")
    if not isinstance(uuid, str) or not isinstance(flavor, dict) or "original_name" not in flavor:
        raise NovaError(
            f"Nova's answer makes no sense: server {shown(str(uuid))} comes without its flavor"
        )
    specs = flavor.get("extra_specs")
    if not isinstance(specs, dict):
        raise NovaError(
            "Nova does not show extra specs to this user: give it a role that Nova's policy "
            "os_compute_api:os-flavor-extra-specs:index admits"
        )
    return uuid, {key: str(value) for key, value in specs.items() if is_ours(key)}


def _checked(policies: Policies) -> bytes:
    """Returns the file's content, as the engine will accept it."""
    content = render(policies)
    try:
        parse(content)
    except ValueError as error:
        raise NovaError(f"Nova's answer does not fit into the file: {error}") from None
    return content


def _write(path: Path, content: bytes) -> str:
    """Replaces the file if it says something else; its date says when it was last right."""
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        if path.exists() and path.read_bytes() == content:
            os.utime(path)
            return f"{path} says so already"
        durable.replace(path, content)
    except OSError as error:
        raise NovaError(f"{path} cannot be written: {error.strerror}") from None
    return f"{path} written"


if __name__ == "__main__":
    sys.exit(main())
