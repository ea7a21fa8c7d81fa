"""Helpers for models with layers of experts: K of all layers, expert usage, transformers."""

import copy

import pytest
import torch
from torch import nn

from skparse.nn import (
    NestedTopK,
    SparseExpertFeedForward,
    SparseExpertNetwork,
    expert_usage,
    replace_feed_forward,
    set_top_k,
)

# A warning of torch itself at the first CSR tensor.
pytestmark = pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")


def build_model(top_k=8):
    torch.manual_seed(0)
    return nn.Sequential(
        SparseExpertFeedForward(6, 16, top_k),
        nn.Dropout(0.5),
        SparseExpertFeedForward(6, 36, top_k, router="product"),
        SparseExpertNetwork.fully_connected(6, 20, 3, top_k=top_k),
    )


def levels_of(model):
    return [layer.top_k for layer in model if hasattr(layer, "top_k")]


def test_set_top_k_sets_all_layers_and_returns_the_model():
    model = build_model()
    assert set_top_k(model, 3) is model
    assert levels_of(model) == [3, 3, 3]
    layer = SparseExpertFeedForward(6, 16, 4)
    assert set_top_k(layer, 2).top_k == 2


def test_set_top_k_changes_all_layers_or_none():
    model = build_model()
    with pytest.raises(ValueError, match=r"top_k has to be in \[1, 16\].* got 17"):
        set_top_k(model, 17)
    with pytest.raises(TypeError, match="integer"):
        set_top_k(model, 1.5)
    assert levels_of(model) == [8, 8, 8]


@pytest.mark.parametrize("function", [lambda m: set_top_k(m, 2), lambda m: NestedTopK(m, 10)])
def test_a_model_without_experts_is_refused(function):
    with pytest.raises(ValueError, match="The Linear has no SparseExpertFeedForward or Sparse"):
        function(nn.Linear(2, 2))


def test_nested_levels_are_drawn_after_the_start_and_not_after_the_end():
    model = build_model()
    nested = NestedTopK(model, n_steps=200, start=0.25)
    assert nested.top_ks == (1, 2, 4, 8)
    drawn = [nested.step() for _ in range(210)]
    assert drawn[:50] == [None] * 50 and drawn[200:] == [None] * 10
    counts = {level: drawn.count(level) for level in nested.top_ks}
    assert min(counts.values()) > 20 and sum(counts.values()) == 150


@pytest.mark.parametrize(
    ("top_k", "levels"), [(1, (1,)), (2, (1, 2)), (6, (1, 2, 4, 6)), (32, (4, 8, 16, 32))]
)
def test_levels_are_powers_of_two_from_an_eighth_of_k_on(top_k, levels):
    assert NestedTopK(SparseExpertFeedForward(4, 64, top_k), 10).top_ks == levels


def test_a_drawn_level_is_that_of_training_mode_only():
    model = build_model()
    layer, x = model[0], torch.randn(5, 6)
    nested = NestedTopK(model, n_steps=100, top_ks=[2], start=0.0)
    assert nested.step() == 2
    assert torch.equal(layer(x), layer(x, top_k=2))
    assert torch.equal(layer(x, top_k=5), layer.eval()(x, top_k=5))
    assert torch.equal(layer(x), layer(x, top_k=8))
    network = model[3]
    assert torch.equal(network(x), network(x, top_k=2))
    assert torch.equal(network.eval()(x), network(x, top_k=8))
    assert levels_of(model) == [8, 8, 8]


def test_nested_levels_are_reproducible_and_go_on_after_an_interruption():
    state = torch.get_rng_state()
    runs = [NestedTopK(build_model_quietly(), 40, start=0.5, seed=seed) for seed in (3, 3, 4)]
    drawn = [[run.step() for _ in range(30)] for run in runs]
    assert drawn[0] == drawn[1] != drawn[2]
    resumed = NestedTopK(build_model_quietly(), 40, start=0.5, seed=9)
    resumed.load_state_dict(copy.deepcopy(runs[0].state_dict()))
    assert [resumed.step() for _ in range(10)] == [runs[1].step() for _ in range(10)]
    assert torch.equal(torch.get_rng_state(), state)


def build_model_quietly():
    with torch.random.fork_rng(devices=[]):
        return build_model()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_steps": 0}, "n_steps has to be at least 1, got 0"),
        ({"start": 1.5}, r"start has to be in \[0, 1\], got 1.5"),
        ({"top_ks": []}, "at least one level"),
        ({"top_ks": [4, 17]}, r"top_k has to be in \[1, 16\]"),
    ],
)
def test_parameters_of_nested_training_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        NestedTopK(build_model(), **{"n_steps": 10, **options})


