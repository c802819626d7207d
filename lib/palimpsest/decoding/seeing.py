"""The decoder of `nets.smollm2_vision`; importing this module lets `adapt` find it."""

from .models import ADAPTERS, Decoder
from .vision import VisionDecoder


class SeeingLlamaDecoder(VisionDecoder):
    """For `SeeingLlama`: ordinary positions, a picture's features taking one each."""

    picture_keys = ("pixel_values",)
    inputs_taken = (*Decoder.inputs_taken, *picture_keys)


ADAPTERS["seeing_llama"] = SeeingLlamaDecoder
