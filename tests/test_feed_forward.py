"""`SparseExpertFeedForward` equals its slow twin, and works with the rest of PyTorch."""

import copy
import io
import math
import pickle
import shutil

import pytest
import reference
import torch
from torch import nn
from torch.func import functional_call, grad, stack_module_state, vmap

from skparse.nn import SparseExpertFeedForward, SparseExpertNetwork
from skparse.nn.functional import topk_softmax

ROUTERS = ["dense", "product"]
HAS_COMPILER = any(map(shutil.which, ("c++", "g++", "clang++", "cl")))
NO_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")


def build_layer(router="dense", *, seed=0, n_experts=12, top_k=4, dtype=torch.float32, **options):
    """Return a layer with biases and a scale that do something; d_model is 8."""
    torch.manual_seed(seed)
    layer = SparseExpertFeedForward(8, n_experts, top_k, router=router, dtype=dtype, **options)
    if layer.bias is not None:
        nn.init.uniform_(layer.bias, -1, 1)
    return layer


def draw_input(*shape, dtype=torch.float32, seed=1):
    return torch.randn(*shape, 8, generator=torch.Generator().manual_seed(seed)).to(dtype)


def matrices_of(layer):
    """W1 and b1 of every head of a layer, those of a product router materialised."""
    weight, bias = layer.router.weight, layer.router.bias
    heads = []
    for part in weight.chunk(layer.n_heads), bias.chunk(layer.n_heads):
        if layer.router_kind == "product":
            split = [p.split(layer.key_counts) for p in part]
            part = [(rows[:, None] + columns[None]).flatten(0, 1) for rows, columns in split]
        heads.append(part)
    return list(zip(*heads, strict=True))


def slow_forward(layer, x, top_k):
    """Output for one input vector, with the loops of the reference."""
    out = [0.0] * layer.d_out
    for W1, b1 in matrices_of(layer):
        h = [
            b + sum(w * v for w, v in zip(row, x.tolist(), strict=True))
            for row, b in zip(W1.tolist(), b1.tolist(), strict=True)
        ]
        kept = reference.kept_experts(h, top_k)
        for expert, weight in zip(kept, reference.gate(h, kept), strict=True):
            for c in range(layer.d_out):
                out[c] += weight * layer.expert_outputs[expert, c].item()
    scale = layer.output_scale.item()
    return [scale * value + b for value, b in zip(out, layer.bias.tolist(), strict=True)]


def dense_forward(layer, x, top_k):
    """Output by dense matrices, which autograd differentiates."""
    codes = sum(
        topk_softmax(x @ W1.T + b1, top_k).to_dense(layer.n_experts)
        for W1, b1 in matrices_of(layer)
    )
    return layer.output_scale * (codes @ layer.expert_outputs) + layer.bias


@pytest.mark.parametrize("n_heads", [1, 3])
@pytest.mark.parametrize("router", ROUTERS)
def test_forward_equals_the_slow_twin_at_every_k(router, n_heads):
    layer = build_layer(router, n_heads=n_heads, d_out=5, dtype=torch.float64)
    x = draw_input(6, dtype=torch.float64)
    for top_k in (1, 2, 7, 12):
        expected = [slow_forward(layer, row, top_k) for row in x]
        torch.testing.assert_close(layer(x, top_k), torch.tensor(expected, dtype=x.dtype))


@pytest.mark.parametrize("n_samples", [1, 6])
@pytest.mark.parametrize("n_heads", [1, 2])
@pytest.mark.parametrize("router", ROUTERS)
def test_every_gradient_equals_that_of_dense_matrices(router, n_heads, n_samples):
    layer = build_layer(router, n_heads=n_heads, dtype=torch.float64)
    x = draw_input(n_samples, dtype=torch.float64).requires_grad_()
    trained = [x, *layer.parameters()]
    for top_k in (1, 3, 12):
        mine, theirs = (
            torch.autograd.grad(out.sin().sum(), trained)
            for out in (layer(x, top_k), dense_forward(layer, x, top_k))
        )
        for gradient, expected in zip(mine, theirs, strict=True):
            torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("router", ROUTERS)
