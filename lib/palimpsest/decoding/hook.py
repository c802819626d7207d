"""Tree decoding inside transformers' own `generate`, through its `custom_generate` argument."""

import math

import torch
from torch import Tensor
from transformers.generation import (
    EosTokenCriteria,
    GenerateDecoderOnlyOutput,
    GenerationMode,
    MaxLengthCriteria,
    TemperatureLogitsWarper,
)

from .generate import generate, generate_batch
from .policies import Policy
from .stats import Output


class TreeDecoding:
    """A decoding loop to hand to `generate` of a model of one's own:

        tree = decoding.TreeDecoding(drafter, policy="sage")
        sequences = model.generate(**inputs, max_new_tokens=64, custom_generate=tree)

    `generate` prepares its arguments as ever and leaves the loop to this object, which gives back what it would:
    prompt and new tokens [B, T], or a `GenerateDecoderOnlyOutput` with return_dict_in_generate. max_new_tokens,
    max_length, eos_token_id, pad_token_id, do_sample, temperature and num_return_sequences are honoured. Greedy
    tokens are those of plain `generate`; sampled ones have its distribution, but are other draws than those of
    torch's global generator.

    A batch needs its padding on the left and no pictures. It is decoded by `generate_batch` without the padding, so
    that a text does not depend on its neighbours.

    Args:
        drafter, policy: as for `decoding.generate`.
        seed: of the draws, as there; the same in every call.
        streamer: gets the prompt, then the tokens as they come. To be given here: `generate` of transformers 5.23
            does not pass its own `streamer` (nor `assistant_model`) on to such a loop.

    Raises `ValueError`, when called, for what would change the text and cannot be done exactly: logits processors
    (top_k among them, which transformers sets to 50 when sampling: pass top_k=0), other stopping criteria than
    length and end-of-text, beams and other search modes, scores and hidden states to be returned, a cache that is
    already filled, positions of one's own, a batch of pictures; and whatever `decoding.generate` refuses.
    """

    def __init__(self, drafter, *, policy: str | Policy = "sage", seed: int = 0, streamer=None):
        self.drafter, self.policy, self.seed, self.streamer = drafter, policy, seed, streamer
        self.outputs: list[Output] = []
        """Of the last call, one a sequence: its new tokens and its counts and times."""

    # `generate` takes the arguments named here out of its own, unlike the rest: with the pixels left to it, it would
    # run the target's vision tower on them and pass on its features only, which are of no use to the drafter.
    def __call__(
        self,
        model,
        input_ids: Tensor,
        *,
        logits_processor,
        stopping_criteria,
        generation_config,
        pixel_values=None,
        image_sizes=None,
        batch_num_images=None,
        image_grid_thw=None,
        mm_token_type_ids=None,
        **model_kwargs,
    ) -> Tensor | GenerateDecoderOnlyOutput:
        """Called by `generate`: see the class."""
        _check(logits_processor, stopping_criteria, generation_config)
        pictures = {
            "pixel_values": pixel_values,
            "image_sizes": image_sizes,
            "batch_num_images": batch_num_images,
            "image_grid_thw": image_grid_thw,
            "mm_token_type_ids": mm_token_type_ids,
        }
        prompts = _prompts(input_ids, pictures, model_kwargs)
        lengths = [rule.max_length for rule in stopping_criteria if isinstance(rule, MaxLengthCriteria)]
        ends = [rule.eos_token_id.tolist() for rule in stopping_criteria if isinstance(rule, EosTokenCriteria)]
        options = {
            "policy": self.policy,
            "max_new_tokens": min(lengths) - input_ids.shape[1],
            "temperature": 0.0 if not generation_config.do_sample else _temperature(logits_processor),
            "seed": self.seed,
            "stop_tokens": {token for one in ends for token in one},
        }
        if len(prompts) == 1:
            self.outputs = [self._streamed(model, prompts[0], input_ids, options)]
        elif self.streamer is not None:
            raise ValueError(f"streamer: got one with {len(prompts)} prompts, want a single prompt")
        else:
            self.outputs = generate_batch(model, self.drafter, prompts, **options)
        sequences = _padded(input_ids, self.outputs, generation_config)
        if generation_config.return_dict_in_generate:
            return GenerateDecoderOnlyOutput(sequences=sequences)
        return sequences

    def _streamed(self, model, prompt, input_ids, options):
        streamer = self.streamer
        if streamer is None:
            return generate(model, self.drafter, prompt, **options)
        streamer.put(input_ids.cpu())
        output = generate(
            model, self.drafter, prompt, callback=lambda new: streamer.put(torch.tensor(new)), **options
        )
        streamer.end()
        return output


def _check(logits_processor, stopping_criteria, config):
    for one in logits_processor:
        if not isinstance(one, TemperatureLogitsWarper):
            off = "want none but a temperature (top_k=0, top_p=1.0, repetition_penalty=1.0 … switch them off)"
            raise ValueError(f"logits_processor: got {type(one).__name__}, {off}")
    for one in stopping_criteria:
        if not isinstance(one, MaxLengthCriteria | EosTokenCriteria):
            raise ValueError(f"stopping_criteria: got {type(one).__name__}, want a length and end-of-text tokens")
    if (mode := config.get_generation_mode()) not in (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE):
        raise ValueError(f"generation_config: got the mode {mode.value!r}, want greedy search or sampling")
    for name in ("output_scores", "output_logits"):
        if getattr(config, name):
            raise ValueError(f"{name}: got True, want False: rejected branches and accepted ones are not told apart")


def _temperature(logits_processor):
    return math.prod(one.temperature for one in logits_processor)


def _prompts(input_ids, pictures, model_kwargs):
    """What `decoding.generate` takes, one per row: without padding, with the pictures, and with what is left over, so
    that the model's Decoder refuses what it does not know."""
    given = {name: value for name, value in {**pictures, **model_kwargs}.items() if value is not None}
    for name in ("use_cache", "logits_to_keep"):
        given.pop(name, None)
    if given.get("mm_encoder_outputs") == {}:
        del given["mm_encoder_outputs"]
    if given.pop("past_key_values", ()) and model_kwargs["past_key_values"].get_seq_length():
        raise ValueError("past_key_values: got a filled cache, want none")
    mask = given.pop("attention_mask", torch.ones_like(input_ids)).bool()
    if (mask[:, :-1] & ~mask[:, 1:]).any():
        raise ValueError("attention_mask: got padding behind or within a prompt, want it on the left only")
    positions = given.pop("position_ids", None)
    if positions is not None and (positions != (mask.cumsum(-1) - 1).clamp(min=0)).any():
        raise ValueError("position_ids: got others than 0, 1, 2, … from each prompt's start, want none")
    rows = [row[seen] for row, seen in zip(input_ids, mask, strict=True)]
    if len(rows) > 1 and pictures["pixel_values"] is not None:
        raise ValueError(f"pixel_values: got pictures with {len(rows)} sequences, want one (or generate_batch)")
    return [{"input_ids": row, **given} for row in rows]


def _padded(input_ids, outputs, config):
    longest = max(len(output.tokens) for output in outputs)
    pad = config._pad_token_tensor  # generate's own choice: the end-of-text token where there is no pad token
    new = input_ids.new_full((len(outputs), longest), 0 if pad is None else int(pad))
    for row, output in zip(new, outputs, strict=True):
        row[: len(output.tokens)] = torch.tensor(output.tokens)
    return torch.cat((input_ids, new), dim=1)
