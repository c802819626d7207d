import copy
import json
import math
import re
import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from palimpsest import data
from palimpsest.build import pair_quality
from palimpsest.data import caption_words, captions, manifest, pairs
from palimpsest.nets import vision_language
from palimpsest.runs import paths

NAMES = list(pairs.FOLDERS)
PAIRS = [
    ("target", "drafter", "vision_language"),
    ("target", "distilled-drafter", "vision_language/distilled"),
    ("text-target", "text-drafter", "vision_language/text"),
]


@pytest.fixture(scope="module")
def processor():
    return pairs.processor()


@pytest.fixture(scope="module")
def test_split():
    return data.load("fashion-mnist").test


@pytest.fixture(scope="module")
def loaded():
    return {name: pairs.load(name) for name in NAMES}


def shipped(folder):
    return json.loads((paths.DATA / folder / "quality.json").read_text())


@pytest.mark.parametrize("name", NAMES)
def test_build_depends_on_the_seed_alone_and_leaves_the_global_generator(name):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = vision_language.build(name, seed=1).state_dict()
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(4)
    again = vision_language.build(name, seed=1).state_dict()
    other = vision_language.build(name, seed=2).state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    embedding = next(key for key in first if key.endswith("embed_tokens.weight"))
    assert not torch.equal(first[embedding], other[embedding])


@pytest.mark.parametrize(("target", "drafter", "folder"), PAIRS)
def test_a_drafter_is_a_sixth_of_its_target_and_shares_its_vocabulary(target, drafter, folder, loaded):
    sizes = [sum(p.numel() for p in loaded[name].parameters()) for name in (target, drafter)]
    assert 6 * sizes[1] < sizes[0]
    configs = [loaded[name].config.get_text_config() for name in (target, drafter)]
    assert configs[0].vocab_size == configs[1].vocab_size == vision_language.VOCABULARY
    tokenizers = {(paths.DATA / pairs.FOLDERS[name] / "tokenizer.json").read_bytes() for name in NAMES}
    assert len(tokenizers) == 1


@pytest.mark.parametrize("name", NAMES)
def test_load_gives_fp32_in_evaluation_mode_of_what_the_file_stores_in_fp16(name, loaded, tmp_path):
    model = loaded[name]
    assert not model.training
    held = model.state_dict()
    assert all(value.dtype == torch.float32 for value in held.values() if value.is_floating_point())
    # The file's names differ from the model's: saved again, rounded to fp16, it must be the shipped file's tensors.
    copy.deepcopy(model).half().save_pretrained(tmp_path)
    stored, again = (
        load_file(folder / "model.safetensors") for folder in (paths.DATA / pairs.FOLDERS[name], tmp_path)
    )
    assert all(weight.dtype == torch.float16 for weight in stored.values())
    assert stored.keys() == again.keys()
    assert all(torch.equal(weight, again[key]) for key, weight in stored.items())
    assert sum(w.numel() for w in stored.values()) == sum(p.numel() for p in model.parameters())
    fresh = vision_language.build(name, seed=0).state_dict()
    assert {key: value.shape for key, value in fresh.items()} == {key: value.shape for key, value in held.items()}


def test_the_shipped_files_are_listed_and_small():
    listed = manifest.read()
    entries = [entry for name, entry in listed.items() if name.startswith("vision_language/")]
    assert len(entries) == 31  # five files a model; of each pair the README and what was measured
    assert sum(entry["bytes"] for entry in entries) <= 25e6
    assert all("build.pair" in entry["made_by"] for entry in entries)


def test_an_altered_or_missing_file_and_an_unknown_name_are_refused(tmp_path):
    folder = pairs.FOLDERS["text-drafter"]
    shutil.copytree(paths.DATA / folder, tmp_path / folder)
    shutil.copy(paths.DATA / manifest.NAME, tmp_path)
    pairs.load("text-drafter", root=tmp_path)
    weights = tmp_path / folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ValueError, match=r"model.safetensors: altered"):
        pairs.load("text-drafter", root=tmp_path)
    with pytest.raises(ValueError, match=r"target/.*missing"):
        pairs.load("text-target", root=tmp_path)
    with pytest.raises(ValueError, match=r"name: got 'teacher', want one of .*'text-drafter'"):
        pairs.load("teacher")
    with pytest.raises(ValueError, match="name: got 'teacher'"):
        vision_language.build("teacher", seed=0)


