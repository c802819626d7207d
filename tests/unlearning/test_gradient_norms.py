"""The gradient-norm attack, against a gradient that is written down."""

import pytest
import torch

from palimpsest.nets import language
from palimpsest.nets.language import IGNORED, Encoded
from palimpsest.unlearning.language.gradient_norms import gradient_norms

VOCABULARY = 7


def model():
    return language.small_llama(VOCABULARY, 0, hidden=8, layers=1, heads=2, kv_heads=1, intermediate=8)


ENCODED = Encoded(
    torch.tensor([[1, 3, 4, 5], [1, 6, 2, 0]]),
    torch.tensor([[IGNORED, 4, 5, 2], [IGNORED, 2, IGNORED, IGNORED]]),
)


def test_the_norm_in_the_output_embedding_is_that_of_its_formula():
    """For logits W h the gradient of the mean loss is Σ_t (p_t − e_y) hᵀ / tokens."""
    net = model().requires_grad_(False)
    weight = net.get_output_embeddings().weight
    hidden = language.hidden(net, ENCODED.ids).double()
    net.model.embed_tokens.weight = torch.nn.Parameter(weight.clone(), requires_grad=False)
    net.lm_head.weight = torch.nn.Parameter(weight.clone())
    want = []
    for h, labels in zip(hidden, ENCODED.labels, strict=True):
        error = (h @ weight.double().T).softmax(1) - torch.nn.functional.one_hot(labels.clamp(min=0), VOCABULARY)
        counted = labels != IGNORED
        want.append((error[counted].T @ h[counted]).norm() / counted.sum())
    assert torch.allclose(gradient_norms(net, ENCODED), torch.stack(want), rtol=1e-5)


def test_it_is_the_mean_over_weights_and_leaves_the_model_as_it_was():
    net = model().train()
    net.model.layers[0].mlp.up_proj.weight.grad = torch.ones(8, 8)
    found = gradient_norms(net, ENCODED)
    assert net.training
    assert torch.equal(net.model.layers[0].mlp.up_proj.weight.grad, torch.ones(8, 8))
    for row in range(2):
        one = model()
        counted = ENCODED.labels[row] != IGNORED
        logits = one(input_ids=ENCODED.ids[row : row + 1]).logits[0, counted]
        torch.nn.functional.cross_entropy(logits, ENCODED.labels[row, counted]).backward()
        want = torch.stack([p.grad.double().norm() for p in one.parameters()]).mean()
        assert torch.allclose(found[row], want, rtol=1e-4)


def test_what_has_no_gradient_is_refused():
    with pytest.raises(ValueError, match="model: got no weight with requires_grad"):
        gradient_norms(model().requires_grad_(False), ENCODED)
    empty = Encoded(ENCODED.ids, torch.full_like(ENCODED.labels, IGNORED))
    with pytest.raises(ValueError, match="encoded: got no answer in row 0"):
        gradient_norms(model(), empty)
