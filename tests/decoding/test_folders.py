"""Models and pictures in files, as a reader would have them."""

import shutil
from dataclasses import replace

import pytest
import torch
from commands import PROMPT, ask, call, refused
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
)

from palimpsest.decoding import drop_in


@pytest.fixture
def files(tmp_path):
    """Pictures that are none, and one that is."""
    picture = tmp_path / "shoe.png"
    Image.new("RGB", (300, 200), (200, 30, 30)).save(picture)
    (tmp_path / "cut.png").write_bytes(picture.read_bytes()[:-60])
    (tmp_path / "note.png").write_text("a shoe")
    return tmp_path


def test_models_that_do_not_fit_or_cannot_be_read_are_refused(folders, tmp_path):
    refused(call("--target", folders / "target", "--prompt", PROMPT), "drafter: got none beside a target, want a")
    refused(ask(folders, drafter="other"), "drafter: got a vocabulary of 404 tokens, want the target's 275")
    refused(call("--target", tmp_path, "--drafter", "lookup", "--prompt", "?"), f"target: {tmp_path} could not be")
    pickled, partial, cut = (shutil.copytree(folders / "target", tmp_path / name) for name in "pqr")
    weights = AutoModelForCausalLM.from_pretrained(pickled).state_dict()
    (pickled / "model.safetensors").unlink()
    torch.save(weights, pickled / "pytorch_model.bin")
    refused(ask(folders, "--target", pickled), f"target: {pickled} could not be read: .*model.safetensors")
    adapter = shutil.copytree(folders / "target", tmp_path / "adapter")
    (adapter / "adapter_config.json").write_text("{}")
    refused(ask(folders, "--target", adapter), "target: .*adapter holds an adapter that does not say of which model")
    refused(ask(folders, drafter=pickled), f"drafter: {pickled} could not be read: .*model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if "layers.1." not in name}
    AutoModelForCausalLM.from_pretrained(partial).save_pretrained(partial, state_dict=kept)
    refused(ask(folders, "--target", partial), r"target: .*q has no weights for 9 tensors, model.layers.1.")
    (cut / "model.safetensors").write_bytes((cut / "model.safetensors").read_bytes()[:-100])
    refused(ask(folders, "--target", cut), "target: .*r could not be read")


@pytest.mark.parametrize(
    ("name", "said"), [("cut.png", ""), ("note.png", "cannot identify"), ("none.png", "No such")]
)
def test_a_picture_that_is_none_is_refused_before_any_model_is_read(files, name, said):
    done = call("--target", "nowhere", "--drafter", "lookup", "--prompt", "?", "--image", files / name)
    refused(done, rf"image: .*{name} could not be read as a picture: .*{said}")


def llava(folder):
    """A tiny LLaVA with its processor, as transformers saves it."""
    from transformers import CLIPImageProcessorPil, LlavaProcessor

    words = {word: i for i, word in enumerate(["<unk>", "<image>", "USER:", "ASSISTANT:", "What", "is", "it"])}
    bare = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    bare.pre_tokenizer, bare.decoder = pre_tokenizers.WhitespaceSplit(), decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bare, extra_special_tokens={"image_token": "<image>"})
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=8, patch_size=4
    )
    text = LlamaConfig(
        vocab_size=len(words), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=1, vision_feature_layer=-1)
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    size = {"height": 8, "width": 8}
    LlavaProcessor(
        CLIPImageProcessorPil(size=size, crop_size=size),
        tokenizer,
        patch_size=4,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    ).save_pretrained(folder)


def test_a_model_that_sees_gets_the_picture_where_its_template_or_the_prompt_has_it(files, folders):
    folder = files / "llava"
    llava(folder)
    asked = drop_in.Arguments("What is <image> it", str(folder), "lookup", image=files / "shoe.png")
    loaded = drop_in.load(asked)
    assert type(loaded.target) is LlavaForConditionalGeneration
    assert loaded.inputs["input_ids"].tolist() == [[4, 5, *[1] * 4, 6]]
    red, _, blue = loaded.inputs["pixel_values"][0, :, 4, 4].tolist()
    assert red > 0 > blue
    shown = drop_in.load(replace(asked, image=None, picture=3)).inputs["pixel_values"]
    assert shown.shape == (1, 3, 8, 8)
    with pytest.raises(ValueError, match=r"prompt: got 'What is it', want <image> where .* has no chat template"):
        drop_in.load(replace(asked, prompt="What is it"))
    assert "pixel_values" not in drop_in.load(replace(asked, prompt="What is it", image=None)).inputs
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}USER:{% for c in m['content'] %} "
        "{{ '<image>' if c['type'] == 'image' else c['text'] }}{% endfor %}{% endfor %} ASSISTANT:"
    )
    loaded = drop_in.load(replace(asked, prompt="What is it"))
    assert loaded.inputs["input_ids"].tolist() == [[2, *[1] * 4, 4, 5, 6, 3]]
    assert loaded.inputs["pixel_values"].shape == (1, 3, 8, 8)
