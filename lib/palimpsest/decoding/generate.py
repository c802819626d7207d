"""The entrances: tree decoding of one request, or of several in one target forward per round."""

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from numbers import Integral, Real

import torch

from .batch import Batch
from .drafters import PADDING, Drafter, ModelDrafter
from .models import Decoder, adapt
from .policies import POLICIES, Policy
from .request import Request
from .stats import Clock, Output, Stats
from .verify import Chooser


def generate(
    target,
    drafter,
    inputs,
    *,
    policy: str | Policy,
    max_new_tokens: int,
    temperature: float = 0.0,
    seed: int = 0,
    stop_tokens: Collection[int] | None = None,
    callback: Callable[[Sequence[int]], None] | None = None,
    trace: bool = False,
) -> Output:
    """Decode with the target's own tokens, several per forward where the drafter guesses them.

    SAGE (arXiv 2602.00523), algorithm 1, with any policy: the text is that of plain decoding (policy
    "autoregressive"), whatever the drafter, policy and tree: the argmax at temperature 0, else the same draws, since
    the noise belongs to seed and position. This holds up to rounding: where two tokens' logits differ by less than
    a forward of several rows differs from one of a single row, either may come (bfloat16: such ties are common).

    Args:
        target: a causal model of transformers (eval mode, attention "sdpa" or "eager"), or a `Decoder`.
        drafter: a model of the same vocabulary, padded alike or not (see `ModelDrafter`), a `Decoder` or a `Drafter`;
            None will do for "autoregressive".
        inputs: the prompt, without padding: token numbers [n] or [1, n], or a mapping with "input_ids" and what else
            the model's class takes. Target and drafter get the same.
        policy: a name in `decoding.policies`, for its defaults, or a policy.
        max_new_tokens: from 1. The text ends there, in the middle of an accepted path if need be; no tree is deeper
            than what is left of it.
        temperature: 0 takes the argmax, other positive values divide the logits.
        seed: of the draws, 0 … 2⁶⁴ − 1; a draw depends on it and on the token's position, prompt included.
        stop_tokens: the text ends with the first of these; None takes the end-of-text tokens of the target's
            generation configuration, () none.
        callback: gets the new tokens as they come, the first alone and then those of a round.
        trace: keep every round in `stats.trace`.

    Returns:
        the new tokens, and counts and times. One target forward per round, and a round gives a token at least: never
        more target forwards than plain decoding. len(tokens) is 1 + sum(stats.accepted) + the bonus tokens: one a
        round, except where the text ended within the last round's path.

    Raises:
        ValueError: a model that cannot be used (see `Decoder`) or is in training mode, vocabularies that differ by
            more than padding, an unknown policy, no drafter where one is needed, a prompt that does not fit its
            model, arguments out of range, logits that are NaN or infinite where a token is taken, and a prompt that
            leaves less room than max_new_tokens in either model's context: this is refused before the first
            token, so that no tree ever overflows.
    """
    target, drafter, policy = adapt(target), _drafter(drafter), _policy(policy)
    _check(target, drafter, policy, max_new_tokens, temperature, seed)
    stats = Stats(trace=[] if trace else None)
    request = Request(
        drafter if policy.drafts else None,
        policy,
        Chooser(temperature, seed),
        Clock(stats.times),
        stats,
        most=max_new_tokens,
        stop_tokens=_stop_tokens(stop_tokens, target),
        callback=callback,
    )
    with torch.inference_mode():
        request.start(target, inputs)
        while not request.ended:
            logits = target.extend(*request.propose())
            target.commit(request.judge(logits))
            request.settle(logits)
    return Output(request.tokens, stats)


