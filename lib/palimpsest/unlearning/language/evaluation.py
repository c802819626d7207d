"""What a language model knows of sets of questions: losses of given answers, answers of its own, TOFU's scores.

For any decoder of transformers whose logits are hidden states times an embedding (`nets.language`). Nothing is drawn
at random, no gradient is recorded, and the model is left in the mode (training or not) it was in.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from statistics import fmean

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import DynamicCache, PreTrainedTokenizerBase

from palimpsest.data.questions import Questions
from palimpsest.metrics import tofu
from palimpsest.metrics.generation import rouge_l_recall
from palimpsest.nets import language
from palimpsest.nets.caches import require_cached, takes
from palimpsest.nets.language import IGNORED, Encoded

BATCH = 64
"""Rows in a forward pass."""

CHOICE = ("real_authors", "world_facts")
"""Sets whose probability is taken against their wrong answers, as TOFU takes it."""

UTILITY = ("retain", *CHOICE)
"""Sets that make up the model utility."""


def token_logprobs(model: nn.Module, encoded: Encoded) -> Tensor:
    """`language.logprobs` in batches: [N, T] on the CPU, 0 where the label is IGNORED."""
    return _by_batch(model, encoded, language.logprobs)


def answer_losses(model: nn.Module, encoded: Encoded) -> Tensor:
    """Mean negative log-likelihood of each answer's tokens, its end included: [N] on the CPU, in nats, >= 0.

    Raises ValueError where the model's hidden states are not finite.
    """
    counted = (encoded.labels != IGNORED).sum(1).cpu()
    # A certain token's log-probability may be rounded to just above 0.
    return (-token_logprobs(model, encoded).sum(1) / counted).clamp(min=0)


def probability(model: nn.Module, encoded: Encoded) -> float:
    """Mean over questions of exp(−mean token loss) of the right answer."""
    return float(tofu.probability(answer_losses(model, encoded)).mean())


def wrong_losses(
    model: nn.Module, questions: Questions, encode: Callable[[Sequence[str], Sequence[str]], Encoded]
) -> Tensor:
    """`answer_losses` of the wrong answers, [questions, wrong answers of each]; `encode`: (questions, answers) ->
    sequences."""
    count = len(questions.perturbed[0])
    asked = [question for question in questions.question for _ in range(count)]
    wrong = [answer for answers in questions.perturbed for answer in answers]
    return answer_losses(model, encode(asked, wrong)).view(-1, count)


def predicted_tokens(model: nn.Module, encoded: Encoded) -> Tensor:
    """The likeliest token at each position whose label counts, [N, T] int64 on the CPU, IGNORED elsewhere: what
    `tofu.exact_memorisation` and `tofu.extraction_strength` compare with the labels."""

    def predict(model, batch):
        counted = batch.labels != IGNORED
        tokens = (language.hidden(model, batch.ids)[counted] @ language.output_embedding(model).T).argmax(1)
        return torch.full_like(batch.labels, IGNORED).masked_scatter(counted, tokens)

    return _by_batch(model, encoded, predict, IGNORED)


def logprob_moments(model: nn.Module, encoded: Encoded) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of ln p(k) over tokens k drawn from the model's own distribution, at each position
    whose label counts: [N, T] each on the CPU, in nats, 0 elsewhere. For `text_membership.min_k_plus_plus`."""

    def moments(model, batch):
        counted = batch.labels != IGNORED
        logs = (language.hidden(model, batch.ids)[counted] @ language.output_embedding(model).T).log_softmax(1)
        p = logs.exp()
        mean = (p * logs).sum(1, keepdim=True)
        deviation = (p * (logs - mean).square()).sum(1, keepdim=True).sqrt()
        found = torch.cat([mean, deviation], 1)
        return found.new_zeros(*batch.labels.shape, 2).masked_scatter(counted[..., None], found)

    return _by_batch(model, encoded, moments).unbind(2)


@torch.no_grad()
def generate(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[str],
    max_new_tokens: int,
    template: str | None = None,
) -> list[str]:
    """The model's own answer to each question, greedy, without special tokens and outer spaces.

    An answer ends at the tokenizer's end of text, at that of the chat template's turn (`language.answer_end`), at one
    that the model's generation settings name, or after `max_new_tokens`. Rows are padded on the left and leave the
    batch when they end. `template` as in `language.encode`. Raises ValueError where the longest question and
    `max_new_tokens` exceed the model's context, and for a model that does not write on from a cache
    (`nets.caches.require_cached`).
    """
    require_cached(model)
    prompts = language.prompt_ids(tokenizer, questions, template)
    longest, context = max(map(len, prompts), default=0), language.context(model)
    if max_new_tokens < 1 or longest + max_new_tokens > context:
        raise ValueError(f"max_new_tokens: got {max_new_tokens}, want 1 ... {context - longest} in this context")
    named = model.generation_config.eos_token_id
    own = tokenizer.eos_token_id, language.answer_end(tokenizer, template)
    stops = {*own, *(named if isinstance(named, list) else [named])} - {None}
    stops = torch.tensor(sorted(stops), device=model.device)
    texts = [""] * len(prompts)
    with _evaluating(model):
        for rows in _batches(model, prompts):
            for row, ids in zip(rows, _greedy(model, [prompts[r] for r in rows], stops, max_new_tokens), strict=True):
                texts[row] = tokenizer.decode(ids, skip_special_tokens=True).strip()
    return texts


