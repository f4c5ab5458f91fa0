# SPDX-License-Identifier: Apache-2.0
"""Answers heartbeat challenges from inside a VM and reports the health checks it runs there."""

__version__ = "0.1.0"
