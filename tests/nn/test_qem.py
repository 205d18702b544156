import numpy as np
import pytest
import torch

from lqcompile.encoding import activation_levels, code_bits, encode, weight_levels
from lqcompile.nn.qem import (
    CHUNK,
    WEIGHT_RIDGE,
    Statistics,
    bit_table,
    is_singular,
    quantize_exact,
    quantize_with_statistics,
    quantize_with_statistics_functional,
    solve_basis,
    sorted_levels,
)

VARIANTS = [quantize_with_statistics, quantize_with_statistics_functional]


def random_basis(rows, bits):
    return (torch.rand(rows, bits) + 0.5) * 2.0 ** torch.arange(bits)


def reference(x, levels):
    """Level index of each value, row by row."""
    return np.stack([encode(row, limits) for row, limits in zip(x.numpy(), levels.thresholds.numpy(), strict=True)])


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize(("symmetric", "numpy_levels"), [(True, weight_levels), (False, activation_levels)])
def test_levels_are_those_of_the_encoding(seed, bits, symmetric, numpy_levels):
    basis = torch.randn(5, bits)
    levels = sorted_levels(basis, symmetric)
    for row in range(5):
        values, codes = numpy_levels(basis[row].numpy())
        np.testing.assert_allclose(levels.values[row], values, rtol=1e-6, atol=1e-7)
        assert levels.codes[row].tolist() == codes.tolist()


def test_tied_levels_keep_the_order_of_their_codes():
    assert sorted_levels(torch.tensor([[1.0, 1.0]]), symmetric=False).codes.tolist() == [[0, 1, 2, 3]]


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize("shape", [(1, 777), (1, 2 * CHUNK + 5), (37, 300), (3, CHUNK + 1)])
@pytest.mark.parametrize("quantize", VARIANTS)
def test_quantize_and_statistics(seed, bits, shape, quantize):
    x = torch.randn(shape) * 2
    levels = sorted_levels(random_basis(shape[0], bits) / 2**bits, symmetric=shape[0] > 1)
    index = reference(x, levels)
    quantized, statistics = quantize(x, levels)
    exact = np.take_along_axis(levels.values.numpy(), index.astype(np.int64), axis=1)
    np.testing.assert_allclose(quantized, exact, rtol=1e-6, atol=1e-6)
    assert np.array_equal(quantize_exact(x, levels), exact)
    for level in range(1 << bits):
        inside = index == level
        assert statistics.counts[:, level].tolist() == inside.sum(1).tolist()
        total = (x.numpy().astype(np.float64) * inside).sum(1)
        np.testing.assert_allclose(statistics.totals[:, level], total, rtol=1e-5, atol=1e-5 * shape[1])


def test_a_value_on_a_threshold_takes_the_lower_level():
    levels = sorted_levels(torch.tensor([[1.0, 2.0]]), symmetric=False)
    x = torch.tensor([[0.5, 1.5, 2.5, 0.5000001]])
    for quantize in VARIANTS:
        assert quantize(x, levels)[0].tolist() == [[0.0, 1.0, 2.0, 1.0]]
    assert quantize_exact(x, levels).tolist() == [[0.0, 1.0, 2.0, 1.0]]


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize("symmetric", [True, False])
def test_solution_is_that_of_dense_least_squares(seed, bits, symmetric):
    rows = 6 if symmetric else 1
    x = torch.randn(rows, 4000) if symmetric else torch.randn(rows, 4000).relu()
    basis = random_basis(rows, bits) / 2**bits
    levels = sorted_levels(basis, symmetric)
    _, statistics = quantize_with_statistics(x, levels)
    solved = solve_basis(statistics, levels, basis, symmetric)
    for row in range(rows):
        codes = levels.codes[row].numpy()[reference(x, levels)[row]]
        bits_of = code_bits(codes, bits).astype(np.float64)
        matrix = (2 * bits_of - 1 if symmetric else bits_of).T
        ridge = WEIGHT_RIDGE if symmetric else 0.0
        normal = matrix.T @ matrix + ridge * np.eye(bits)
        right = matrix.T @ x[row].double().numpy() + ridge * basis[row].double().numpy()
        np.testing.assert_allclose(solved[row], np.linalg.solve(normal, right), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("value", [0.0, 0.6])
def test_singular_activations_move_only_what_occurs(value):
    basis = torch.tensor([[0.5, 1.0]])
    levels = sorted_levels(basis, symmetric=False)
    _, statistics = quantize_with_statistics(torch.full((1, 1000), value), levels)
    solved = solve_basis(statistics, levels, basis, symmetric=False)
    assert solved[0].tolist() == pytest.approx([value or 0.5, 1.0], rel=1e-5)


def test_codes_that_only_occur_together_share_the_correction():
    basis = torch.tensor([[0.5, 1.0]])
    levels = sorted_levels(basis, symmetric=False)
    _, statistics = quantize_with_statistics(torch.full((1, 1000), 2.5), levels)
    assert solve_basis(statistics, levels, basis, symmetric=False)[0].tolist() == pytest.approx([1.0, 1.5], rel=1e-5)


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_singular_equations_are_those_of_too_small_a_rank(seed, bits):
    """Against the rank of the codes that occur, for random selections of them."""
    levels = sorted_levels(torch.rand(1, bits), symmetric=False)
    table = bit_table(bits, symmetric=False)[levels.codes[0]].numpy()
    for _ in range(30):
        occurs = (torch.rand(1 << bits) < 0.4).double()
        counts = occurs * torch.randint(1, 1000, (1 << bits,)).double()
        rank = np.linalg.matrix_rank(table * occurs.numpy()[:, None])
        found = is_singular(Statistics(counts[None], torch.zeros(1, 1 << bits)), levels)
        assert bool(found) == (rank < bits), (counts, rank)
