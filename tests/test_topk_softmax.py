"""`topk_softmax` equals the loop of the reference, on tensors of any rank."""

import numpy as np
import pytest
import reference
import torch
from numpy.testing import assert_allclose, assert_array_equal

from skparse.nn.functional import topk_softmax

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
# Numbers of scores that are selected in other ways than sorted.
MANY, VERY_MANY = 200, 4096


def draw_scores(*shape, dtype=torch.float32, seed=0, ties=False):
    scores = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return ((2 * scores).round() / 2 if ties else scores).to(dtype)


def expected_codes(row, top_k):
    """Dense codes of one row of scores, by the loops of the reference."""
    h = row.double().tolist()
    kept = reference.kept_experts(h, top_k)
    codes = np.zeros(len(h))
    codes[kept] = reference.gate(h, kept)
    return kept, codes


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("n_experts", [1, 7, 77, MANY, VERY_MANY])
@pytest.mark.parametrize("dtype", DTYPES)
def test_values_and_order_equal_the_reference(dtype, n_experts, ties):
    scores = draw_scores(6, n_experts, dtype=dtype, ties=ties)
    for top_k in (1, 3, n_experts, n_experts + 5):
        kept = topk_softmax(scores, top_k)
        assert kept.expert_weights.dtype == dtype
        dense = kept.to_dense(n_experts)
        for i, row in enumerate(scores):
            order, codes = expected_codes(row, top_k)
            assert kept.expert_indices[i, : len(order)].tolist() == order
            # The sum of the exponentials is rounded once for each.
            rtol = torch.finfo(dtype).eps * max(4, len(order) / 50)
            assert_allclose(dense[i].double().numpy(), codes, rtol=rtol, atol=1e-12)


@pytest.mark.parametrize("kind", ["distinct", "ties", "few are positive", "none is positive"])
@pytest.mark.parametrize("n_experts", [40, MANY, VERY_MANY, 5 * VERY_MANY])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_single_row_gets_what_it_gets_among_others(dtype, n_experts, kind):
    scores = draw_scores(1, n_experts, dtype=dtype, ties=kind == "ties")
    if kind == "few are positive":
        scores[0, 5:] = -1.0
    if kind == "none is positive":
        scores = -scores.abs()
    for top_k in (1, 8, 32):
        single, first = topk_softmax(scores, top_k), topk_softmax(scores.repeat(3, 1), top_k)
        assert torch.equal(single.to_dense(n_experts)[0], first.to_dense(n_experts)[0])
        is_kept = single.expert_weights[0] > 0
        assert torch.equal(single.expert_indices[0][is_kept], first.expert_indices[0][is_kept])


def test_two_equal_scores_among_very_many_are_ordered():
    scores = torch.arange(VERY_MANY, dtype=torch.float32).repeat(4, 1)
    scores[0, 3] = scores[0, -1]
    scores[1, 17] = scores[1, -2]
    expected = [[3, 4095], [4095, 17], [4095, 4094], [4095, 4094]]
    assert topk_softmax(scores, 2).expert_indices.tolist() == expected


@pytest.mark.parametrize("shape", [(9,), (2, 9), (2, 3, 9), (2, 1, 3, 9), (0, 9), (2, 0, 9)])
def test_any_number_of_leading_dimensions_gives_the_rows_of_a_matrix(shape):
    scores = draw_scores(*shape)
    kept, flat = topk_softmax(scores, 4), topk_softmax(scores.reshape(-1, 9), 4)
    assert kept.expert_indices.shape == kept.expert_weights.shape == (*shape[:-1], 4)
    for mine, theirs in zip(kept, flat, strict=True):
        assert torch.equal(mine.reshape(-1, 4), theirs)


@pytest.mark.parametrize("n_experts", [9, MANY])
def test_all_experts_give_a_softmax_over_the_positive_scores(n_experts):
    scores = draw_scores(5, n_experts, dtype=torch.float64)
    masked = scores.masked_fill(scores <= 0, -torch.inf).softmax(dim=-1)
    codes = topk_softmax(scores, n_experts).to_dense(n_experts)
    assert_allclose(codes, masked, rtol=1e-14)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n_experts", [10, MANY, 8 * VERY_MANY])
