"""Costs and losses of predicted sets in numbers that can be told by hand; `tests/parity` holds them to transformers."""

import jax
import numpy as np

from vitjax.ops.boxes import cxcywh_of
from vitjax.ops.set_losses import SetTruth, box_losses, class_losses, matched_labels, matching_cost

LAYERS, IMAGES, QUERIES, TARGETS, CLASSES = 2, 3, 6, 4, 5
cost_of = jax.jit(matching_cost, static_argnums=3)
box_losses_of = jax.jit(box_losses)


def draw(seed=0):
    """Logits, boxes, the truth, and a matching of it."""
    generator = np.random.default_rng(seed)
    corners = np.sort(generator.uniform(0, 1, (IMAGES, TARGETS, 2, 2)), axis=2).astype(np.float32)
    mask = np.arange(TARGETS) < np.array([2, 0, TARGETS])[:, None]
    truth = SetTruth(generator.integers(0, CLASSES, mask.shape).astype(np.int32), corners.reshape(*mask.shape, 4), mask)
    logits = generator.normal(size=(LAYERS, IMAGES, QUERIES, CLASSES + 1)).astype(np.float32)
    boxes = generator.uniform(0.1, 0.9, (LAYERS, IMAGES, QUERIES, 4)).astype(np.float32)
    order = generator.permuted(np.tile(np.arange(QUERIES), (LAYERS, IMAGES, 1)), axis=-1)[..., :TARGETS]
    return logits, boxes, truth, np.where(mask, order, -1).astype(np.int32)


def test_cost_of_the_right_box_is_its_classs_probability_and_a_full_overlap():
    logits, boxes, truth, _ = draw()
    boxes[:, :, :TARGETS] = cxcywh_of(truth.boxes_xyxy)
    probability = np.asarray(jax.nn.softmax(logits))
    cost = np.asarray(cost_of(logits, boxes, truth, (0.5, 5.0, 2.0)))
    for layer, image, target in np.ndindex(LAYERS, IMAGES, TARGETS):
        expected = -0.5 * probability[layer, image, target, truth.labels[image, target]] - 2
        np.testing.assert_allclose(cost[layer, image, target, target], expected, rtol=1e-5)


def test_cost_of_a_box_beside_the_target():
    boxes = np.float32([0.25, 0.5, 0.5, 1.0]).reshape(1, 1, 1, 4)  # the left half of the picture
    truth = SetTruth(np.zeros((1, 1), np.int32), np.float32([[[0.5, 0, 1, 1]]]), np.ones((1, 1), bool))  # the right one
    logits = np.zeros((1, 1, 1, 4), np.float32)
    # A quarter; centres half a picture apart; no overlap in a hull that both fill.
    np.testing.assert_allclose(cost_of(logits, boxes, truth), [[[[5 * 0.5 - 0.25 + 2 * 0]]]], atol=1e-6)


def test_queries_without_target_should_find_nothing():
    assigned = np.array([[[4, -1, 0]]], np.int32)
    labels = np.array([[7, 8, 9]], np.int32)
    np.testing.assert_array_equal(matched_labels(assigned, labels, 5, 20), [[[9, 20, 20, 20, 7]]])


def test_cross_entropies_weigh_little_where_there_is_nothing():
    logits, _, truth, assigned = draw()
    targets = np.asarray(matched_labels(assigned, truth.labels, QUERIES, CLASSES))
    image_mask = np.array([True, True, False])
    losses, weights = class_losses(logits, targets, image_mask, 0.25)
    logs = np.asarray(jax.nn.log_softmax(logits))
    for layer in range(LAYERS):
        total = weight = 0.0
        for image, query in np.ndindex(2, QUERIES):
            label = targets[layer, image, query]
            share = 0.25 if label == CLASSES else 1.0
            total, weight = total - share * logs[layer, image, query, label], weight + share
        np.testing.assert_allclose((losses[layer], weights[layer]), (total, weight), rtol=1e-5)


def test_right_boxes_cost_nothing():
    _, boxes, truth, assigned = draw()
    for layer, image, target in zip(*np.nonzero(assigned >= 0), strict=True):
        boxes[layer, image, assigned[layer, image, target]] = cxcywh_of(truth.boxes_xyxy)[image, target]
    np.testing.assert_allclose(box_losses_of(boxes, assigned, truth), 0, atol=1e-5)
    # Of one box the centre is off by a hundredth, and the size by two.
    boxes[1, 0, assigned[1, 0, 0]] += np.float32([0.01, 0, 0, 0.02])
    distance, overlap = box_losses_of(boxes, assigned, truth)
    np.testing.assert_allclose(distance, [0, 0.03], atol=1e-5)
    assert overlap[1] > 0.001


def test_what_is_masked_has_no_loss_and_no_gradient():
    _, boxes, truth, assigned = draw()
    gradient_of = jax.jit(jax.grad(lambda boxes, truth: sum(loss.sum() for loss in box_losses(boxes, assigned, truth))))
    expected, gradient = box_losses_of(boxes, assigned, truth), np.asarray(gradient_of(boxes, truth))
    rubbish = truth._replace(boxes_xyxy=np.where(truth.mask[..., None], truth.boxes_xyxy, np.nan))
    np.testing.assert_array_equal(box_losses_of(boxes, assigned, rubbish), expected)
    np.testing.assert_array_equal(gradient_of(boxes, rubbish), gradient)
    used = (assigned[..., None] == np.arange(QUERIES)).any(axis=-2)
    assert (gradient[used] != 0).any(axis=-1).all()
    assert not gradient[~used].any()