def test_layers_of_different_k_need_given_levels():
    model = build_model()
    model[0].top_k = 4
    with pytest.raises(ValueError, match=r"different top_k, \[4, 8\]: top_ks"):
        NestedTopK(model, 10)


def test_expert_usage_counts_what_route_keeps_in_every_layer():
    model = build_model(top_k=3)
    batches = [torch.randn(10, 6), torch.randn(2, 4, 6)]
    usage = expert_usage(model, batches)
    assert list(usage) == ["0", "2", "3"]
    expected = torch.zeros(16, dtype=torch.int64)
    for batch in batches:
        kept = model[0].route(batch)
        for experts, weights in zip(*(part.flatten(0, -2) for part in kept), strict=True):
            for expert in experts[weights > 0].tolist():
                expected[expert] += 1
    assert torch.equal(usage["0"], expected)
    assert [len(counts) for counts in usage.values()] == [16, 36, 20]
    # In evaluation mode dropout is off: the same once more.
    again = expert_usage(model, batches)
    assert all(torch.equal(again[name], usage[name]) for name in usage)


def test_expert_usage_leaves_modes_hooks_gradients_and_state_alone():
    model = build_model()
    model[2].eval()
    before = copy.deepcopy(model.state_dict())
    expert_usage(model, [torch.randn(3, 6)])
    assert [part.training for part in model] == [True, True, False, True]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(value.grad is None for value in model.parameters())
    assert not any(part._forward_pre_hooks for part in model.modules())
    with pytest.raises(RuntimeError):
        expert_usage(model, [torch.randn(3, 7)])
    assert model.training and not any(part._forward_pre_hooks for part in model.modules())


def test_expert_usage_takes_tuples_and_dicts_of_arguments():
    layer, x = SparseExpertFeedForward(6, 16, 8), torch.randn(30, 6)
    usage = expert_usage(layer, [(x, 2), {"x": x, "top_k": 2}])
    assert torch.equal(usage[""], 2 * expert_usage(set_top_k(layer, 2), [x])[""])
    sparse = SparseExpertNetwork.fully_connected(6, 20, 3)
    usage = expert_usage(sparse, [torch.eye(6).to_sparse_csr()])
    assert torch.equal(usage[""], expert_usage(sparse, [torch.eye(6)])[""])


def build_encoder(**options):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, nhead=2, dim_feedforward=24, batch_first=True, **options)
    return nn.TransformerEncoder(layer, num_layers=2)


def sparse_block(linear1, linear2):
    return SparseExpertFeedForward(8, 24, 4)


def test_a_transformer_predicts_with_its_layers_of_experts():
    # Its fast path in evaluation mode reads linear1.weight, and would skip the layers.
    model = replace_feed_forward(build_encoder(dropout=0.0), sparse_block)
    x, padded = torch.randn(3, 5, 8), torch.zeros(3, 5, dtype=torch.bool)
    padded[0, 3:] = True
    expected = model(x, src_key_padding_mask=padded)
    model.eval()
    with torch.no_grad():
        out = model(x, src_key_padding_mask=padded)
        torch.testing.assert_close(out[~padded], expected[~padded])
        set_top_k(model, 1)
        changed = model(x, src_key_padding_mask=padded)
    assert not torch.allclose(changed[~padded], expected[~padded])


def test_a_single_layer_predicts_with_its_experts():
    layer = replace_feed_forward(build_encoder(dropout=0.0).layers[0], sparse_block)
    x = torch.randn(3, 5, 8)
    expected = layer(x)
    with torch.inference_mode():
        torch.testing.assert_close(layer.eval()(x), expected)


def test_all_blocks_of_an_encoder_and_a_decoder_are_replaced_and_trained():
    torch.manual_seed(0)
    model = nn.Transformer(8, 2, 1, 2, dim_feedforward=24, batch_first=True)
    replace_feed_forward(model, sparse_block)
    blocks = [m for m in model.modules() if isinstance(m, SparseExpertFeedForward)]
    assert len(blocks) == 3
    model(torch.randn(2, 5, 8), torch.randn(2, 4, 8)).sin().sum().backward()
    assert all(block.router.weight.grad.any() for block in blocks)
    assert len(expert_usage(model, [(torch.randn(2, 5, 8), torch.randn(2, 4, 8))])) == 3


def test_blocks_can_be_built_from_the_dense_ones():
    model = build_encoder()
    first = model.layers[0].linear1.weight.clone()
    replace_feed_forward(
        model, lambda one, two: SparseExpertFeedForward.from_dense(one, two, top_k=4)
    )
    assert torch.equal(model.layers[0].linear1.router.weight, first)


def test_a_model_without_transformer_layers_is_refused():
    with pytest.raises(ValueError, match="The Linear has no transformer layer"):
        replace_feed_forward(nn.Linear(2, 2), sparse_block)