def test_gradients_of_first_and_second_order_equal_finite_differences(router):
    layer = build_layer(router, dtype=torch.float64)
    names = [name for name, _ in layer.named_parameters()]
    values = [value.detach().requires_grad_() for value in layer.parameters()]

    def call(x, *values):
        return functional_call(layer, dict(zip(names, values, strict=True)), x)

    x = draw_input(3, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(call, (x, *values))
    assert torch.autograd.gradgradcheck(call, (x, *values))


@pytest.mark.parametrize("n_experts", [12, 49, 180, 7, 1])
def test_a_product_router_keeps_what_a_dense_router_of_its_sums_keeps(n_experts):
    layer = build_layer("product", n_experts=n_experts, top_k=1, dtype=torch.float64)
    (matrix,) = matrices_of(layer)
    assert math.prod(layer.key_counts) == n_experts
    x = draw_input(40, dtype=torch.float64)
    for top_k in {1, min(5, n_experts), n_experts}:
        mine = layer.route(x, top_k)
        theirs = topk_softmax(nn.functional.linear(x, *matrix), top_k)
        dense = (kept.to_dense(n_experts) for kept in (mine, theirs))
        torch.testing.assert_close(*dense)
        positive = theirs.expert_weights > 0
        assert torch.equal(mine.expert_indices[positive], theirs.expert_indices[positive])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("router", ROUTERS)
def test_of_equal_scores_the_lowest_expert_is_kept(router, dtype):
    layer = build_layer(router, n_experts=400, top_k=6, dtype=dtype)
    with torch.no_grad():
        layer.router.weight.zero_()
        layer.router.bias.fill_(0.5)
    assert layer.route(draw_input(2, dtype=dtype)).expert_indices.tolist() == [list(range(6))] * 2


@pytest.mark.parametrize("router", ROUTERS)
def test_all_experts_give_a_softmax_over_the_positive_scores(router):
    layer = build_layer(router, top_k=12, output_scale=False, dtype=torch.float64)
    x = draw_input(5, dtype=torch.float64)
    ((W1, b1),) = matrices_of(layer)
    h = x @ W1.T + b1
    codes = h.masked_fill(h <= 0, -torch.inf).softmax(dim=-1)
    torch.testing.assert_close(layer(x), codes @ layer.expert_outputs + layer.bias)


@pytest.mark.parametrize("router", ROUTERS)
def test_a_nan_in_the_input_shows_in_the_output_of_its_row_only(router):
    layer = build_layer(router, n_experts=256)
    x = draw_input(3)
    x[1, 2] = torch.nan
    assert layer(x).isnan().all(dim=-1).tolist() == [False, True, False]


@pytest.mark.parametrize("router", ROUTERS)
@pytest.mark.parametrize("shape", [(), (1,), (5,), (2, 3), (2, 1, 3), (0,), (2, 0)])
def test_any_number_of_leading_dimensions(shape, router):
    layer = build_layer(router, d_out=5)
    x = draw_input(*shape)
    out, route = layer(x), layer.route(x)
    assert out.shape == (*shape, 5)
    assert route.expert_indices.shape == route.expert_weights.shape == (*shape, 4)
    torch.testing.assert_close(out.reshape(-1, 5), layer(x.reshape(-1, 8)))


@pytest.mark.parametrize("router", ROUTERS)
def test_the_gradient_of_an_empty_batch_is_zero(router):
    layer = build_layer(router)
    layer(draw_input(0)).sum().backward()
    assert all(not value.grad.any() for value in layer.parameters())


def test_a_layer_equals_the_network_of_the_classifier_with_the_same_weights():
    layer = build_layer(d_out=5, output_scale=False, dtype=torch.float64)
    network = SparseExpertNetwork.fully_connected(8, 12, 5, top_k=4, dtype=torch.float64)
    with torch.no_grad():
        network.router_values.copy_(layer.router.weight.T.flatten())
        network.router_intercept.copy_(layer.router.bias)
        network.output_values.copy_(layer.expert_outputs.flatten())
        network.intercept.copy_(layer.bias)
    x = draw_input(6, dtype=torch.float64)
    torch.testing.assert_close(layer(x), network(x))
    for module in (layer, network):
        module(x).sin().sum().backward()
    torch.testing.assert_close(layer.router.weight.grad.T.flatten(), network.router_values.grad)
    torch.testing.assert_close(layer.expert_outputs.grad.flatten(), network.output_values.grad)


@pytest.mark.parametrize("router", ROUTERS)
def test_k_can_be_set_at_any_time_and_for_one_call(router):
    layer, x = build_layer(router, n_experts=30), draw_input(7)
    at_two = layer(x, top_k=2)
    assert not torch.equal(at_two, layer(x))
    layer.top_k = 2
    assert layer.top_k == 2
    torch.testing.assert_close(layer(x), at_two)
    assert layer.route(x, 7).expert_indices.shape == (7, 7)


@pytest.mark.parametrize("top_k", [0, 13])
def test_a_level_out_of_range_is_refused_everywhere(top_k):
    layer = build_layer()
    message = rf"top_k has to be in \[1, 12\], n_experts at most, got {top_k}"
    with pytest.raises(ValueError, match=message):
        layer.top_k = top_k
    with pytest.raises(ValueError, match=message):
        layer(draw_input(1), top_k=top_k)
    with pytest.raises(ValueError, match=message):
        SparseExpertFeedForward(8, 12, top_k)
    with pytest.raises(TypeError, match="integer"):
        layer.top_k = 2.0
    assert layer.top_k == 4


@pytest.mark.parametrize("name", ["d_model", "n_experts", "d_out", "n_heads"])
@pytest.mark.parametrize("value", [0, 2.0, True])
def test_sizes_are_positive_integers(name, value):
    options = {"d_model": 8, "n_experts": 12, "top_k": 1, name: value}
    with pytest.raises(ValueError, match=f"{name} has to be a positive integer"):
        SparseExpertFeedForward(**options)


def test_an_unknown_router_is_refused():
    with pytest.raises(ValueError, match="router has to be one of .*got 'hash'"):
        SparseExpertFeedForward(8, 12, 4, router="hash")


def test_the_scale_starts_at_k_and_can_be_folded_into_the_outputs():
    layer, x = build_layer(), draw_input(5)
    assert layer.output_scale.item() == 4
    expected = layer(x)
    assert layer.fold_scale_() is layer
    assert layer.output_scale is None
    assert "output_scale" not in layer.state_dict()
    torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(layer.fold_scale_()(x), expected)  # folding again changes nothing


def test_a_layer_without_scale_and_bias_is_a_weighted_mean_of_outputs():
    layer, x = build_layer(output_scale=False, bias=False), draw_input(5)
    assert set(layer.state_dict()) == {"router.weight", "expert_outputs"}
    codes = layer.route(x).to_dense(12)
    torch.testing.assert_close(layer(x), codes @ layer.expert_outputs)


def test_reset_parameters_draws_what_a_new_layer_draws():
    layer = build_layer()
    torch.manual_seed(7)
    layer.reset_parameters()
    torch.manual_seed(7)
    layer.reset_parameters()
    before = copy.deepcopy(layer.state_dict())
    torch.manual_seed(8)
    layer.reset_parameters()
    changed = [name for name, value in layer.state_dict().items() if (value != before[name]).any()]
    assert changed == ["expert_outputs", "router.weight", "router.bias"]
    assert not layer.bias.any() and layer.output_scale == 4


def test_from_dense_copies_the_weights_and_their_dtype():
    linear1, linear2 = nn.Linear(8, 12, dtype=torch.float64), nn.Linear(12, 3, dtype=torch.float64)
    layer = SparseExpertFeedForward.from_dense(linear1, linear2, 5, output_scale=False)
    assert (layer.top_k, layer.d_out, layer.output_scale) == (5, 3, None)
    x = draw_input(4, dtype=torch.float64)
    codes = topk_softmax(linear1(x), 5).to_dense(12)
    torch.testing.assert_close(layer(x), linear2(codes))
    linear1.weight.data.zero_()
    assert layer.router.weight.all()


def test_from_dense_refuses_layers_that_do_not_fit():
    with pytest.raises(ValueError, match="linear1 has 12 outputs, linear2 has 13 inputs"):
        SparseExpertFeedForward.from_dense(nn.Linear(8, 12), nn.Linear(13, 8), 4)
    with pytest.raises(ValueError, match="bias"):
        SparseExpertFeedForward.from_dense(nn.Linear(8, 12), nn.Linear(12, 8, bias=False), 4)


def test_the_printed_form_names_the_sizes():
    text = repr(build_layer("product"))
    assert "d_model=8, n_experts=12, top_k=4, d_out=8, router='product', n_heads=1" in text


@pytest.mark.parametrize("router", ROUTERS)
def test_state_dict_deepcopy_and_pickle_carry_a_layer(router):
    layer, x = build_layer(router, n_experts=200), draw_input(5)
    layer.top_k = 3
    layer(x)  # a call leaves nothing behind
    names = {"router.weight", "router.bias", "expert_outputs", "output_scale", "bias"}
    assert set(layer.state_dict()) == names
    other = build_layer(router, n_experts=200, seed=5, top_k=3)
    other.load_state_dict(layer.state_dict())
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    copies = [
        other, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)),
        torch.load(file, weights_only=False),
    ]  # fmt: skip
    for twin in copies:
        assert twin.top_k == 3
        assert torch.equal(twin(x), layer(x))


