"""Fixtures that several tests share."""

from __future__ import annotations

import pytest
import torch
from tiny_pipelines import make_mini, make_reference, make_xl

from bolid.pipeline import BoLIDPipeline
from bolid.pipeline_xl import BoLIDXLPipeline
from bolid.reference import Reference

torch.set_num_threads(1)  # tiny networks; more threads only fight each other


@pytest.fixture(scope="session")
def mini() -> BoLIDPipeline:
    """A tiny bolid-mini. Tests must leave it as they found it."""
    return make_mini()


@pytest.fixture(scope="session")
def xl() -> BoLIDXLPipeline:
    """A tiny SDXL BoLID."""
    return make_xl()


@pytest.fixture(scope="session")
def person() -> Reference:
    """A drawn person with exact key-points and parts."""
    return make_reference()
