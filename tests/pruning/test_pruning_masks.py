"""Masks: what they accept, what they check, and that a file gives back every bit."""

import pytest
import torch
from decoders import decoder
from safetensors.torch import save_file
from torch import nn

from palimpsest.pruning import Masks, random_masks, report, valid_n_m

SHAPES = [(1, 1), (1, 7), (2, 4), (3, 3), (5, 13), (8, 8), (17, 19)]


def _drawn(shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Masks({f"layer.{i}": torch.rand(shape, generator=generator) > 0.5 for i, shape in enumerate(shapes)})


def test_a_file_gives_back_every_bit(tmp_path):
    masks = _drawn(SHAPES)
    masks.save(tmp_path / "masks.safetensors")
    loaded = Masks.load(tmp_path / "masks.safetensors")
    assert list(loaded.kept) == list(masks.kept)
    for name, mask in masks.kept.items():
        assert loaded.kept[name].dtype == torch.bool
        assert torch.equal(loaded.kept[name], mask), name


def test_the_file_holds_one_bit_a_weight_and_is_the_same_twice(tmp_path):
    masks = Masks({"w": torch.ones(1000, 801, dtype=torch.bool)})
    for name in ("a", "b"):
        masks.save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert 0 <= (tmp_path / "a").stat().st_size - 801_000 // 8 < 400


@pytest.mark.parametrize(
    ("stored", "metadata"),
    [
        (torch.zeros(3), None),
        (torch.zeros(2), {"palimpsest.masks": '{"w": [3, 3]}'}),
        (torch.zeros(1, dtype=torch.uint8), {"palimpsest.masks": '{"w": [3, 3]}'}),
        (torch.zeros(3, dtype=torch.uint8), {"palimpsest.masks": '{"w": [3, 3]}'}),
        (torch.zeros(2, dtype=torch.uint8), {"palimpsest.masks": '{"v": [3, 3]}'}),
        (torch.zeros(2, dtype=torch.uint8), {"palimpsest.masks": "{}"}),
        (torch.zeros(2, dtype=torch.uint8), {"palimpsest.masks": "shapes"}),
    ],
)
def test_another_file_is_refused(tmp_path, stored, metadata):
    path = tmp_path / "other.safetensors"
    save_file({"w": stored}, path, metadata)
    with pytest.raises(ValueError, match=r"path: got .*other\.safetensors"):
        Masks.load(path)


def test_a_file_that_is_no_safetensors_is_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    path.write_text("no masks")
    with pytest.raises(ValueError, match=r"path: got .*other\.safetensors"):
        Masks.load(path)


@pytest.mark.parametrize("kept", [{}, {"w": torch.ones(2, 2)}, {"w": [[True]]}])
def test_what_is_no_mask_is_refused(kept):
    with pytest.raises(ValueError, match="kept"):
        Masks(kept)


def test_apply_zeroes_what_is_pruned_and_nothing_else():
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    masks = Masks({"0.weight": torch.arange(12).view(3, 4) % 3 > 0, "1.weight": torch.arange(6).view(2, 3) > 0})
    assert not masks.holds(model)
    masks.apply_(model)
    assert masks.holds(model)
    for name, value in model.named_parameters():
        kept = masks.kept.get(name, torch.ones(value.shape, dtype=torch.bool))
        assert torch.equal(value[kept], before[name][kept])
        assert not value[~kept].any()


@pytest.mark.parametrize("value", [-0.0, 1e-45, float("nan")])
def test_only_a_positive_zero_holds(value):
    model = nn.Linear(2, 2, bias=False)
    masks = Masks({"weight": torch.tensor([[True, False], [True, True]])})
    masks.apply_(model)
    with torch.no_grad():
        model.weight[1, 1] = value  # a surviving weight may be anything
    assert masks.holds(model)
    with torch.no_grad():
        model.weight[0, 1] = value
    assert not masks.holds(model)


def test_apply_leaves_no_negative_zero():
    model = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        model.weight.fill_(-1)
    masks = Masks({"weight": torch.zeros(2, 2, dtype=torch.bool)})
    masks.apply_(model)
    assert not model.weight.signbit().any()


def test_share_and_overlap_by_hand():
    a = Masks({"v": torch.tensor([[True, False, False, True]]), "w": torch.tensor([[False], [True]])})
    b = Masks({"v": torch.tensor([[True, True, False, False]]), "w": torch.tensor([[False], [True]])})
    assert a.share() == 3 / 6
    assert a.overlap(b) == 2 / 4  # pruned in both: v2, w0; in either: v1, v2, v3, w0
    assert a.overlap(a) == 1
    dense = Masks({"v": torch.ones(1, 4, dtype=torch.bool), "w": torch.ones(2, 1, dtype=torch.bool)})
    assert dense.overlap(dense) == 1
    assert dense.overlap(a) == 0


def test_masks_of_different_matrices_do_not_overlap():
    with pytest.raises(ValueError, match="other: "):
        _drawn([(2, 4)]).overlap(_drawn([(4, 2)]))


@pytest.mark.parametrize("use", ["require_for", "apply_", "holds", "report"])
@pytest.mark.parametrize("other", ["shallower", "deeper", "another name", "another shape"])
def test_masks_of_another_model_are_refused(other, use):
    model = decoder()
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    masks = random_masks(decoder(layers={"shallower": 1, "deeper": 3}.get(other, 2)), 0.5, 0)
    name = "model.layers.1.mlp.up_proj.weight"
    if other == "another name":
        masks.kept["model.embed.weight"] = masks.kept.pop(name)
    elif other == "another shape":
        masks.kept[name] = masks.kept[name].T
    with pytest.raises(ValueError, match="masks: got "):
        report(model, masks) if use == "report" else getattr(masks, use)(model)
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())


def test_n_m_counts_every_group_along_the_inputs():
    good = torch.tensor([[1, 1, 0, 0, 0, 1, 0, 1], [0, 0, 1, 1, 1, 0, 0, 0]]).bool()
    bad = torch.tensor([[1, 1, 0, 0, 0, 1, 0, 1], [0, 1, 1, 1, 0, 0, 0, 0]]).bool()
    assert valid_n_m(Masks({"w": good}), 2, 4)
    assert not valid_n_m(Masks({"w": good, "v": bad}), 2, 4)
    assert not valid_n_m(Masks({"w": good.T}), 2, 4)
    assert not valid_n_m(Masks({"w": good[:, :6]}), 2, 4)
    assert valid_n_m(Masks({"w": bad}), 4, 8)
