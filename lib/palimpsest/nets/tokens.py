"""Questions and answers as tokens: a small tokenizer of our own, and `encode` for it and for those of others.

Used through `nets.language`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

IGNORED = -100
"""The label of a position whose prediction does not count, as in transformers."""
PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"
PROMPT = "Question: {question}\nAnswer:"
"""The text before an answer where a tokenizer has no chat template."""


def tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer trained on `texts`, a function of its arguments only.

    `<pad>`, `<bos>` and `<eos>` are tokens 0, 1 and 2; `<bos>` is put first, digits stand alone, and any text can be
    encoded, because the 256 bytes are tokens too. Raises ValueError when `vocab_size` does not hold these, or when
    `texts` are too few to fill it.
    """
    special = [PAD, BOS, EOS]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    if vocab_size < len(special) + len(alphabet):
        raise ValueError(f"vocab_size: got {vocab_size}, want at least {len(special) + len(alphabet)}")
    bpe = Tokenizer(models.BPE())
    # One token per digit: years that no text names are then spelt like those that one does.
    digits = pre_tokenizers.Digits(individual_digits=True)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(texts, trainer)
    if bpe.get_vocab_size() != vocab_size:
        raise ValueError(f"texts: got too few for {vocab_size} tokens; they give {bpe.get_vocab_size()}")
    bpe.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, special.index(BOS))])
    return PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token=PAD, bos_token=BOS, eos_token=EOS)


@dataclass(frozen=True)
class Encoded:
    """N prompts with answers. `ids` [N, T] int64 is padded on the right; `labels` [N, T] int64 holds at position t
    the token that t predicts, ids[:, t + 1], where that is the answer's or the end of text, and IGNORED elsewhere.

    Attention is causal, so no position that counts sees the padding, and no mask is needed.
    """

    ids: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.ids)

    def subset(self, indices: torch.Tensor) -> "Encoded":
        """The rows at `indices` (int64 [n]), as wide as before."""
        return Encoded(self.ids[indices], self.labels[indices])

    def to(self, device: torch.device | str) -> "Encoded":
        return Encoded(self.ids.to(device), self.labels.to(device))

    def packed(self, rows: int, width: int) -> torch.Tensor:
        """Full rows of tokens, int64 [rows, width]: one sequence after another without its padding, and again from
        the start until they are full."""
        # The last label that counts is the token at the position after its own.
        ends = (self.labels != IGNORED).int().cumsum(1).argmax(1) + 2
        stream = torch.cat([ids[:end] for ids, end in zip(self.ids, ends.tolist(), strict=True)])
        return stream.repeat(-(-rows * width // len(stream)))[: rows * width].view(rows, width)


def prompt_ids(
    tokenizer: PreTrainedTokenizerBase, questions: Sequence[str], template: str | None = None
) -> list[list[int]]:
    """The tokens before each answer: `template` with `{question}` filled in, by default the tokenizer's chat template
    where it has one, else PROMPT. The tokenizer's first token leads, unless a chat template brings its own."""
    return _prompts(tokenizer, questions, template)[1]


def encode(
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[str],
    answers: Sequence[str],
    max_length: int,
    template: str | None = None,
) -> Encoded:
    """Each prompt (`prompt_ids`), its answer and the end of text, as wide as the longest.

    A space parts prompt and answer where the prompt does not end in one. Raises ValueError naming the row, counted
    from 0, when its question or answer is empty or it has more than `max_length` tokens; also for a tokenizer
    without an end of text.
    """
    if len(questions) != len(answers) or len(answers) == 0:
        raise ValueError(
            f"answers: got {len(answers)}, want one for each of {len(questions)} questions, at least one"
        )
    if tokenizer.eos_token_id is None:
        raise ValueError("tokenizer: has no end-of-text token, and no answer would end")
    texts, prompts = _prompts(tokenizer, questions, template)
    for row, answer in enumerate(answers):
        if not answer.strip():
            raise ValueError(f"answers: row {row} is empty")
    spaced = [answer if text[-1].isspace() else f" {answer}" for text, answer in zip(texts, answers, strict=True)]
    ends, rows = tokenizer(spaced, add_special_tokens=False).input_ids, []
    for row, (prompt, end) in enumerate(zip(prompts, ends, strict=True)):
        end = [*end, tokenizer.eos_token_id]
        if len(prompt) + len(end) > max_length:
            raise ValueError(
                f"answers: row {row} has {len(end)} tokens after {len(prompt)} of its question, "
                f"want at most {max_length} together"
            )
        rows.append((prompt, end))
    pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    shape = len(rows), max(len(prompt) + len(end) for prompt, end in rows)
    ids, labels = torch.full(shape, pad), torch.full(shape, IGNORED)
    for row, (prompt, end) in enumerate(rows):
        start, stop = len(prompt), len(prompt) + len(end)
        ids[row, :stop] = torch.tensor(prompt + end)
        labels[row, start - 1 : stop - 1] = torch.tensor(end)
    return Encoded(ids, labels)


def _prompts(tokenizer, questions, template) -> tuple[list[str], list[list[int]]]:
    """The texts before the answers, and their tokens; many texts at once take a tenth of the time of one by one."""
    chat = template is None and bool(tokenizer.chat_template)
    template = PROMPT if template is None else template
    if "{question}" not in template:
        raise ValueError(f"template: got {template!r}, want a text with {{question}} in it")
    for row, question in enumerate(questions):
        if not question.strip():
            raise ValueError(f"questions: row {row} is empty")
    if not questions:
        return [], []
    if chat:
        turns = [[{"role": "user", "content": question}] for question in questions]
        texts = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    else:
        texts = [template.replace("{question}", question) for question in questions]
    return texts, tokenizer(texts, add_special_tokens=not chat).input_ids