def generate_batch(
    target,
    drafter,
    inputs: Sequence,
    *,
    policy: str | Policy,
    max_new_tokens: int,
    temperature: float = 0.0,
    seed: int = 0,
    stop_tokens: Collection[int] | None = None,
    trace: bool = False,
) -> list[Output]:
    """`generate` for several requests: the target verifies their trees in one forward, padded to the largest.

    Each request has its own tree, length and end; one that has ended leaves the batch. Its tokens and counts are
    those of `generate` by itself, up to rounding. Prefills run one after the other, and so do the requests' drafters
    (`Drafter.fork`), whose levels differ. `stats.times` are the whole batch's, the same in every output.

    inputs: of each request what `generate` takes.
    seed: of the first request's draws; request i has seed + i, so that one prompt given twice gets two texts.
    The others are as there, for all alike.
    """
    target, drafter, policy = adapt(target), _drafter(drafter), _policy(policy)
    _check(target, drafter, policy, max_new_tokens, temperature, seed)
    if isinstance(inputs, Mapping | str) or not len(inputs):
        got = f"inputs: got {type(inputs).__name__} of {len(inputs)}"
        raise ValueError(f"{got}, want a sequence of at least one prompt")
    stop_tokens = _stop_tokens(stop_tokens, target)
    all_stats = [Stats(trace=[] if trace else None) for _ in inputs]
    clock = Clock(all_stats[0].times)
    for stats in all_stats:
        stats.times = all_stats[0].times
    requests = [
        Request(
            drafter.fork() if policy.drafts else None,
            policy,
            Chooser(temperature, (seed + i) % 2**64),
            clock,
            stats,
            most=max_new_tokens,
            stop_tokens=stop_tokens,
            callback=None,
        )
        for i, stats in enumerate(all_stats)
    ]
    with torch.inference_mode():
        decoders = [copy.copy(target) for _ in inputs]
        for request, decoder, one in zip(requests, decoders, inputs, strict=True):
            request.start(decoder, one)
        active, batch = requests, Batch(decoders)
        while True:
            going = [i for i, request in enumerate(active) if not request.ended]
            if not going:
                break
            if len(going) < len(active):
                active = [active[i] for i in going]
                batch.keep(going)
            logits = batch.extend([request.propose() for request in active])
            batch.commit([request.judge(own) for request, own in zip(active, logits, strict=True)])
            for request, own in zip(active, logits, strict=True):
                request.settle(own)
    return [Output(request.tokens, request.stats) for request in requests]


def _drafter(drafter):
    return drafter if drafter is None or isinstance(drafter, Drafter) else ModelDrafter(drafter)


def _policy(policy):
    if isinstance(policy, Policy):
        return policy
    if policy not in POLICIES:
        raise ValueError(f"policy: got {policy!r}, want a policy or one of {', '.join(map(repr, POLICIES))}")
    return POLICIES[policy]()


def _stop_tokens(stop_tokens, target: Decoder):
    if stop_tokens is None:
        ends = target.model.generation_config.eos_token_id
        return frozenset() if ends is None else frozenset([ends] if isinstance(ends, int) else ends)
    # Of a tensor the elements would be tensors, none of which a set takes for a number that equals it.
    tokens = stop_tokens.tolist() if isinstance(stop_tokens, torch.Tensor) else stop_tokens
    if not isinstance(tokens, Collection) or not all(isinstance(token, Integral) for token in tokens):
        raise ValueError(f"stop_tokens: got {stop_tokens!r}, want token numbers, or None for the model's own")
    return frozenset(tokens)


def _check(target, drafter, policy, max_new_tokens, temperature, seed):
    if drafter is None and policy.drafts:
        raise ValueError(f"drafter: got None, want a drafter, which {type(policy).__name__} needs")
    size = None if drafter is None else drafter.vocabulary
    if size is not None and abs(size - target.vocabulary) > PADDING:
        want = f"the target's {target.vocabulary}, give or take {PADDING} of padding"
        raise ValueError(f"drafter: got a vocabulary of {size} tokens, want {want}")
    _require_evaluation("target", target)
    if isinstance(drafter, ModelDrafter):
        _require_evaluation("drafter", drafter.decoder)
    if isinstance(drafter, ModelDrafter) and drafter.decoder is target:
        raise ValueError("drafter: got the target's own Decoder, want another (of the same model, if need be)")
    if isinstance(max_new_tokens, bool) or not isinstance(max_new_tokens, Integral) or max_new_tokens < 1:
        raise ValueError(f"max_new_tokens: got {max_new_tokens!r}, want an integer from 1")
    if isinstance(temperature, bool) or not isinstance(temperature, Real) or not 0 <= temperature < float("inf"):
        raise ValueError(f"temperature: got {temperature!r}, want a finite number from 0")
    if isinstance(seed, bool) or not isinstance(seed, Integral) or not 0 <= seed < 2**64:
        raise ValueError(f"seed: got {seed!r}, want an integer from 0 to 2**64 - 1")


def _require_evaluation(name, decoder):
    """Dropout would change the text from call to call, and from plain decoding's to a tree's."""
    model = decoder.model
    if isinstance(model, torch.nn.Module) and any(module.training for module in model.modules()):
        raise ValueError(f"{name}: got {type(model).__name__} in training mode, want model.eval()")
