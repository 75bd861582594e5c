import pytest
import torch

from hornbook.optim.muon import Muon, orthogonalise


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(16, 16), (8, 24), (24, 8), (64, 48), (1, 5), (5, 1)])
def test_orthogonalise_keeps_the_singular_vectors_and_evens_the_values(shape):
    matrices = drawn(3, *shape)
    found = orthogonalise(matrices)
    u, _, vh = torch.linalg.svd(matrices.double(), full_matrices=False)
    values = u.mT @ found.double() @ vh.mT  # diagonal, and near the identity, when found is near U V^T
    diagonal = values.diagonal(dim1=-2, dim2=-1)
    torch.testing.assert_close(values, torch.diag_embed(diagonal), rtol=0, atol=1e-3)
    assert diagonal.min() > 0.7
    assert diagonal.max() < 1.3


@pytest.mark.parametrize("shape", [(16, 16), (96, 256)])
def test_bfloat16_is_enough(shape):
    matrices = drawn(3, *shape)
    exact, rough = orthogonalise(matrices), orthogonalise(matrices, torch.bfloat16).float()
    assert 0 < (rough - exact).norm() < 0.06 * exact.norm()
    values = torch.linalg.svdvals(rough)
    assert values.min() > 0.7
    assert values.max() < 1.3


def test_small_singular_values_rise_too():
    u, _, vh = torch.linalg.svd(drawn(1, 12, 12))
    wanted = torch.logspace(0, -2.5, 12)
    values = torch.linalg.svdvals(orthogonalise(u @ torch.diag(wanted) @ vh))
    assert values.min() > 0.5
    assert values.max() < 1.3


def test_the_scale_of_a_matrix_does_not_matter():
    matrix = drawn(1, 10, 20)
    torch.testing.assert_close(orthogonalise(matrix * 1e-3), orthogonalise(matrix), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(orthogonalise(matrix * 1e3), orthogonalise(matrix), rtol=1e-3, atol=1e-3)


def test_matrices_of_a_batch_are_apart_and_zero_stays_zero():
    matrices = torch.stack([drawn(6, 9, seed=1), torch.zeros(6, 9), drawn(6, 9, seed=2)])
    together = orthogonalise(matrices)
    assert not together[1].any()
    for i in (0, 2):
        torch.testing.assert_close(together[i], orthogonalise(matrices[i : i + 1])[0])


def by_hand(weights, gradients, *, rate, momentum, decay):
    """Jordan et al.'s update, one matrix, written out; the momentum is an average, as Nesterov's is taken of it."""
    average = torch.zeros_like(weights)
    for gradient in gradients:
        average = momentum * average + (1 - momentum) * gradient
        ahead = momentum * average + (1 - momentum) * gradient
        rows, columns = weights.shape
        update = orthogonalise(ahead[None])[0] * max(1.0, rows / columns) ** 0.5
        weights = weights * (1 - rate * decay) - rate * update
    return weights


@pytest.mark.parametrize("shape", [(6, 6), (12, 3), (3, 12)])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_steps_by_hand(shape, decay):
    start, gradients = drawn(*shape, seed=5), [drawn(*shape, seed=i) for i in range(4)]
    parameter, neighbour = torch.nn.Parameter(start.clone()), torch.nn.Parameter(drawn(*shape, seed=9))
    optimizer = Muon(
        {"a": parameter, "b": neighbour}, learning_rate=0.04, momentum=0.9, weight_decay=decay, dtype=torch.float32
    )
    for gradient in gradients:
        parameter.grad, neighbour.grad = gradient.clone(), -gradient
        optimizer.step(0.5)
    wanted = by_hand(start, gradients, rate=0.02, momentum=0.9, decay=decay)
    torch.testing.assert_close(parameter.detach(), wanted, rtol=1e-4, atol=1e-5)


def test_a_saved_state_goes_on_with_the_same_bits():
    shapes = {"a": (8, 4), "b": (8, 4), "c": (4, 8)}
    named = {name: torch.nn.Parameter(drawn(*shape)) for name, shape in shapes.items()}
    whole = Muon(named, learning_rate=0.02, momentum=0.95, weight_decay=0.1)

    def step(optimizer, parameters, seed):
        for i, parameter in enumerate(parameters.values()):
            parameter.grad = drawn(*parameter.shape, seed=seed + 10 * i)
        optimizer.step(1.0)

    step(whole, named, 1)
    assert whole.state().keys() == {"a.momentum", "b.momentum", "c.momentum"}
    copies = {name: torch.nn.Parameter(p.detach().clone()) for name, p in named.items()}
    resumed = Muon(copies, learning_rate=0.02, momentum=0.95, weight_decay=0.1)
    resumed.load({key: value.clone() for key, value in whole.state().items()}, updates=1)
    step(whole, named, 2)
    step(resumed, copies, 2)
    for name in shapes:
        assert torch.equal(named[name], copies[name])
