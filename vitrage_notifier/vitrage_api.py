# SPDX-License-Identifier: Apache-2.0
"""Vitrage's API as the commands need it, through python-vitrageclient; every error says what to do.

Who asks is read from the environment, as by the command `vitrage`: OS_* for Keystone, or
OS_AUTH_TYPE=vitrage-noauth with VITRAGE_USER_ID, VITRAGE_PROJECT_ID, VITRAGE_ROLES and
VITRAGE_ENDPOINT.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import os
from collections.abc import Iterator
from typing import Any

#: Seconds that one answer may take.
TIMEOUT = 30.0
#: Alarms that are asked for at once.
PAGE = 1000
#: What stands in OS_AUTH_TYPE where Vitrage has no Keystone.
NO_KEYSTONE = "vitrage-noauth"

Row = dict[str, Any]

# What goes wrong is said once, by us.
logging.getLogger("keystoneauth").addHandler(logging.NullHandler())


class VitrageError(Exception):
    """Vitrage cannot be asked, or refuses; the text says why and what to do."""


class NoPermissionError(VitrageError):
    """Vitrage answers, but not to this user."""


class NotAvailableError(VitrageError):
    """The API answers, the service behind it does not."""


class Vitrage:
    """Asks one Vitrage; raises VitrageError."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def alarms(self) -> list[Row]:
        """Return all alarms of all projects, as `vitrage alarm list --all` shows them."""
        rows: list[Row] = []
        while True:
            last = rows[-1]["vitrage_id"] if rows else None
            with _explained():
                page = self._client.alarm.list("all", all_tenants=True, limit=PAGE, marker=last)
            rows += page
            if len(page) < PAGE:
                return rows

    def graph(self) -> list[Row]:
        """Return all vertices that vitrage-graph has in memory, of all projects."""
        with _explained():
            graph = self._client.topology.get(graph_type="graph", all_tenants=True)
        vertices: list[Row] = graph["nodes"]
        return vertices

    def templates(self) -> list[Row]:
        """Return the templates that are installed."""
        with _explained():
            templates: list[Row] = self._client.template.list()
        return templates

    def template(self, uuid: str) -> Row:
        """Return the content of one template."""
        with _explained():
            content: Row = self._client.template.show(uuid)
        return content

    def validate_template(self, text: str) -> Row:
        """Return what Vitrage finds of a template in YAML."""
        with _explained():
            found: Row = self._client.template.validate(template_str=text)["results"][0]
        return found

    def add_template(self, text: str) -> Row:
        """Add a template in YAML; return what Vitrage makes of it."""
        with _explained():
            added: Row = self._client.template.add(template_str=text)[0]
        return added

    def delete_template(self, uuid: str) -> None:
        """Begin to delete a template."""
        with _explained():
            self._client.template.delete([uuid])


def connect() -> Vitrage:
    """Return the Vitrage that the environment names; VitrageError when it names none."""
    try:
        from keystoneauth1 import loading
        from vitrageclient.v1.client import Client
    except ImportError as problem:
        raise VitrageError(
            f"python-vitrageclient cannot be imported ({problem}): install "
            "python3-vitrageclient, or collectd-vmhb[verify] with pip"
        ) from None
    parser = argparse.ArgumentParser(add_help=False)
    loading.register_session_argparse_arguments(parser)
    loading.register_auth_argparse_arguments(parser, argv=[], default="password")
    options = parser.parse_args([])
    options.timeout = TIMEOUT
    with _explained():
        auth = loading.load_auth_from_argparse_arguments(options)
        session = loading.load_session_from_argparse_arguments(options, auth=auth)
    where = {
        "region_name": os.environ.get("OS_REGION_NAME"),
        "interface": os.environ.get("OS_INTERFACE"),
        "endpoint_override": os.environ.get("VITRAGE_ENDPOINT") or None,
    }
    return Vitrage(Client(session=session, **where))


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """Turn what the client raises into VitrageError, and swallow what it prints."""
    from keystoneauth1 import exceptions
    from vitrageclient.exceptions import ClientException

    try:
        # The client prints answers that are no JSON, such as a proxy's.
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    except exceptions.MissingRequiredOptions as problem:
        prefix = "VITRAGE" if os.environ.get("OS_AUTH_TYPE") == NO_KEYSTONE else "OS"
        missing = ", ".join(f"{prefix}_{each.dest.upper()}" for each in problem.options)
        raise VitrageError(
            f"{missing} missing in the environment: source an openrc file, or set "
            "OS_AUTH_TYPE=vitrage-noauth and VITRAGE_ENDPOINT where Vitrage has no Keystone"
        ) from None
    except exceptions.NoMatchingPlugin as problem:
        raise VitrageError(f"OS_AUTH_TYPE: {problem}") from None
    except ClientException as problem:
        raise _answered(problem) from None
    except exceptions.Unauthorized as problem:
        raise NoPermissionError(f"Keystone refuses the user: {problem}") from None
    except exceptions.ClientException as problem:
        raise VitrageError(f"Vitrage is not reached: {problem}") from None
    except OSError as problem:
        # Such as that of a file which does not exist.
        raise VitrageError(
            f"Vitrage is not reached: {problem}; check OS_CACERT, OS_CERT and OS_KEY"
        ) from None


def _answered(problem: Any) -> VitrageError:
    if problem.code in (401, 403):
        return NoPermissionError(
            f"Vitrage refuses: {problem}; the user needs the role that Vitrage's policy asks "
            "for, by default admin"
        )
    if problem.code >= 500:
        return NotAvailableError(
            f"Vitrage's API answers {problem}: does vitrage-graph run, and reach its broker?"
        )
    return VitrageError(f"Vitrage refuses: {problem}")
