"""SmolLM2 that sees: a Llama with a frozen convolutional tower, the vision-language pair of profile `study`.

As LLaVA (Liu et al. 2023, arXiv 2304.08485): a two-layer projector turns each of the tower's features into the
embedding of one token. Sizes and the place are ours: EfficientNet-lite0's 7 × 7 map gives 49 visual tokens, and they
come first, so that the model's own chat format follows them undisturbed.

transformers' Llava class could hold the same parts, but how features are handed to it changed within its versions 5;
Llama's `inputs_embeds`, which is all that is used here, did not.
"""

import copy

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase
from transformers.modeling_outputs import BaseModelOutputWithPooling, CausalLMOutputWithPast

from . import efficientnet
from .tokens import prompt_ids

VISUAL_TOKENS = (efficientnet.SIDE // efficientnet.STRIDE) ** 2


class SeeingConfig(LlamaConfig):
    """A Llama in whose prompt `image_token_id` stands for one feature of `tower_width` channels."""

    model_type = "seeing_llama"
    image_token_id: int = 0
    video_token_id: int = -1  # there is none
    tower_width: int = 0


class SeeingLlama(LlamaForCausalLM):
    """tower: [N, 3, H, W] -> [N, C, h, w], frozen and always in evaluation mode."""

    config_class = SeeingConfig

    def __init__(self, config: SeeingConfig, tower: nn.Module):
        super().__init__(config)
        self.tower = tower.requires_grad_(False)
        width = config.hidden_size
        self.projector = nn.Sequential(nn.Linear(config.tower_width, width), nn.GELU(), nn.Linear(width, width))

    def train(self, mode: bool = True) -> "SeeingLlama":
        super().train(mode)
        self.tower.eval()  # its batch statistics are ImageNet's
        return self

    def get_image_features(self, pixel_values: torch.Tensor, **_) -> BaseModelOutputWithPooling:
        """[N, 3, H, W] -> "pooler_output": of each picture the embeddings [h · w, D] of its visual tokens, by row."""
        features = self.tower(pixel_values.to(self.dtype)).flatten(2).mT
        return BaseModelOutputWithPooling(pooler_output=list(self.projector(features)))

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values=None,
        inputs_embeds: torch.Tensor | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        pixel_values: torch.Tensor | None = None,
        mm_encoder_outputs: dict[str, BaseModelOutputWithPooling] | None = None,
        **kwargs,
    ) -> CausalLMOutputWithPast:
        """As Llama's, and pictures: `pixel_values` [N, 3, H, W], or what `get_image_features` made of them under
        "image". ValueError where image tokens and features are not as many."""
        given = mm_encoder_outputs.get("image") if mm_encoder_outputs else None
        if pixel_values is not None:
            given = self.get_image_features(pixel_values)
        if given is not None:
            features = torch.cat(tuple(given.pooler_output))
            places = input_ids == self.config.image_token_id
            if (found := int(places.sum())) != len(features):
                raise ValueError(f"input_ids: got {found} image tokens, want {len(features)}, one per feature")
            embedded = self.get_input_embeddings()(input_ids)
            input_ids, inputs_embeds = None, embedded.masked_scatter(places[..., None], features.to(embedded.dtype))
        return super().forward(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            logits_to_keep=logits_to_keep,
            **kwargs,
        )

    def set_attn_implementation(self, attn_implementation, *args, **kwargs) -> None:
        """As transformers', where the language model is a part of its own: {"text_config": name} will do as well."""
        if isinstance(attn_implementation, dict):
            attn_implementation = attn_implementation["text_config"]
        super().set_attn_implementation(attn_implementation, *args, **kwargs)


def build(
    base: LlamaForCausalLM, tower: nn.Module, *, image_token_id: int, seed: int, layers: int | None = None
) -> SeeingLlama:
    """A copy of `base` with `tower` and a projector drawn from `seed`; float32, on the CPU, in evaluation mode.

    layers: keep only so many of the first, as a drafter does; None keeps all. ValueError for more than `base` has.
    """
    have = base.config.num_hidden_layers
    if layers is not None and not 1 <= layers <= have:
        raise ValueError(f"layers: got {layers}, want 1 to {have}")
    text = {key: value for key, value in base.config.to_dict().items() if key != "model_type"}
    with torch.no_grad():
        width = tower.eval()(torch.zeros(1, 3, efficientnet.SIDE, efficientnet.SIDE)).shape[1]
    text |= {"num_hidden_layers": layers or have, "image_token_id": image_token_id, "tower_width": width}
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = SeeingLlama(SeeingConfig(**text), copy.deepcopy(tower)).float()
    known = model.state_dict()
    model.load_state_dict({k: v for k, v in base.state_dict().items() if k in known}, strict=False)
    model.generation_config = copy.deepcopy(base.generation_config)
    return model.eval()


class Processor:
    """Turns a question about pictures into what `SeeingLlama` takes."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, image_token: str):
        self.tokenizer, self.image_token_id = tokenizer, tokenizer.convert_tokens_to_ids(image_token)
        if self.image_token_id in (None, tokenizer.unk_token_id):
            raise ValueError(f"image_token: got {image_token!r}, want a token of the tokenizer")

    def __call__(self, prompt: str, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """`prompt` asked of each grey picture, uint8 [N, H, W]: `pixel_values` fp32 [N, 3, 224, 224] and `input_ids`
        int64 [N, 49 + T], the visual tokens and then the prompt, in the tokenizer's chat format where it has one."""
        ids = [self.image_token_id] * VISUAL_TOKENS + prompt_ids(self.tokenizer, [prompt])[0]
        pixels = efficientnet.pixel_values(images)
        return {"input_ids": torch.tensor(ids).expand(len(pixels), -1).contiguous(), "pixel_values": pixels}

    def decode(self, tokens: torch.Tensor | list[int]) -> str:
        """The text of generated tokens [T], special tokens left out."""
        return self.tokenizer.decode(tokens, skip_special_tokens=True)
