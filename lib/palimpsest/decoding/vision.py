"""Decoders for transformers' vision-language classes: pictures enter with the prompt, then tokens only."""

import inspect
from collections.abc import Mapping
from itertools import groupby

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .models import ADAPTERS, Decoder


class VisionDecoder(Decoder):
    """A request whose prompt may show pictures.

    The vision tower runs once, before the prefill's forward. Its features are counted against the prompt's image
    tokens and given to the model in the place of the pixels, as transformers' own `generate` does it.

    Raises `ValueError` for a class of an older transformers, which would not see the features (5.17 does not).
    `prefill` raises it where image tokens and features are not as many (the message has both numbers), for
    pixels without their sizes, for image tokens without pixels, and for video tokens: videos are not taken.
    """

    picture_keys: tuple[str, ...]
    """Keys of `inputs` that go to the model's `get_image_features`; the first two are always needed, the pixels and
    their sizes."""

    def __init__(self, model):
        super().__init__(model)
        if "mm_encoder_outputs" not in inspect.signature(type(model).forward).parameters:
            # An older version would drop the features without a word, and the picture with them.
            name = type(model).__name__
            raise ValueError(f"model: got {name} that takes no mm_encoder_outputs, want transformers as new as 5.23")

    def prefill_inputs(self, inputs):
        """As `Decoder.prefill_inputs`, with "position_ids" [1, T] or [3, 1, T], and the pictures' features."""
        arguments = super().prefill_inputs(inputs)
        ids = arguments["input_ids"]
        found = int(self.visual(ids).sum())
        if videos := int((ids == self.model.config.video_token_id).sum()):
            raise ValueError(f"inputs: got {videos} video tokens, want text and pictures only")
        arguments["position_ids"] = torch.arange(ids.shape[1], device=ids.device)[None]
        given = inputs if isinstance(inputs, Mapping) else {}
        pictures = {
            key: torch.as_tensor(given[key], device=ids.device)
            for key in self.picture_keys
            if given.get(key) is not None
        }
        if not pictures and not found:
            return arguments
        if missing := [key for key in self.picture_keys[:2] if key not in pictures]:
            got = f"inputs: got {found} image tokens and {sorted(pictures) or 'no picture'}"
            raise ValueError(f"{got}, want {missing[0]!r} as well")
        features = torch.cat(tuple(self.model.get_image_features(**pictures, return_dict=True).pooler_output))
        if found != len(features):
            got = f"inputs: got {found} image tokens in the prompt and {len(features)} features of pixel_values"
            raise ValueError(f"{got}, want as many: one token a feature")
        arguments["mm_encoder_outputs"] = {"image": BaseModelOutputWithPooling(pooler_output=(features,))}
        return arguments

    def visual(self, ids: Tensor) -> Tensor:
        """input_ids [1, T] -> bool [T]: which of them stand for a picture's features."""
        return ids[0] == self.model.config.image_token_id


class LlavaOnevisionDecoder(VisionDecoder):
    """For `LlavaOnevisionForConditionalGeneration`: ordinary positions, a picture's features taking one each."""

    picture_keys = ("pixel_values", "image_sizes", "batch_num_images")
    inputs_taken = (*Decoder.inputs_taken, *picture_keys)


class Qwen25VLDecoder(VisionDecoder):
    """For `Qwen2_5_VLForConditionalGeneration`, whose positions have three rows (M-RoPE: time, height, width).

    A picture's tokens share few positions, so that text goes on at a lower position than its row in the cache: the
    difference, transformers' `rope_deltas`, is this request's `offset`. It is computed here and not read from the
    model, where the last prefill of any request would have left its own.

    "mm_token_type_ids" follow from the prompt and may be left out. `prefill` raises `ValueError` if those given say
    otherwise, and where the image tokens do not come in one run a picture, of the length of its grid.
    """

    picture_keys = ("pixel_values", "image_grid_thw")
    inputs_taken = (*Decoder.inputs_taken, *picture_keys, "mm_token_type_ids")

    def prefill_inputs(self, inputs):
        arguments = super().prefill_inputs(inputs)
        ids, given = arguments["input_ids"], inputs if isinstance(inputs, Mapping) else {}
        visual = self.visual(ids)
        kinds = visual.int()
        said = given.get("mm_token_type_ids")
        if said is not None and torch.as_tensor(said).flatten().tolist() != kinds.tolist():
            raise ValueError("inputs: mm_token_type_ids differ from the prompt's, want 1 at image tokens, else 0")
        grid = None
        if visual.any():
            grid = torch.as_tensor(given["image_grid_thw"], device=ids.device)
            want = (grid.prod(-1) // self.model.config.vision_config.spatial_merge_size**2).tolist()
            runs = [len(list(run)) for shown, run in groupby(visual.tolist()) if shown]
            if runs != want:
                raise ValueError(f"inputs: got image tokens in runs of {runs}, want {want}, with text in between")
        arguments["position_ids"], delta = self.model.base_model.get_rope_index(ids, kinds[None], image_grid_thw=grid)
        self._delta = int(delta)
        return arguments

    def position_offset(self):
        return self._delta

    def positions(self, depths):
        return super().positions(depths).expand(3, 1, -1)  # behind the prompt the three rows are one


ADAPTERS.update(llava_onevision=LlavaOnevisionDecoder, qwen2_5_vl=Qwen25VLDecoder)