def test_special_tokens_stand_where_the_configurations_say(processor, loaded):
    tokenizer = processor.tokenizer
    assert tokenizer.convert_tokens_to_ids(list(vision_language.SPECIAL)) == list(range(len(vision_language.SPECIAL)))
    assert len(tokenizer) == vision_language.VOCABULARY
    for model in loaded.values():
        text = model.config.get_text_config()
        assert tokenizer.pad_token_id == text.pad_token_id == vision_language.PAD
        assert tokenizer.eos_token_id == text.eos_token_id == vision_language.END
        assert model.generation_config.eos_token_id == vision_language.END
    for name in vision_language.VISION:
        assert loaded[name].config.image_token_id == vision_language.IMAGE


@pytest.mark.parametrize(
    "text", ["The item looks dim.", " two  spaces\nand a line ", "naïve 靴 👟 <b>", "A", "0123456789"]
)
def test_any_text_comes_back_from_its_tokens(text, processor):
    assert processor.decode(processor.tokenizer.encode(text)) == text


def test_nine_in_ten_words_of_the_captions_are_one_token(processor, test_split):
    generator = torch.Generator().manual_seed(5)
    rows = captions.levels(test_split.images[:200]).tolist()
    texts = [
        captions.compose(y, row, "detail", generator).text
        for y, row in zip(test_split.labels[:200].tolist(), rows, strict=True)
    ]
    words = [word for text in texts for word in re.findall(r"[A-Za-z]+", text)]
    count = {word: len(processor.tokenizer.encode(" " + word)) for word in set(words)}
    assert sum(count[word] == 1 for word in words) >= 0.9 * len(words)


def test_a_prompt_becomes_ids_and_pictures_become_pixels(processor, test_split):
    images = test_split.images[:3]
    row = processor("Describe the item.", images)
    ids = row["input_ids"]
    assert ids.dtype == torch.int64
    user, assistant = (vision_language.SPECIAL.index(token) for token in ("<user>", "<assistant>"))
    image = vision_language.IMAGE
    assert ids[0, 0] == user
    assert (ids[:, 1 : 1 + vision_language.VISUAL_TOKENS] == image).all()
    assert (ids == image).sum() == 3 * vision_language.VISUAL_TOKENS
    assert ids[0, -1] == assistant
    assert (ids[1:] == ids[0]).all()
    assert processor.decode(ids[0]) == "Describe the item."
    assert torch.equal(row["image_sizes"], torch.tensor([[28, 28]] * 3))
    assert row["pixel_values"].shape == (3, 1, 1, 28, 28)
    # One rounding a operation: a division, a subtraction and a division of values up to 3.
    torch.testing.assert_close(row["pixel_values"][:, 0], test_split.pixels()[:3], rtol=0, atol=4 * 3 * 2**-24)
    plain = processor("Describe the item.")
    assert list(plain) == ["input_ids"]
    assert plain["input_ids"][0].tolist() == [user, *ids[0, 1 + vision_language.VISUAL_TOKENS :].tolist()]


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1"])
def test_a_pil_image_of_any_mode_is_the_same_picture(mode, processor):
    black_and_white = torch.zeros(28, 28, dtype=torch.uint8)
    black_and_white[4:20, 9:15] = 255
    small = Image.fromarray(black_and_white.numpy()).convert(mode)
    wanted = processor("?", black_and_white[None])["pixel_values"]
    # A palette may round a grey value to its neighbour, colours weighted to grey as well: one level of 255.
    level = 1.001 / 255 / 0.3541
    torch.testing.assert_close(processor("?", small)["pixel_values"], wanted, rtol=0, atol=level)
    large = small.resize((112, 112), Image.Resampling.NEAREST)
    inside = torch.zeros(28, 28, dtype=torch.bool)
    inside[6:18, 11:13] = True
    got = processor("?", large)["pixel_values"][0, 0, 0]
    torch.testing.assert_close(got[inside], wanted[0, 0, 0][inside], rtol=0, atol=level)


@pytest.mark.parametrize(
    ("prompt", "images", "named"),
    [
        ("", None, "prompt: got ''"),
        ("  ", None, "prompt: got"),
        (None, None, "prompt: got None"),
        ("What <image> is this?", None, "without <image>"),
        ("<end>", None, "without <end>"),
        ("?", torch.zeros(1, 28, 28), r"images: got torch.float32 \[1, 28, 28\]"),
        ("?", torch.zeros(28, 28, dtype=torch.uint8), r"images: got torch.uint8 \[28, 28\]"),
        ("?", torch.zeros(1, 32, 32, dtype=torch.uint8), "28, 28"),
        ("?", [[0]], "images: got list"),
    ],
)
def test_the_processor_refuses(prompt, images, named, processor):
    with pytest.raises(ValueError, match=named):
        processor(prompt, images)


