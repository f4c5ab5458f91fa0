# SPDX-License-Identifier: Apache-2.0
# The parts of script/test by name; the tools are those that script/setup test installs.
bin := .lab/venv/dev/bin

.PHONY: help setup style types imports words roles test e2e molecule check check-all demo news

help: ## Show this list
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' $(MAKEFILE_LIST)

setup: ## Install what the tests need (as root, Debian 12)
	script/setup test

style: ## Lint, and look whether the code is formatted
	$(bin)/ruff check
	$(bin)/ruff format --check

types: ## Check the types
	$(bin)/mypy

imports: ## Check the layers
	PYTHONPATH=.:guest $(bin)/lint-imports --no-logo

words: ## Check the spelling
	$(bin)/codespell

roles: ## Lint the Ansible roles and playbooks
	PATH=$(CURDIR)/.lab/venv/ansible/bin:$$PATH ansible-lint -q

test: ## Run the tests that need no lab, but for the long ones
	$(bin)/pytest -m 'not long' tests/unit tests/simulation

e2e: ## Run the tests that need collectd, a broker, or the whole lab, the long ones too
	$(bin)/pytest tests/integration
	$(bin)/pytest tests/controller
	$(bin)/pytest tests/e2e

molecule: ## Run the Ansible roles on test nodes, in all scenarios
	script/molecule

check: ## Run everything but the long tests
	script/test

check-all: ## Run everything: what must be green before a merge
	script/test --all

demo: ## Show the main job on real parts
	script/demo

news: ## Show the changes since the last release
	$(bin)/towncrier build --draft --version unreleased
