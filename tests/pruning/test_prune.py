"""`prune` on tiny Llama, Qwen2 and Gemma: order, exactness and determinism."""

import copy
import math

import pytest
import torch
from decoders import FAMILIES, MATRICES, decoder, inputs_of, tokens

from palimpsest.pruning import METHODS, Masks, Pattern, prune, random_masks, report, sparsegpt, valid_n_m, wanda

LINEARS = [f"model.layers.{layer}.{matrix}.weight" for layer in range(2) for matrix in MATRICES]


def _pruned(model, ids, layer, kept_of):
    """A copy of `model` whose layers before `layer` carry what `kept_of` gave them."""
    part = copy.deepcopy(model)
    with torch.no_grad():
        for name, (kept, values) in kept_of.items():
            if int(name.split(".")[2]) < layer:
                part.get_parameter(name).copy_(values.masked_fill(~kept, 0))
    return inputs_of(part, ids)


def _naive(model, ids, method, pattern, *, dense=False):
    """Layer by layer, each time through the whole model from the tokens on; `dense`: never through pruned layers."""
    done = {}
    for layer in range(2):
        inputs = _pruned(model, ids, 0 if dense else layer, done)
        for name in LINEARS[layer * 7 : layer * 7 + 7]:
            weight = model.get_parameter(name).detach()
            if method == "wanda":
                done[name] = wanda.mask(weight, inputs[name].norm(dim=0), pattern), weight
            else:
                done[name] = sparsegpt.solve(weight, inputs[name].T @ inputs[name], pattern)
    return done


@pytest.mark.pairwise
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("sparsity", [0.5, "2:4"])
@pytest.mark.parametrize("method", ["wanda", "sparsegpt"])
def test_each_layer_is_calibrated_on_the_pruned_ones_before_it(method, sparsity, family):
    # float64, so that no tie of rounding decides a mask.
    model, ids, pattern = decoder(family, dtype=torch.float64), tokens(), Pattern.parse(sparsity)
    expected, dense = (_naive(model, ids, method, pattern, dense=dense) for dense in (False, True))
    masks = prune(model, ids, method=method, sparsity=sparsity)
    assert list(masks.kept) == LINEARS
    for name in LINEARS:
        kept, values = expected[name]
        assert torch.equal(masks.kept[name], kept), name
        # float64 rounding of two orders of summation, through Hessians of condition number below 1e6.
        assert torch.allclose(model.get_parameter(name)[kept], values[kept], rtol=0, atol=1e-9)
    # Otherwise the comparison above could not tell the two apart.
    assert any(not torch.equal(expected[name][0], dense[name][0]) for name in LINEARS[7:])


@pytest.mark.pairwise
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("sparsity", [0.3, "2:4", "4:8"])
@pytest.mark.parametrize("method", METHODS)
def test_sparsity_is_exact_and_the_rest_is_untouched(method, sparsity, family):
    model, ids = decoder(family), tokens(rows=2)
    before = copy.deepcopy(model)
    masks = prune(model, ids, method=method, sparsity=sparsity)
    assert masks.holds(model)
    share = 0.5 if isinstance(sparsity, str) else sparsity
    for name, parameter in model.named_parameters():
        original = before.get_parameter(name)
        if name not in LINEARS:
            assert torch.equal(parameter, original), name
            continue
        kept = masks.kept[name]
        rows, columns = kept.shape
        if method == "wanda":
            assert kept.sum(1).unique().tolist() == [columns - math.floor(share * columns + 0.5)]
        assert int((~kept).sum()) in (
            math.floor(share * rows * columns + 0.5),
            rows * math.floor(share * columns + 0.5),
        )
        if method != "sparsegpt":
            assert torch.equal(parameter[kept], original[kept])
    if isinstance(sparsity, str):
        assert valid_n_m(masks, *(int(part) for part in sparsity.split(":")))
    else:
        assert not valid_n_m(masks, 2, 4)
    assert not torch.equal(model(ids).logits, before(ids).logits)


@pytest.mark.parametrize("method", METHODS)
def test_equal_input_gives_equal_bits(method):
    results = []
    for _ in range(2):
        torch.manual_seed(len(results))  # the global generator is not asked
        model = decoder().train()
        masks = prune(model, tokens(), method=method, sparsity=0.5, seed=7)
        assert model.training
        results.append((masks, model.state_dict()))
    (a, left), (b, right) = results
    assert a.overlap(b) == 1
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_the_sum_over_calibration_does_not_depend_on_how_rows_are_arranged():
    model, ids = decoder(dtype=torch.float64), tokens()
    one, two = (prune(copy.deepcopy(model), part, method="wanda", sparsity=0.5) for part in (ids, ids.flip(0)))
    assert one.overlap(two) == 1


def test_dropout_is_off_during_calibration():
    model = decoder()
    quiet, loud = copy.deepcopy(model), copy.deepcopy(model).train()
    for layer in loud.model.layers:
        layer.self_attn.attention_dropout = 0.5
    a, b = (prune(part, tokens(), method="wanda", sparsity=0.5) for part in (quiet, loud))
    assert a.overlap(b) == 1
    assert loud.training


def test_bfloat16_models_keep_their_dtype():
    model, ids = decoder(dtype=torch.bfloat16), tokens()
    for method in METHODS:
        part = copy.deepcopy(model)
        masks = prune(part, ids, method=method, sparsity=0.5)
        assert {parameter.dtype for parameter in part.parameters()} == {torch.bfloat16}
        assert masks.holds(part)
        assert part(ids).logits.isfinite().all()


def test_random_masks_are_those_of_random_pruning_and_leave_weights_alone():
    model = decoder()
    before = copy.deepcopy(model)
    masks = random_masks(model, 0.7, 5)
    assert all(torch.equal(parameter, before.get_parameter(name)) for name, parameter in model.named_parameters())
    assert masks.overlap(prune(model, None, method="random", sparsity=1 - 0.7, seed=5)) == 1
    assert masks.overlap(random_masks(model, 0.7, 6)) < 0.5
    assert masks.share() == pytest.approx(0.7, abs=0.5 / 512)  # 512 weights in the smallest matrix


def test_the_report_counts_matrix_by_matrix():
    model = decoder()
    masks = prune(model, None, method="magnitude", sparsity=0.25)
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[~masks.kept["model.layers.1.mlp.up_proj.weight"]] = -0.0
    table = report(model, masks)
    assert list(table["layer"]) == [0] * 7 + [1] * 7
    assert tuple(table["matrix"]) == MATRICES * 2
    assert list(table["weights"]) == [1024, 512, 512, 1024, 1536, 1536, 1536] * 2
    assert list(table["pruned"]) == [256, 128, 128, 256, 384, 384, 384] * 2
    assert set(table["sparsity"]) == {0.25}
    assert list(table.loc[~table["held"], "layer"]) == [1]
    assert list(table.loc[~table["held"], "matrix"]) == ["mlp.up_proj"]


def test_masks_go_through_a_file_to_another_copy(tmp_path):
    model, copied = decoder(), decoder()
    prune(model, tokens(), method="wanda", sparsity=0.3).save(tmp_path / "masks.safetensors")
    masks = Masks.load(tmp_path / "masks.safetensors")
    masks.apply_(copied)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), copied.parameters(), strict=True))


def test_progress_counts_the_layers(capsys, monkeypatch):
    monkeypatch.delenv("PALIMPSEST_PROGRESS", raising=False)
    prune(decoder(), tokens(), method="wanda", sparsity=0.5, show="pruning")
    assert "pruning: 100%" in capsys.readouterr().err
