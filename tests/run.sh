#!/usr/bin/env bash
# Installs BoLID with what its tests need into .venv and runs lint, types and tests. Offline after installation.
set -euo pipefail
cd "$(dirname "$0")/.."
python3 -m venv .venv
.venv/bin/python -m pip install --quiet --editable ".[test]"
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/basedpyright --pythonpath .venv/bin/python --level error
# two processes, each with whole files: the tests keep one core busy
HF_HUB_OFFLINE=1 OMP_WAIT_POLICY=passive .venv/bin/python -m pytest -n 2 --dist loadfile "$@"
