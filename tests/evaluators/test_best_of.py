import itertools

import pytest
import torch

from mmgen.evaluators.best_of import by_ranking, by_truth, powers


def test_they_are_means_over_all_subsets():
    right = torch.tensor([[0, 1, 1, 0, 0], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]], dtype=torch.bool)
    for count in range(1, 6):
        subsets = list(itertools.combinations(range(5), count))
        for row, ranked, known in zip(right.tolist(), by_ranking(right, count), by_truth(right, count), strict=True):
            assert ranked.item() == pytest.approx(sum(row[subset[0]] for subset in subsets) / len(subsets))
            assert known.item() == pytest.approx(sum(any(row[i] for i in s) for s in subsets) / len(subsets))


def test_the_ends_are_known():
    right = torch.tensor([[False, True, False]])
    assert by_ranking(right, 1).item() == pytest.approx(1 / 3)
    assert by_truth(right, 1).item() == pytest.approx(1 / 3)
    assert (by_ranking(right, 3).item(), by_truth(right, 3).item()) == (0, 1)


def test_how_many_are_looked_at():
    assert [powers(n) for n in (1, 4, 6, 64)] == [[1], [1, 2, 4], [1, 2, 4, 6], [1, 2, 4, 8, 16, 32, 64]]