@pytest.mark.parametrize("router", ROUTERS)
def test_a_layer_made_on_the_meta_device_is_filled_by_a_state_dict(router):
    layer, x = build_layer(router, n_experts=200), draw_input(5)
    empty = SparseExpertFeedForward(8, 200, 4, router=router, device="meta")
    empty.to_empty(device="cpu").load_state_dict(layer.state_dict())
    assert torch.equal(empty(x), layer(x))


@pytest.mark.parametrize("router", ROUTERS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_dtypes_give_nearly_the_same_and_keep_their_dtype(dtype, router):
    layer, x = build_layer(router, n_experts=200), draw_input(5)
    converted = copy.deepcopy(layer).to(dtype)
    out = converted(x.to(dtype))
    assert out.dtype == dtype
    # With other experts, where rounded scores are equal.
    torch.testing.assert_close(out.float(), layer(x), rtol=0.1, atol=0.1)
    out.sum().backward()
    assert {value.grad.dtype for value in converted.parameters()} == {dtype}
    # What decides between equal scores has not been rounded.
    with torch.no_grad():
        converted.float().router.weight.zero_()
        converted.router.bias.fill_(0.5)
    assert converted.route(x).expert_indices.tolist() == [list(range(4))] * 5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("router", ROUTERS)
def test_under_autocast_the_output_has_the_dtype_of_a_linear_layer(router, dtype):
    layer, x = build_layer(router), draw_input(5)
    with torch.autocast("cpu", dtype):
        out = layer(x)
        assert out.dtype == nn.Linear(8, 8)(x).dtype == dtype
    torch.testing.assert_close(out.float(), layer(x), rtol=0.05, atol=0.05)
    out.sum().backward()
    assert all(value.grad.dtype == torch.float32 for value in layer.parameters())


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # of torch's own import
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("router", ROUTERS)
def test_a_compiled_layer_gives_the_same_values_and_gradients(router, backend):
    if backend == "inductor" and not HAS_COMPILER:
        pytest.skip("no C++ compiler is at hand, which inductor needs")
    torch.compiler.reset()
    layer, x = build_layer(router, n_experts=200), draw_input(5)
    compiled = torch.compile(layer, backend=backend, fullgraph=True)
    results = []
    for call in (compiled, layer):
        layer.zero_grad()
        out = call(x)
        out.square().sum().backward()
        results.append([out.detach(), *(value.grad.clone() for value in layer.parameters())])
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("router", ROUTERS)
def test_an_exported_layer_takes_batches_of_other_sizes(router):
    layer = build_layer(router, n_experts=200).eval()
    sizes = ({0: torch.export.Dim("batch"), 1: torch.export.Dim("time")},)
    program = torch.export.export(layer, (draw_input(2, 3),), dynamic_shapes=sizes)
    x = draw_input(4, 7)
    torch.testing.assert_close(program.module()(x), layer(x))


@pytest.mark.parametrize("router", ROUTERS)
def test_vmap_over_inputs_gives_gradients_of_single_samples(router):
    layer, x = build_layer(router), draw_input(5)
    torch.testing.assert_close(vmap(layer)(x), layer(x))
    torch.testing.assert_close(vmap(layer, in_dims=1)(x.T), layer(x))
    values = dict(layer.named_parameters())

    def loss(values, row):
        return functional_call(layer, values, row).square().sum()

    together = vmap(grad(loss), in_dims=(None, 0))(values, x)
    for i, row in enumerate(x):
        for name, gradient in grad(loss)(values, row).items():
            torch.testing.assert_close(together[name][i], gradient)


@pytest.mark.parametrize("router", ROUTERS)
def test_vmap_over_parameters_runs_an_ensemble(router):
    layers, x = [build_layer(router, seed=seed) for seed in range(3)], draw_input(5)
    values, buffers = stack_module_state(layers)
    for inputs, place in ((x, None), (torch.stack([x, 2 * x, 3 * x]), 0)):
        out = vmap(
            lambda values, buffers, x: functional_call(layers[0], (values, buffers), x),
            in_dims=(0, 0, place),
        )(values, buffers, inputs)
        for i, layer in enumerate(layers):
            expected = layer(inputs if place is None else inputs[i])
            torch.testing.assert_close(out[i], expected)


def test_an_optimizer_of_torch_lowers_the_loss_in_a_residual_block():
    for router in ROUTERS:
        layer, x = build_layer(router, n_experts=64, top_k=8), draw_input(100)
        targets = x.roll(1, dims=1) * x.sign()
        optimizer = torch.optim.Adam(layer.parameters(), lr=0.01)
        losses = []
        for _ in range(150):
            optimizer.zero_grad()
            loss = (x + layer(x) - targets).square().mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < 0.3 * losses[0]


@NO_CUDA
@pytest.mark.parametrize("router", ROUTERS)
def test_values_and_gradients_on_a_gpu_equal_those_on_the_cpu(router):
    layer, x = build_layer(router, n_experts=200), draw_input(2, 5)
    on_gpu = copy.deepcopy(layer).to("cuda")
    out, expected = on_gpu(x.to("cuda")), layer(x)
    torch.testing.assert_close(out.cpu(), expected, rtol=1e-4, atol=1e-5)
    for result in (out, expected):
        result.square().sum().backward()
    for mine, theirs in zip(on_gpu.parameters(), layer.parameters(), strict=True):
        torch.testing.assert_close(mine.grad.cpu(), theirs.grad, rtol=1e-3, atol=1e-4)
