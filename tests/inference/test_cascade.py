"""The cascade of appendix E: the least certain run again, all others keep their first answer."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import vitjax
from vitjax.data.packing import PackedBatches
from vitjax.data.sampling import TokenBudget
from vitjax.errors import UserError
from vitjax.inference.bundle import Bundle
from vitjax.inference.cascade import amortised, cascade, cascaded_scores, least_certain


@given(count=st.integers(1, 40), share=st.floats(0, 1), seed=st.integers(0, 9))
def test_the_chosen_are_the_least_certain(count, share, seed):
    confidence = np.random.default_rng(seed).random(count).round(1)
    chosen = least_certain(confidence, share)
    assert len(chosen) == round(share * count)
    rest = np.delete(confidence, chosen)
    assert not len(chosen) or not len(rest) or confidence[chosen].max() <= rest.min()
    small, large = np.random.default_rng(seed).random((2, count, 3))
    mixed = cascaded_scores(small, large, share)
    again = least_certain(small.max(axis=1), share)
    np.testing.assert_array_equal(mixed[again], large[again])
    np.testing.assert_array_equal(np.delete(mixed, again, axis=0), np.delete(small, again, axis=0))


def test_the_cost_is_that_of_the_paper():
    assert amortised((2.0, 10.0), 0.25) == 4.5  # t1 + alpha t2


def test_a_cascade_is_two_predictions(tmp_path):
    created = vitjax.create_model(
        "navit_base_patch16", num_classes=7, width=16, depth=1, num_heads=2, mlp_width=32, zero_init_head=False,
        patch_size=8,
    )  # fmt: skip
    batches = PackedBatches(
        source=None, patch_size=8, length=64, rows=2, packers=1, max_images=8, resolution=TokenBudget(16)
    )
    bundle = Bundle(created.module, created.task, batches, created.labels, created.make_variables)
    generator = np.random.default_rng(0)
    images = [generator.integers(0, 256, (*size, 3), np.uint8) for size in ((30, 40), (50, 20), (16, 16), (64, 40))]
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8 nothing")
    given_pictures = [*images[:2], str(tmp_path / "broken.jpg"), *images[2:]]
    found = cascade(bundle, given_pictures, tokens=(4, 20), share=0.5)
    small, large = (bundle.predict(given_pictures, tokens=tokens) for tokens in (4, 20))
    assert sorted(found.tokens) == [4, 4, 4, 20, 20]
    assert found.results[2].error is not None
    assert found.tokens[2] == 4
    for number in (0, 1, 3, 4):
        expected = (large if found.tokens[number] == 20 else small)[number]
        np.testing.assert_allclose(found.results[number].scores, expected.scores, atol=1e-6)
        assert found.results[number].name == small[number].name
    certain = [small[number].top1.score for number in (0, 1, 3, 4)]
    again = [small[number].top1.score for number in range(5) if found.tokens[number] == 20]
    assert sorted(certain)[:2] == sorted(again)

    with pytest.raises(UserError, match=r"`tokens` \(=\(20, 4\)\) must be a small and a larger budget"):
        cascade(bundle, images, tokens=(20, 4))
    with pytest.raises(UserError, match=r"`share` \(=1.5\)"):
        cascade(bundle, images, tokens=(4, 20), share=1.5)
