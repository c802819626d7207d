"""The words of the rule-written captions (`captions`), read from `data/captions/words.yaml`, which explains each."""

import yaml

from palimpsest.data import manifest
from palimpsest.runs.cache import LOADER

FOLDER = "captions"

_WORDS = yaml.load(manifest.verify(f"{FOLDER}/words.yaml").read_text(encoding="utf-8"), LOADER)

NOUNS = _WORDS["nouns"]
USES = _WORDS["uses"]
PREDICATES = _WORDS["predicates"]
ORDERS = _WORDS["orders"]
OPENERS = _WORDS["openers"]
SUBJECTS = _WORDS["subjects"]
SINGLE = _WORDS["single"]
PAIR = _WORDS["pair"]
CLOSERS = _WORDS["closers"]
PROMPTS = _WORDS["prompts"]
