# SPDX-License-Identifier: Apache-2.0
"""The command `vmhb-conformance`: tries the rules at a guest and prints how it did."""

import argparse
import json
import subprocess
import sys
import time
from typing import Callable, Dict, List, NamedTuple, Optional, TextIO

from . import __version__, rules
from .guest import CONDUCT, Guest
from .player import BrokenError, NotRunError, Player
from .port import Port, PortError, SocketPort, TtyPort, domain_socket
from .rules import Rule

DEFAULT_PORT_NAME = "org.openstack.vmhb.0"
PASSED, FAILED, NOT_DONE, NOT_RUN = "passed", "FAILED", "not done", "not run"
#: Exit codes: all is well, a rule was broken, the guest cannot be tried (argparse's for a mistake).
OK, BROKEN, USAGE = 0, 1, 2
#: Seconds that --stop-command and --busy-command may take.
COMMAND_TIMEOUT = 30.0


class Outcome(NamedTuple):
    """How one rule ended; `expected` and `seen` say more where it did not pass."""

    status: str
    group: str
    rule: str
    expected: str
    seen: str
    seconds: float


def main(arguments: Optional[List[str]] = None) -> int:
    """Try the rules and return the exit code."""
    options = _parser().parse_args(arguments)
    chosen = _chosen(options)
    if options.list:
        for rule in chosen:
            sys.stdout.write("%-9s %s%s\n" % (_group(rule), rule.name, _remark(rule)))
        for name in CONDUCT.values():
            sys.stdout.write("%-9s %s\n" % ("always", name))
        return OK
    # With --json the table goes where people look and programs do not.
    table = sys.stderr if options.json else sys.stdout
    try:
        guest = Guest(_port(options))
        outcomes = _run(guest, chosen, options, table)
    except PortError as error:
        sys.stderr.write("vmhb-conformance: %s\n" % error)
        return USAGE
    except KeyboardInterrupt:
        sys.stderr.write("vmhb-conformance: interrupted\n")
        return USAGE
    if options.json:
        _print_json(guest, outcomes)
    counts = ["%d %s" % (_count(outcomes, status), status) for status in (PASSED, FAILED)]
    counts += [
        "%d %s" % (_count(outcomes, status), status)
        for status in (NOT_DONE, NOT_RUN)
        if _count(outcomes, status)
    ]
    table.write("%s: %s\n" % (guest.name, ", ".join(counts)))
    return BROKEN if _count(outcomes, FAILED) else OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vmhb-conformance",
        description="Plays the host to a live guest and says which rules of the heartbeat "
        "protocol it keeps. Nobody else may be connected to the port meanwhile.",
        epilog="Exit code: 0 every rule was kept, 1 a rule was broken, 2 no guest to try.",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--socket", metavar="PATH", help="unix socket at which QEMU listens")
    where.add_argument("--tty", "--pty", metavar="PATH", help="serial line or pseudo terminal")
    where.add_argument("--domain", metavar="NAME", help="running libvirt domain")
    parser.add_argument("--connect", metavar="URI", help="libvirt to ask (the default one)")
    parser.add_argument(
        "--port-name", default=DEFAULT_PORT_NAME, help="port of the domain (%(default)s)"
    )
    parser.add_argument("--base", action="store_true", help="the published protocol alone")
    parser.add_argument("--quick", action="store_true", help="without the rules that take long")
    parser.add_argument(
        "--stop-command", metavar="COMMAND", help="shell command that stops the agent, run last"
    )
    parser.add_argument(
        "--busy-command",
        metavar="COMMAND",
        help="shell command that makes the guest busy for a few seconds (vmhb-guest busy --for 3)",
    )
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=float,
        default=1.0,
        help="how long an answer may take (%(default)s)",
    )
    parser.add_argument("--list", action="store_true", help="list the rules and exit")
    parser.add_argument("--json", action="store_true", help="print the outcome as JSON")
    parser.add_argument("--version", action="version", version="vmhb-conformance " + __version__)
    return parser


def _chosen(options: argparse.Namespace) -> List[Rule]:
    return [
        rule
        for rule in rules.load()
        if (rule.base or not options.base) and (rule.seconds < rules.SLOW or not options.quick)
    ]


