"""Leaves by name, there and back, and rules that leave nothing uncovered."""

import jax.numpy as jnp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitjax.errors import UserError
from vitjax.paths import first_match, flatten, map_with_path, unflatten

names = st.text("abc_0", min_size=1, max_size=4)
trees = st.recursive(st.integers(), lambda inner: st.dictionaries(names, inner, min_size=1, max_size=4), max_leaves=12)


@given(tree=st.dictionaries(names, trees, min_size=1, max_size=4))
def test_unflatten_undoes_flatten(tree):
    assert unflatten(flatten(tree)) == tree


def test_sequences_count_and_paths_read_from_the_root():
    assert flatten({"block_0": [{"kernel": 1}, {"kernel": 2}]}) == {"block_0/0/kernel": 1, "block_0/1/kernel": 2}


@pytest.mark.parametrize("paths", [["a", "a/b"], ["a/b", "a"]])
def test_a_path_that_is_leaf_and_branch_is_refused(paths):
    with pytest.raises(ValueError, match="a leaf"):
        unflatten(dict.fromkeys(paths, 1))


def test_map_hands_the_path_and_all_leaves_to_the_function():
    tree, other = {"a": {"b": 1}, "c": 2}, {"a": {"b": 10}, "c": 20}
    assert map_with_path(lambda path, x, y: (path, x + y), tree, other) == {"a": {"b": ("a/b", 11)}, "c": ("c", 22)}


def test_arrays_are_leaves():
    assert set(flatten({"params": {"kernel": jnp.zeros(3)}})) == {"params/kernel"}


def test_the_first_rule_that_matches_the_whole_path_wins():
    found = first_match(
        [("head/.*", 1), (".*bias", 2), (".*", 3)], ["head/bias", "body/bias", "body/k"], setting="rules"
    )
    assert found == {"head/bias": 1, "body/bias": 2, "body/k": 3}


@given(paths=st.lists(st.text("ab/", min_size=1, max_size=5), unique=True, min_size=1))
def test_a_rule_for_the_rest_covers_everything(paths):
    assert first_match([(".*", 7)], paths, setting="rules") == dict.fromkeys(paths, 7)


def test_every_uncovered_path_is_listed():
    with pytest.raises(UserError) as caught:
        first_match([("head", 1)], ["head", "body/kernel", "body/bias"], setting="decay_rules")
    message = str(caught.value)
    assert message.startswith("`decay_rules` covers every path, but no pattern matches body/kernel, body/bias")
    assert "add a last pattern '.*'" in message


def test_a_rule_that_matches_nothing_is_an_error():
    with pytest.raises(UserError, match=r"`decay_rules`: \['hed/\.\*'\] match no path; the paths are head/kernel"):
        first_match([("hed/.*", 1), (".*", 2)], ["head/kernel"], setting="decay_rules")


def test_a_rule_whose_paths_an_earlier_one_took_is_no_error():
    assert first_match([(".*", 1), ("head", 2)], ["head"], setting="rules") == {"head": 1}


def test_a_pattern_that_is_no_regular_expression_is_an_error():
    with pytest.raises(UserError, match=r"`decay_rules`: '\*' is not a regular expression: nothing to repeat"):
        first_match([("*", 1)], ["a"], setting="decay_rules")
