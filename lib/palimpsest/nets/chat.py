"""Whether a chat template can be used for questions with answers at all."""

from transformers import PreTrainedTokenizerBase

from .tokens import MARK

ASKED = "Which word is it?"


def require_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """ValueError where the chat template refuses a question or an answer, or leaves one of them out, as one that
    wants content in parts (text, pictures) does with plain text. Without a template there is nothing to refuse.
    """
    if not tokenizer.chat_template:
        return
    from jinja2 import TemplateError  # transformers, too, needs it for templates alone

    talk = [{"role": "user", "content": ASKED}, {"role": "assistant", "content": MARK}]
    for turns, asks in ((talk[:1], True), (talk, False)):
        try:
            text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=asks)
        except (TemplateError, TypeError, ValueError) as error:
            roles = " and ".join(turn["role"] for turn in turns)
            raise ValueError(f"tokenizer: its chat template fails for a talk of {roles}: {error}") from error
        for turn in turns:
            if turn["content"] not in text:
                raise ValueError(
                    f"tokenizer: its chat template leaves out what the {turn['role']} says, want one that takes text "
                    "as the content of a turn"
                )
