# SPDX-License-Identifier: Apache-2.0
"""Tests a live guest against docs/protocol.md, from the host's end of its port."""

__version__ = "0.1.0"
