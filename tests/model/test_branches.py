import pytest
import torch

from hornbook.facts.shape import GPTShape
from hornbook.model.cpu.branches import ROWS, Tree, branch_hidden
from hornbook.model.decoder import Decoder
from hornbook.model.init import initialise


def decoder(family, kv_heads=4):
    shape = GPTShape(family=family, layers=3, width=32, heads=4, kv_heads=kv_heads, context=24, vocabulary=50)
    model, generator = initialise(Decoder(shape), 0), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return model.double()


def ids(count, seed):
    return torch.randint(50, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


@pytest.mark.parametrize(("family", "kv_heads"), [("gpt2", 4), ("llama", 2), ("qwen3", 1)])
def test_each_branch_is_as_if_read_alone(family, kv_heads):
    model = decoder(family, kv_heads)
    trees = [
        Tree(ids(9, 0), [ids(5, 1), ids(1, 2), ids(15, 3)]),
        Tree([], [ids(4, 4), ids(24, 5)]),
        Tree(ids(1, 6), [ids(2, 7)]),
        *(Tree(ids(10, seed), [ids(6, seed + 1)]) for seed in range(10, 20)),
    ]
    assert sum(tree.num_tokens for tree in trees) > 2 * ROWS
    alone = []
    with torch.no_grad():
        together = branch_hidden(model, trees)
        for tree in trees:
            first = len(tree.beginning)
            alone += [model.hidden(torch.tensor([[*tree.beginning, *b]]))[0, first:] for b in tree.branches]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-10, atol=1e-10)


def test_the_context_bounds_a_branch_and_not_a_tree():
    tree = Tree(ids(4, 0), [ids(20, 1), ids(20, 2)])
    with torch.no_grad():
        assert branch_hidden(decoder("gpt2"), [tree]).shape == (40, 32)
        with pytest.raises(ValueError, match="25 tokens do not fit the context of 24"):
            branch_hidden(decoder("gpt2"), [Tree(ids(4, 0), [ids(21, 1)])])
