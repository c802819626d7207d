"""Decoding by hand: a prompt, perhaps a picture, and the shipped pair or models of the reader's own."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TextStreamer

from palimpsest.data import caption_words, captions, fashion_mnist, pairs
from palimpsest.data.folders import one_line

from .drafters import Drafter
from .folders import model_of, prepared
from .generate import generate
from .policies import POLICIES
from .stats import Output
from .training_free import PromptLookup, TokenRecycling

WITHOUT_MODEL = {"lookup": PromptLookup, "recycling": TokenRecycling}
"""What `drafter` may name beside a model; a folder of such a name is `./lookup`."""
EXACT = (torch.float32, torch.float64)
"""Dtypes in which another text than plain decoding's is a fault. In the others ties by rounding are common."""


@dataclass(frozen=True)
class Arguments:
    """What is asked for, and of whom. Models are folders with safetensors, or hub identifiers where
    PALIMPSEST_ALLOW_HUB is 1.

    Without `target` the shipped pair answers: the vision-language one about `image` (a file) or `picture` (a row of
    the shipped Fashion-MNIST's test split), the text pair where neither is given. `drafter` may also be a key of
    WITHOUT_MODEL, and of the shipped pair it may be left out.
    """

    prompt: str
    target: str | None = None
    drafter: str | None = None
    image: Path | None = None
    picture: int | None = None
    policy: str = "sage"
    max_new_tokens: int = 128
    temperature: float = 0.0
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Loaded:
    """The models, read, and what they are given."""

    arguments: Arguments
    target: PreTrainedModel
    drafter: PreTrainedModel | type[Drafter]
    """A class is made anew for each decode: token recycling would carry what it has learnt into the next one."""
    inputs: Mapping[str, torch.Tensor]
    tokenizer: PreTrainedTokenizerBase

    def decode(self, policy: str, callback: Callable[[Sequence[int]], None] | None = None) -> Output:
        """The prompt under a policy of `decoding.policies`. ValueError as `generate`."""
        arguments = self.arguments
        return generate(
            self.target,
            self.drafter() if isinstance(self.drafter, type) else self.drafter,
            self.inputs,
            policy=policy,
            max_new_tokens=arguments.max_new_tokens,
            temperature=arguments.temperature,
            seed=arguments.seed,
            callback=callback,
        )

    def stream(self) -> Output:
        """The prompt under the policy that was asked for; the text goes to standard output as it comes."""
        streamer = WholeCharacters(self.tokenizer, skip_special_tokens=True)
        output = self.decode(self.arguments.policy, lambda tokens: streamer.put(torch.tensor(tokens)))
        streamer.end()
        return output


@dataclass(frozen=True)
class Row:
    """One policy's decode beside the plain one of the same prompt."""

    policy: str
    output: Output
    plain: Output

    @property
    def same(self) -> bool:
        """Whether every token is that of plain decoding."""
        return self.output.tokens == self.plain.tokens

    @property
    def tokens_per_second(self) -> float:
        """Without the prefills, and so without the first token, which comes of them; NaN for a single token."""
        return _over(len(self.output.tokens) - 1, _seconds(self.output))

    @property
    def time_ratio(self) -> float:
        """Seconds over those of plain decoding, both without prefills; NaN for a single token."""
        return _over(_seconds(self.output), _seconds(self.plain))


class WholeCharacters(TextStreamer):
    """transformers' printer of whole words, for a text that may be cut within a character of several tokens."""

    def on_finalized_text(self, text, stream_end=False):
        super().on_finalized_text(text.rstrip("\N{REPLACEMENT CHARACTER}") if stream_end else text, stream_end)


def load(arguments: Arguments) -> Loaded:
    """Read everything: the picture, then what prepares the inputs, and the weights last, which take the longest.

    Raises ValueError for an empty prompt, an unknown policy, a target without a drafter, a picture that is missing,
    none, or of no use to the target, and a model that cannot be read or lacks weights. Vocabularies, lengths and
    temperature are `generate`'s to check.
    """
    if not arguments.prompt.strip():
        raise ValueError(f"prompt: got {arguments.prompt!r}, want a question or an instruction")
    if arguments.policy not in POLICIES:
        raise ValueError(f"policy: got {arguments.policy!r}, want one of {', '.join(POLICIES)}")
    if arguments.target is not None and arguments.drafter is None:
        raise ValueError(f"drafter: got none beside a target, want a model, {' or '.join(WITHOUT_MODEL)}")
    picture = _picture(arguments)
    if arguments.target is None:
        return _shipped(arguments, picture)
    inputs, tokenizer = prepared(arguments.target, arguments.prompt, picture)
    return Loaded(arguments, model_of("target", arguments.target), _drafter(arguments.drafter), inputs, tokenizer)


def compare(loaded: Loaded) -> Iterator[Row]:
    """Every policy with its defaults, plain decoding first; each warms up by one decode that is not timed."""
    plain = None
    for policy in POLICIES:
        loaded.decode(policy)
        output = loaded.decode(policy)
        plain = plain or output
        yield Row(policy, output, plain)


def _shipped(arguments, picture):
    names = ("text-target", "text-drafter") if picture is None else ("target", "drafter")
    if picture is None and not any(f"{noun}: " in arguments.prompt for noun, *_ in caption_words.NOUNS):
        example = captions.facts(7, [0, 1, 2] * 3)
        raise ValueError(
            f"prompt: got {arguments.prompt!r}, want facts behind it for the text pair, as in {example!r}"
        )
    processor = pairs.processor()
    inputs = processor(arguments.prompt, picture)
    target, drafter = pairs.load(names[0]), arguments.drafter
    drafter = pairs.load(names[1]) if drafter is None else _drafter(drafter)
    return Loaded(arguments, target, drafter, inputs, processor.tokenizer)


def _picture(arguments) -> Image.Image | None:
    if arguments.image is not None and arguments.picture is not None:
        raise ValueError(f"picture: got {arguments.picture} beside an image, want one of the two")
    if arguments.image is not None:
        try:
            with Image.open(arguments.image) as file:
                return file.convert("RGB")
        # All of these come from damaged files: which of them depends on the format and the place.
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise ValueError(f"image: {arguments.image} could not be read as a picture: {one_line(error)}") from error
    if arguments.picture is not None:
        images = fashion_mnist.load().test.images
        if not 0 <= arguments.picture < len(images):
            raise ValueError(f"picture: got {arguments.picture}, want 0 to {len(images) - 1}")
        return Image.fromarray(images[arguments.picture].numpy()).convert("RGB")
    return None


def _drafter(name):
    return WITHOUT_MODEL[name] if name in WITHOUT_MODEL else model_of("drafter", name)


def _seconds(output):
    return sum(seconds for stage, seconds in output.stats.times.items() if not stage.startswith("prefill"))


def _over(part, whole):
    return part / whole if whole else float("nan")
