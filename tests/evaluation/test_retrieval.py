import numpy as np
import pytest

from vitjax.errors import UserError
from vitjax.evaluation.retrieval import chance_recall, recall_at


def spelled_out(queries, keys, query_groups, key_groups, k):
    hits = 0
    for query, group in zip(queries, query_groups, strict=True):
        # wrong before right among equals
        order = sorted(range(len(keys)), key=lambda j: (-float(query @ keys[j]), key_groups[j] == group))
        hits += any(key_groups[j] == group for j in order[:k])
    return hits / len(queries)


def test_recall_is_the_share_of_queries_with_a_hit(monkeypatch):
    monkeypatch.setattr("vitjax.evaluation.retrieval._AT_A_TIME", 7)
    generator = np.random.default_rng(0)
    queries, keys = generator.integers(-4, 5, (60, 3)).astype(float), generator.integers(-4, 5, (30, 3)).astype(float)
    query_groups, key_groups = (
        generator.integers(0, 6, 60),
        np.concatenate([np.arange(6), generator.integers(0, 9, 24)]),
    )
    found = recall_at(queries, keys, query_groups, key_groups, (1, 2, 5, 30))
    for k, share in found.items():
        assert share == pytest.approx(spelled_out(queries, keys, query_groups, key_groups, k))
    assert 0 < found[1] < found[5] < found[30] == 1


def test_a_model_that_says_the_same_of_everything_or_nothing_finds_nothing():
    groups = np.arange(20)
    for value in (1.0, np.nan):
        assert recall_at(np.full((20, 4), value), np.ones((20, 4)), groups, groups) == {1: 0, 5: 0, 10: 0}
    assert recall_at(np.eye(20), np.eye(20), groups, groups)[1] == 1


def test_chance_is_what_random_vectors_find():
    generator = np.random.default_rng(0)
    groups = np.repeat(np.arange(20), 2)
    found = [recall_at(*generator.normal(size=(2, 40, 30)), groups, groups) for _ in range(80)]
    expected = chance_recall(groups, groups)
    for k in (1, 5, 10):
        assert np.mean([recalls[k] for recalls in found]) == pytest.approx(expected[k], abs=0.02)
    assert chance_recall(groups, groups, (1, 100)) == {1: pytest.approx(2 / 40), 100: 1.0}


@pytest.mark.parametrize(
    ("query_groups", "at", "message"),
    [([], (1,), "no queries"), ([0, 5], (1,), "1 of 2 queries have no key"), ([0, 1], (0,), r"`at` \(=\(0,\)\)")],
)
def test_what_is_refused(query_groups, at, message):
    groups = np.array(query_groups, np.int64)
    with pytest.raises(UserError, match=message):
        recall_at(np.ones((len(groups), 2)), np.ones((3, 2)), groups, np.arange(3), at)