def test_the_model_sees_one_vector_a_patch_and_uses_them(processor, test_split, loaded):
    row = processor("What garment is this?", test_split.images[:2])
    with torch.no_grad():
        features = loaded["target"].model.get_image_features(row["pixel_values"], row["image_sizes"]).pooler_output
        logits = loaded["target"](**row).logits[:, -1]
    assert [tuple(f.shape) for f in features] == [(vision_language.VISUAL_TOKENS, 128)] * 2
    assert logits.shape == (2, vision_language.VOCABULARY)
    assert not torch.allclose(logits[0], logits[1], atol=1e-3)


@pytest.mark.parametrize(("target", "drafter", "folder"), PAIRS)
def test_the_shipped_quality_reaches_what_the_chapter_needs(target, drafter, folder):
    measured = shipped(folder)
    least = 0.7 if target in vision_language.VISION else 0.99  # the text pair is told the class
    assert measured["pictures"] == 1000
    assert measured["class named"] >= least
    assert measured["class in descriptions"] >= least
    assert measured["ended"] >= 0.99
    assert 40 <= measured["tokens"] <= 120
    assert measured["drafter agrees"] >= 0.7
    assert measured["loss with another's facts"] - measured["loss"] >= 0.15
    # Most test pictures are centred from side to side, most training pictures, which are moved about, are not: the
    # text pair is wrong there, and the other, trained on unmoved pictures at the end, as good as a constant answer.
    for attribute in set(captions.ATTRIBUTES) - {"side"}:
        assert measured[f"levels right: {attribute}"] > measured[f"commonest level: {attribute}"]
    readme = (paths.DATA / folder / "README.md").read_text()
    for key in ("class named", "class in descriptions", "levels right", "drafter agrees"):
        assert f"{measured[key]:.1%}" in readme


def test_the_target_names_garments_and_the_drafter_follows(processor, test_split, loaded):
    few = test_split.subset(torch.arange(20))
    prompt = caption_words.PROMPTS["name"][0]
    prompts, images = pair_quality.questions(loaded["target"], few, prompt)
    said = pair_quality.greedy(loaded["target"], processor, prompts, images)
    labels = [captions.read(processor.decode(tokens)).label for tokens in said]
    # 20 draws at the shipped rate p: four standard deviations below its mean.
    p = shipped("vision_language")["class named"]
    assert sum(a == b for a, b in zip(labels, few.labels.tolist(), strict=True)) >= 20 * p - 4 * math.sqrt(
        20 * p * (1 - p)
    )
    own = pair_quality.agreement(loaded["target"], processor, prompts, images, said)
    assert own[0] == own[1] == sum(len(tokens) + 1 for tokens in said)
    hits, total = pair_quality.agreement(loaded["drafter"], processor, prompts, images, said)
    assert total == own[1]
    assert total / 2 < hits < total


@pytest.fixture(scope="module")
def once_for_each_target():
    """Two drafters share a target: what it says, and its loss on texts, is computed once."""

    def kept(function):
        found = {}

        def once(model, processor, prompts, *rest):
            values = [value.tolist() if isinstance(value, torch.Tensor) else value for value in rest]
            asked = (model, repr((prompts, values)))
            if asked not in found:
                found[asked] = function(model, processor, prompts, *rest)
            return found[asked]

        return once

    with pytest.MonkeyPatch.context() as patch:
        for name in ("greedy", "_loss"):
            patch.setattr(pair_quality, name, kept(getattr(pair_quality, name)))
        yield


@pytest.mark.slow
@pytest.mark.usefixtures("once_for_each_target")
@pytest.mark.parametrize(("target", "drafter", "folder"), PAIRS)
def test_the_shipped_quality_is_what_the_models_do(target, drafter, folder, processor, test_split, loaded):
    count = 15
    got = pair_quality.quality(loaded[target], loaded[drafter], processor, test_split.subset(torch.arange(count)))
    stored = shipped(folder)
    for key in ("class named", "class in descriptions"):
        p = stored[key]
        # 15 of the 1,000 pictures: four binomial standard deviations, and one picture for p at the edge.
        assert abs(got[key] - p) <= 4 * math.sqrt(p * (1 - p) / count) + 1 / count, key
    for key in ("levels right", "drafter agrees"):
        # Hundreds of tokens or levels, but those of one picture hang together: as if one draw a picture.
        p = stored[key]
        assert abs(got[key] - p) <= 4 * math.sqrt(p * (1 - p) / count), key
    assert got["loss with another's facts"] - got["loss"] >= 0.15
