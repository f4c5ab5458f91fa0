# SPDX-License-Identifier: Apache-2.0
"""`vmhb-guest status` and `vmhb-guest busy`: what root asks of the running agent."""

import argparse
import json
import os
import socket
import sys
from typing import Any, Dict, List

from .config import Settings

#: Seconds that the agent may take to answer.
PATIENCE = 5.0


class NoAgentError(Exception):
    """Nobody answers; the text says what to look at."""


def status(arguments: List[str]) -> int:
    """Show how the agent stands: 0 if it has a session, 1 if not, 2 if there is no agent."""
    parser = argparse.ArgumentParser(prog="vmhb-guest status", description=status.__doc__)
    parser.add_argument("--json", action="store_true", help="as one line of JSON")
    _add_run_dir(parser)
    options = parser.parse_args(arguments)
    try:
        answer = _ask(options.run_dir, {"msg_type": "status"})
    except NoAgentError as error:
        sys.stderr.write("vmhb-guest: %s\n" % error)
        return 2
    sys.stdout.write((json.dumps(answer) if options.json else "\n".join(_lines(answer))) + "\n")
    return 0 if answer["session"] == "enabled" else 1


def busy(arguments: List[str]) -> int:
    """Tell the compute node that the VM will be slow on purpose, or (--for 0) that this is over."""
    parser = argparse.ArgumentParser(prog="vmhb-guest busy", description=busy.__doc__)
    parser.add_argument(
        "--for", dest="seconds", type=float, required=True, metavar="SECONDS", help="3600 at most"
    )
    parser.add_argument("--reason", default="", help="for people")
    _add_run_dir(parser)
    options = parser.parse_args(arguments)
    question = {"msg_type": "busy", "for_ms": int(options.seconds * 1000), "reason": options.reason}
    try:
        answer = _ask(options.run_dir, question)
    except NoAgentError as error:
        sys.stderr.write("vmhb-guest: %s\n" % error)
        return 2
    if not answer["ok"] or not answer["told"]:
        sys.stderr.write(
            "vmhb-guest: %s\n" % answer.get("error", "this compute node does not want to know")
        )
        return 1
    return 0


def _add_run_dir(parser: argparse.ArgumentParser) -> None:
    default = Settings().run_dir
    parser.add_argument(
        "--run-dir", default=default, help="where the agent's sockets are (%s)" % default
    )


def _ask(run_dir: str, question: Dict[str, Any]) -> Dict[str, Any]:
    path = os.path.join(run_dir, "control.sock")
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(PATIENCE)
            connection.connect(path)
            connection.sendall(json.dumps(question).encode("ascii") + b"\n")
            with connection.makefile("rb") as answers:
                answer = json.loads(answers.readline().decode("utf-8"))
    except PermissionError:
        raise NoAgentError("%s: only root may ask" % path) from None
    except (OSError, ValueError) as error:
        raise NoAgentError("no agent answers at %s (%s): does it run?" % (path, error)) from None
    return dict(answer)


def _lines(answer: Dict[str, Any]) -> List[str]:
    connected = "connected" if answer["connected"] else "no host"
    lines = [
        "port %s: %s" % (answer["port"], connected),
        "session: %s, interval %g s" % (answer["session"], answer["interval_ms"] / 1000),
    ]
    for check in answer["checks"]:
        age = check["since_ms"] / 1000
        lines.append("%s: %s for %.0f s: %s" % (check["name"], check["status"], age, check["text"]))
    return lines + ["%s: no result yet" % name for name in answer["without_result"]]
