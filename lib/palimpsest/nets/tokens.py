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
BARE = "{question}"
"""The template of prompts that are whole."""
MARK = "Palimpsest"
"""An answer that is looked for in what a chat template makes of it."""


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
    the token that t predicts, ids[:, t + 1], where that is the answer's or its end, and IGNORED elsewhere.

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
    return _tokens(tokenizer, _prompts(tokenizer, questions, template), template)


def answer_end(tokenizer: PreTrainedTokenizerBase, template: str | None = None) -> int | None:
    """The token that ends an answer: what the chat template ends its turns with, where one is taken, else the
    tokenizer's end of text; None where it has none."""
    return _closing(tokenizer, template)[2]


def encode(
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[str],
    answers: Sequence[str],
    max_length: int,
    template: str | None = None,
) -> Encoded:
    """Each prompt (`prompt_ids`), its answer and its end (`answer_end`) as one text; as wide as the longest.

    With a chat template that text is what it makes of question and answer, and the answer is all that comes after the
    prompt. Without one, or where it words its own turns otherwise than it asks for them, the answer follows the
    prompt, parted by a space where the prompt does not end in one. The last tokens of a prompt that the answer's
    first letters change count as the answer's.

    Raises ValueError naming the row, counted from 0, when its question or answer is empty or it has more than
    `max_length` tokens; also for a tokenizer without an end.
    """
    if len(questions) != len(answers) or len(answers) == 0:
        raise ValueError(
            f"answers: got {len(answers)}, want one for each of {len(questions)} questions, at least one"
        )
    prompts = _prompts(tokenizer, questions, template)
    for row, answer in enumerate(answers):
        if not answer.strip():
            raise ValueError(f"answers: row {row} is empty")
    rows, wholes = [], _answered(tokenizer, questions, answers, prompts, template)
    for row, (prompt, whole) in enumerate(zip(_tokens(tokenizer, prompts, template), wholes, strict=True)):
        same = [a == b for a, b in zip(prompt, whole, strict=False)]
        start = max(1, [*same, False].index(False))  # nothing predicts the first token of all
        if len(whole) > max_length:
            raise ValueError(
                f"answers: row {row} has {len(whole) - start} tokens after {start} of its question, "
                f"want at most {max_length} together"
            )
        rows.append((start, whole))
    pad = answer_end(tokenizer, template) if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    shape = len(rows), max(len(whole) for _, whole in rows)
    ids, labels = torch.full(shape, pad), torch.full(shape, IGNORED)
    for row, (start, whole) in enumerate(rows):
        ids[row, : len(whole)] = torch.tensor(whole)
        labels[row, start - 1 : len(whole) - 1] = torch.tensor(whole[start:])
    return Encoded(ids, labels)


def _by_chat(tokenizer, template) -> bool:
    return template is None and bool(tokenizer.chat_template)


def _prompts(tokenizer, questions, template) -> list[str]:
    """The texts before the answers."""
    chat, template = _by_chat(tokenizer, template), PROMPT if template is None else template
    if "{question}" not in template:
        raise ValueError(f"template: got {template!r}, want a text with {{question}} in it")
    for row, question in enumerate(questions):
        if not question.strip():
            raise ValueError(f"questions: row {row} is empty")
    if not chat:
        return [template.replace("{question}", question) for question in questions]
    turns = [_turns(question) for question in questions]
    return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True) if turns else []


def _answered(tokenizer, questions, answers, prompts, template) -> list[list[int]]:
    """The tokens of each prompt with its answer and its end."""
    after, closing, end = _closing(tokenizer, template)
    if end is None:
        raise ValueError("tokenizer: has no end-of-text token, and no answer would end")
    pairs = zip(prompts, answers, strict=True)
    texts = [prompt + (answer if prompt[-1].isspace() else f" {answer}") for prompt, answer in pairs]
    if _by_chat(tokenizer, template):
        turns = [_turns(*pair) for pair in zip(questions, answers, strict=True)]
        wholes = tokenizer.apply_chat_template(turns, tokenize=False)
        texts = [
            (whole.removesuffix(after) if whole.startswith(prompt) else text) + closing
            for whole, prompt, text in zip(wholes, prompts, texts, strict=True)
        ]
    return [ids if closing else [*ids, end] for ids in _tokens(tokenizer, texts, template)]


def _closing(tokenizer, template) -> tuple[str, str, int | None]:
    """What a chat template writes after an answer; the start of that, up to the token that ends the turn; this token.

    A template that writes no such token leaves the end to the token that begins the next turn, as GLM's does, or to
    the tokenizer's end of text; the start is "" then.
    """
    if not _by_chat(tokenizer, template):
        return "", "", tokenizer.eos_token_id
    after, later = (
        tokenizer.apply_chat_template(_turns(*said), tokenize=False).rpartition(MARK)[2]
        for said in (("?", MARK), ("?", MARK, "?"))
    )
    added = {token.content: index for index, token in tokenizer.added_tokens_decoder.items()}
    ends = [text for text in added if text.strip() and text != tokenizer.bos_token]
    for text, own in ((after, True), (later, False)):
        # The first; of two at one place the longer.
        if found := sorted((text.find(end), -len(end), end) for end in ends if end in text):
            start, _, end = found[0]
            return after, text[: start + len(end)] if own else "", added[end]
    return after, "", tokenizer.eos_token_id


def _turns(*said: str) -> list[dict[str, str]]:
    """A talk: what user and assistant say in turn."""
    return [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(said)]


def _tokens(tokenizer, texts: list[str], template) -> list[list[int]]:
    """Many texts at once take a tenth of the time of one by one."""
    if not texts:
        return []
    bare, whole = (tokenizer("x", add_special_tokens=special).input_ids for special in (False, True))
    # What a tokenizer puts first, but not what it puts last: the text goes on.
    leading = next((whole[:at] for at in range(len(whole)) if whole[at : at + len(bare)] == bare), [])
    leading = [] if _by_chat(tokenizer, template) else leading
    return [leading + ids for ids in tokenizer(texts, add_special_tokens=False).input_ids]
