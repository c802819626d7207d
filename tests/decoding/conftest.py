"""Fixtures of more than one module."""

import pytest
import torch
from pairs import COUNT, PROMPT, llama, plain


@pytest.fixture(scope="session")
def models():
    return {dtype: llama(7, dtype=dtype, layers=1) for dtype in (torch.float32, torch.float64)}


@pytest.fixture(scope="session")
def references(models):
    """Plain decoding by whole-text forwards."""
    return {dtype: plain(model, PROMPT, COUNT) for dtype, model in models.items()}


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Folders of a target, its drafter, and a Llama of another vocabulary."""
    import commands  # brings the command line along, which the other tests do without

    return commands.folders(tmp_path_factory.mktemp("models"))
