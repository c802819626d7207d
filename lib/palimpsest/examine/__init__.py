"""What the project can do with a model of the reader's own, and why not: by the checks of the commands themselves."""

from pathlib import Path

from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoConfig,
)

from palimpsest.data import adapters, pairs
from palimpsest.data.folders import reading
from palimpsest.runs.paths import DATA

from . import classifiers, language
from .findings import Findings, Use


def examine(name: str, forget: Path | None = None, retain: Path | None = None) -> Findings:
    """What can be done with the model `name`: a folder, also of a LoRA adapter, one of the shipped decoding models
    (`data.pairs.FOLDERS`), or a hub identifier where PALIMPSEST_ALLOW_HUB is 1.

    forget, retain: JSON lines with question and answer that a language model is tried with; None takes the shipped
    ones on the capital of France. Raises ValueError where `name` holds no model that can be read, or one that is
    neither a causal language model nor an image classifier.
    """
    if name in pairs.FOLDERS:
        name = str(DATA / pairs.FOLDERS[name])
    base = adapters.base_of("model", name)
    with reading("model", base) as options:
        config = AutoConfig.from_pretrained(base, **options)
    if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING or type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        capital = DATA / "capital"
        return language.findings(name, config, forget or capital / "forget.jsonl", retain or capital / "retain.jsonl")
    if type(config) in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING:
        return classifiers.findings(name, config)
    want = "want a causal language model or an image classifier of transformers"
    raise ValueError(f"model: got {name}, a {config.model_type}; {want}")


__all__ = ["Findings", "Use", "examine"]