def test_of_equal_scores_the_lowest_index_comes_first(n_experts, dtype):
    scores = torch.ones(3, n_experts, dtype=dtype)
    scores[:, n_experts // 2] = 2
    expected = [n_experts // 2, 0, 1, 2, 3]
    assert topk_softmax(scores, 5).expert_indices.tolist() == [expected] * 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n_experts", [10, MANY])
def test_neighbouring_numbers_are_no_ties(n_experts, dtype):
    larger = torch.nextafter(torch.ones((), dtype=dtype), torch.tensor(2.0, dtype=dtype))
    scores = torch.ones(n_experts, dtype=dtype)
    scores[-1] = larger
    assert topk_softmax(scores, 2).expert_indices.tolist() == [n_experts - 1, 0]


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("n_experts", [10, MANY, 2 * VERY_MANY])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_nan_shows_in_the_weights_of_its_row_only(dtype, n_experts, sign):
    scores = draw_scores(3, n_experts, dtype=dtype)
    # A NaN that a processor computes has its sign bit set.
    scores[1, 4] = torch.copysign(torch.tensor(torch.nan), torch.tensor(sign))
    weights = topk_softmax(scores, 2).expert_weights
    assert weights.isnan().all(dim=-1).tolist() == [False, True, False]


@pytest.mark.parametrize("n_experts", [10, MANY])
def test_infinite_scores_give_what_softmax_gives(n_experts):
    scores = draw_scores(3, n_experts)
    scores[1, 4] = torch.inf
    scores[2, 5] = -torch.inf
    weights = topk_softmax(scores, 2).expert_weights
    assert weights.isnan().any(dim=-1).tolist() == [False, True, False]
    assert not topk_softmax(torch.full((2, 5), -torch.inf), 2).expert_weights.any()


def test_a_row_without_a_positive_score_has_neither_weights_nor_a_gradient():
    scores = torch.tensor([[-1.0, 0.0, -torch.inf], [1.0, 2.0, -1.0]], requires_grad=True)
    weights = topk_softmax(scores, 2).expert_weights
    assert weights[0].tolist() == [0, 0]
    (weights * torch.tensor([1.0, 2.0])).sum().backward()
    assert not scores.grad[0].any()
    assert scores.grad[1, :2].all() and scores.grad[1, 2] == 0


@pytest.mark.parametrize("n_experts", [7, MANY])
def test_gradients_of_first_and_second_order_equal_finite_differences(n_experts):
    scores = draw_scores(2, n_experts, dtype=torch.float64).requires_grad_()

    def weights(scores):
        return topk_softmax(scores, 4).expert_weights

    assert torch.autograd.gradcheck(weights, scores)
    assert torch.autograd.gradgradcheck(weights, scores)


def test_scores_are_not_changed():
    scores = draw_scores(4, MANY)
    before = scores.clone()
    topk_softmax(scores, 3)
    assert_array_equal(scores, before)


@pytest.mark.parametrize("top_k", [0, -1])
def test_a_level_below_one_is_refused(top_k):
    with pytest.raises(ValueError, match=f"top_k has to be at least 1, got {top_k}"):
        topk_softmax(torch.ones(3), top_k)


@pytest.mark.parametrize("top_k", [2.0, "2", None, True])
def test_a_level_that_is_no_integer_is_refused(top_k):
    with pytest.raises(TypeError, match="top_k has to be an integer"):
        topk_softmax(torch.ones(3), top_k)


def test_integers_of_numpy_are_levels():
    assert topk_softmax(torch.ones(3), np.int64(2)).expert_indices.tolist() == [0, 1]


def test_scalars_and_integers_are_refused():
    with pytest.raises(ValueError, match="at least one dimension"):
        topk_softmax(torch.tensor(1.0), 1)
    with pytest.raises(TypeError, match="floating dtype, got torch.int64"):
        topk_softmax(torch.ones(3, dtype=torch.int64), 1)