def _port(options: argparse.Namespace) -> Port:
    if options.socket:
        return SocketPort(options.socket)
    if options.tty:
        return TtyPort(options.tty)
    if options.domain:
        return SocketPort(domain_socket(options.domain, options.connect, options.port_name))
    raise PortError("give the guest's port: --socket PATH, --tty PATH or --domain NAME")


def _run(
    guest: Guest, chosen: List[Rule], options: argparse.Namespace, table: TextIO
) -> List[Outcome]:
    player = Player(
        guest,
        options.timeout,
        _command("--stop-command", options.stop_command),
        _command("--busy-command", options.busy_command),
    )
    player.meet()
    outcomes = []
    try:
        for rule in chosen:
            _announce(rule)
            outcomes.append(_try(rule, player, guest))
            _print(outcomes[-1], table)
    finally:
        guest.hang_up()
    for name, rule_name in CONDUCT.items():
        expected, seen = guest.offences.get(name, ("", ""))
        status = FAILED if name in guest.offences else PASSED
        outcomes.append(Outcome(status, "always", rule_name, expected, seen, 0.0))
        _print(outcomes[-1], table)
    return outcomes


def _try(rule: Rule, player: Player, guest: Guest) -> Outcome:
    began = time.monotonic()
    status, expected, seen = PASSED, "", ""
    try:
        if not rule.base and not guest.extended:
            raise NotRunError("the guest does not offer the extension")
        if player.silent:
            raise NotRunError("the guest is silent")
        rule.play(player, guest)
    except BrokenError as failure:
        status, expected, seen = FAILED, failure.expected, failure.seen
        if rule.optional and not player.silent:
            status, seen = NOT_DONE, "%s (optional: %s)" % (seen, rule.optional)
    except NotRunError as reason:
        status, seen = NOT_RUN, str(reason)
    return Outcome(status, _group(rule), rule.name, expected, seen, time.monotonic() - began)


def _command(option: str, command: Optional[str]) -> Optional[Callable[[], None]]:
    """Return what runs the command of an option, or None if none was given."""
    if command is None:
        return None

    def run() -> None:
        try:
            subprocess.run(command, shell=True, timeout=COMMAND_TIMEOUT, check=True)  # noqa: S602
        except subprocess.SubprocessError as error:
            raise PortError("%s: %s" % (option, error)) from None

    return run


def _group(rule: Rule) -> str:
    return "base" if rule.base else "extension"


def _remark(rule: Rule) -> str:
    remarks = []
    if rule.seconds >= rules.SLOW:
        remarks.append("%d s" % rule.seconds)
    if rule.optional:
        remarks.append("optional: " + rule.optional)
    if rule.stops:
        remarks.append("needs --stop-command")
    return " (%s)" % "; ".join(remarks) if remarks else ""


def _announce(rule: Rule) -> None:
    """Tell a person at a terminal that the next line takes a while."""
    if sys.stderr.isatty() and rule.seconds >= rules.SLOW:
        sys.stderr.write("%s: about %d s ...\n" % (rule.name, rule.seconds))


def _print(outcome: Outcome, table: TextIO) -> None:
    """Print a line of the table as soon as it is known: it is the progress as well."""
    table.write("%-8s  %-9s  %s\n" % (outcome.status, outcome.group, outcome.rule))
    for label, text in (("expected", outcome.expected), ("seen", outcome.seen)):
        if text:
            table.write("%21s  %s: %s\n" % ("", label, text))
    table.flush()


def _print_json(guest: Guest, outcomes: List[Outcome]) -> None:
    document: Dict[str, object] = {
        "guest": guest.name,
        "caps": guest.caps,
        "rules": [dict(outcome._asdict(), status=outcome.status.lower()) for outcome in outcomes],
    }
    json.dump(document, sys.stdout, indent=2)
    sys.stdout.write("\n")


def _count(outcomes: List[Outcome], status: str) -> int:
    return sum(outcome.status == status for outcome in outcomes)


if __name__ == "__main__":
    sys.exit(main())