def evaluate(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    sets: dict[str, Questions],
    template: str | None = None,
    max_new_tokens: int | None = None,
) -> dict:
    """TOFU's scores (`metrics.tofu`) of every set, item by item, and the utility where the sets for it are given.

    Questions are asked in their first form. The model may write `max_new_tokens`; None lets it write as many as the
    set's longest right answer has, with its end: an answer worded as the right one is never cut off, and a model that
    does not stop costs little. That is ours, for models that were trained on every set; one that says in a sentence
    what the right answer says in a name needs more. (The code released with TOFU stops at 200 tokens, question
    included.)

    Returns values that JSON takes:
        sets: name -> loss [n] of the right answer in nats; probability [n] (`tofu.choice_probability` for the names
            in CHOICE); rouge [n]; generated [n] texts; where the set has wrong answers, truth_ratio [n] too.
        scores, utility: with all sets of UTILITY, the nine means by "<set> <score>" and `tofu.model_utility`.

    Raises ValueError for a set of UTILITY without wrong answers, for unequal numbers of them, for texts longer than
    the model's context, and where the model's hidden states are not finite.
    """
    found = {
        "sets": {name: _evaluate_set(model, tokenizer, name, sets[name], template, max_new_tokens) for name in sets}
    }
    if set(UTILITY) <= sets.keys():
        scores = {}
        for name in UTILITY:
            items = found["sets"][name]
            scores[f"{name} probability"] = fmean(items["probability"])
            scores[f"{name} rouge"] = fmean(items["rouge"])
            scores[f"{name} truth"] = fmean(tofu.truth_score(items["truth_ratio"]))
        found |= {"scores": scores, "utility": tofu.model_utility(list(scores.values()))}
    return found


def _evaluate_set(model, tokenizer, name, questions, template, most):
    def encode(asked, answers):
        return language.encode(tokenizer, asked, answers, language.context(model), template)

    right = encode(questions.question, questions.answer)
    wrong_each = {len(answers) for answers in questions.perturbed}
    if len(wrong_each) > 1 or (wrong_each == {0} and name in UTILITY):
        raise ValueError(f"sets[{name!r}]: got {sorted(wrong_each)} wrong answers a question, want as many for each")
    loss, (m,) = answer_losses(model, right), wrong_each
    most = int((right.labels != IGNORED).sum(1).max()) if most is None else most
    generated = generate(model, tokenizer, questions.question, most, template)
    found = {"loss": loss, "probability": tofu.probability(loss)}
    found["rouge"] = rouge_l_recall(questions.answer, generated)
    if m:
        perturbed = wrong_losses(model, questions, encode)
        paraphrased = answer_losses(model, encode(questions.question, questions.paraphrased))
        found["truth_ratio"] = tofu.truth_ratio(paraphrased, perturbed)
        if name in CHOICE:
            found["probability"] = tofu.choice_probability(loss, perturbed)
    return {key: values.tolist() for key, values in found.items()} | {"generated": generated}


def _batches(model: nn.Module, prompts: list[list[int]]) -> Iterator[list[int]]:
    """Rows of like length; of one length for a model that counts positions by itself, and so counts padding."""
    order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
    for _, alike in groupby(order, lambda row: takes(model, "position_ids") or len(prompts[row])):
        rows = list(alike)
        yield from (rows[start : start + BATCH] for start in range(0, len(rows), BATCH))


def _greedy(model, prompts, stops, most) -> list[list[int]]:
    """The tokens that follow each prompt, without the stop."""
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts], device=model.device)
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=model.device)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    cache, written, going = DynamicCache(config=model.config), [[] for _ in prompts], list(range(len(prompts)))
    for _ in range(most):
        arguments = {"attention_mask": mask, "position_ids": positions, "past_key_values": cache}
        token = model(ids, use_cache=True, logits_to_keep=1, **arguments).logits[:, -1].argmax(1)
        kept = (~torch.isin(token, stops)).nonzero()[:, 0]
        going = [going[index] for index in kept.tolist()]
        if not going:
            break
        for row, new in zip(going, token[kept].tolist(), strict=True):
            written[row].append(new)
        if len(kept) < len(token):
            cache.reorder_cache(kept)  # the one way to select rows that layers with states offer too
        ids, positions = token[kept, None], positions[kept, -1:] + 1
        mask = F.pad(mask[kept], (0, 1), value=1)
    return written


@torch.no_grad()
def _by_batch(model, encoded, function, fill=0) -> Tensor:
    """`function(model, batch)` [n, t, ...] of all batches below each other, on the CPU, with `fill` to width T."""
    # Columns beyond a row's last label feed no prediction that counts; rows of like width share a batch.
    columns = torch.arange(1, encoded.labels.shape[1] + 1)
    widths = ((encoded.labels.cpu() != IGNORED) * columns).amax(1)
    order, parts = widths.argsort(stable=True), []
    with _evaluating(model):
        for rows in order.split(BATCH):
            width = int(widths[rows].max())
            batch = Encoded(encoded.ids[rows, :width], encoded.labels[rows, :width]).to(model.device)
            found = function(model, batch).cpu()
            further = found.new_full((len(rows), len(columns) - width, *found.shape[2:]), fill)
            parts.append(torch.cat([found, further], 1))
    return torch.cat(parts)[order.argsort()]


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    before = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(before)
