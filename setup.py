# SPDX-License-Identifier: Apache-2.0
"""For tools that still ask for setup.py; everything it could say stands in pyproject.toml."""

from setuptools import setup

setup()
