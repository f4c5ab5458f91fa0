# SPDX-License-Identifier: Apache-2.0
"""The command `vmhb-vitrage`: what there is to do about Vitrage besides sending alarms.

Exit status: 0 done, 1 not done (one line on stderr says why), 2 wrong usage. `reconcile` has its
own: 0 equal, 1 different, 2 cannot tell.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from vitrage_notifier.rca_templates import DEFAULT, TemplateError
from vitrage_notifier.vitrage_api import VitrageError, connect


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status."""
    options = _parser().parse_args(arguments)
    try:
        status: int = options.run(options)
    except (TemplateError, VitrageError) as problem:
        sys.stderr.write(f"vmhb-vitrage: {problem}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    return status


def say(text: str) -> None:
    """Print one line at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vmhb-vitrage", description="VM heartbeat alarms and Vitrage: proof, care, templates."
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_templates(commands)
    return parser


def _add_templates(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    templates = commands.add_parser("templates", help="our RCA templates in Vitrage")
    actions = templates.add_subparsers(metavar="ACTION", required=True, dest="action")
    install = actions.add_parser("install", help="validate and add them, or bring them up to date")
    install.add_argument(
        "--workflow", default="", help="Mistral workflow that vmhb_workflow starts"
    )
    install.add_argument("names", nargs="*", metavar="NAME", help=f"default: {' '.join(DEFAULT)}")
    actions.add_parser("list", help="what there is, and how it stands in Vitrage")
    remove = actions.add_parser("remove", help="remove ours, and nothing else")
    remove.add_argument("names", nargs="*", metavar="NAME", help="default: all of ours")
    templates.set_defaults(run=_templates, names=(), workflow="")


def _templates(options: argparse.Namespace) -> int:
    from vitrage_notifier import rca_templates

    rca_templates.run(connect(), options.action, options.names, options.workflow, say)
    return 0


if __name__ == "__main__":
    sys.exit(main())
