"""Panoptic DETR against transformers': outputs, masks, gradients; the losses of given outputs; files both ways."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.comparison import compare, misfits, random_batch_norms, random_weights, shapes_of
from benchmarks.parity_cases_detr_panoptic import DETR_PANOPTIC_CASES, LAYOUT, small, small_huggingface
from vitjax.ops.boxes import cxcywh_of
from vitjax.ops.mask_losses import dice_loss, mask_focal_loss
from vitjax.tasks.panoptic import Panoptic
from vitjax.tasks.set_prediction import SetPrediction
from vitjax.weights.rules import export_weights, import_weights

QUICK = ("Panoptic DETR vs Hugging Face, its own ResNet, padded",)


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.long) for name in DETR_PANOPTIC_CASES]
)
def test_panoptic_detr_is_the_reference(name):
    found = compare(DETR_PANOPTIC_CASES[name](), 0)
    assert misfits(found) == []
    names = {difference.name for difference in found}
    assert {"mask_maps", "masks", "boxes", "logits", "input images"} - names == {"input images"}
    assert {"gradient of params/mask_head/adapter_3/kernel", "gradient of params/backbone/stem/conv/kernel"} < names


def test_mask_losses_are_transformers():
    import torch
    from transformers.loss import loss_for_object_detection as theirs

    generator = np.random.default_rng(0)
    logits = generator.normal(0, 3, (4, 5, 6)).astype(np.float32)
    masks = generator.random(logits.shape) < 0.4
    flat = torch.tensor(logits).flatten(1), torch.tensor(masks).float().flatten(1)
    assert float(mask_focal_loss(logits, masks).sum()) == pytest.approx(
        float(theirs.sigmoid_focal_loss(*flat, 1)), 1e-5
    )
    assert float(dice_loss(logits, masks).sum()) == pytest.approx(float(theirs.dice_loss(*flat, 1)), 1e-5)


def test_the_loss_of_given_outputs_is_transformers():
    """Of one layer: transformers' auxiliary outputs are wrong. The masks are finer than the logits."""
    import torch
    from transformers import DetrConfig
    from transformers.loss.loss_for_object_detection import ForSegmentationLoss

    generator = np.random.default_rng(0)
    counts, slots, queries, classes, side = (3, 0, 2), 4, 6, 5, 12
    outputs = {
        "logits": generator.normal(size=(1, 3, queries, classes + 1)),
        "boxes": generator.uniform(0.2, 0.6, (1, 3, queries, 4)),
        "masks": generator.normal(0, 2, (3, queries, side // 4, side // 4)),
    }
    outputs = {name: leaf.astype(np.float32) for name, leaf in outputs.items()}
    corners = generator.uniform(0, 0.5, (3, slots, 2))
    batch = {
        "image": np.zeros((3, side, side, 3), np.uint8),
        "boxes": np.concatenate([corners, corners + generator.uniform(0.1, 0.5, (3, slots, 2))], -1).astype(np.float32),
        "labels": generator.integers(0, classes, (3, slots)).astype(np.int32),
        "box_mask": np.arange(slots) < np.array(counts)[:, None],
        "crowd": np.zeros((3, slots), bool),
        "masks": generator.random((3, slots, side, side)) < 0.4,
        "image_mask": np.ones(3, bool),
    }
    labels = [
        {
            "class_labels": torch.tensor(batch["labels"][row, :count]).long(),
            "boxes": torch.tensor(np.asarray(cxcywh_of(batch["boxes"][row, :count]))),
            "masks": torch.tensor(batch["masks"][row, :count]).float(),
        }
        for row, count in enumerate(counts)
    ]
    config = DetrConfig(num_labels=classes, use_timm_backbone=False, backbone_config=None)
    given = (torch.tensor(outputs["logits"][0]), labels, "cpu", torch.tensor(outputs["boxes"][0]))
    expected, parts, _ = ForSegmentationLoss(*given, torch.tensor(outputs["masks"]), config)
    loss, metrics = jax.jit(Panoptic(stuff=(4,), detection=SetPrediction()).loss)(outputs, batch)
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    for ours, theirs in (("mask_loss", "loss_mask"), ("dice_loss", "loss_dice")):
        total, count = metrics[ours]
        assert float(total / count) == pytest.approx(float(parts[theirs]), rel=1e-5)
    total, count = metrics["loss"]
    assert float(total / count) == pytest.approx(float(expected), rel=1e-5)


@functools.cache
def a_reference():
    model = small_huggingface()
    random_weights(model, 0)
    random_batch_norms(model, 0)
    return model


def test_files_of_transformers_and_of_the_authors_come_back_bit_for_bit(tmp_path):
    from safetensors.numpy import load_file

    a_reference().save_pretrained(tmp_path)
    foreign = load_file(tmp_path / "model.safetensors")
    assert {"mask_head.lay5.weight", "bbox_attention.q_linear.bias", "mask_head.out_lay.weight"} < set(foreign)
    in_memory = {key: tensor.detach().numpy() for key, tensor in a_reference().state_dict().items()}
    assert "mask_head.fpn_stages.2.refine.norm.bias" in in_memory
    module, layout = small(), LAYOUT["huggingface"]
    shapes = shapes_of(module, jnp.zeros((1, 64, 64, 3)))
    ours = import_weights(layout.rules(module), layout.prepare(foreign), shapes)
    same = import_weights(layout.rules(module), layout.prepare(in_memory), shapes)
    back = export_weights(layout.rules(module), ours)
    kept = {key: array for key, array in foreign.items() if not key.endswith("num_batches_tracked")}
    assert back.keys() == kept.keys()
    for key, array in kept.items():
        np.testing.assert_array_equal(back[key], array, err_msg=key)
    authors = export_weights(LAYOUT["authors"].rules(module), ours)
    assert {"detr.backbone.0.body.conv1.weight", "detr.transformer.decoder.layers.1.multihead_attn.in_proj_bias"} < set(
        authors
    )
    assert {"bbox_attention.k_linear.weight", "mask_head.gn1.weight", "mask_head.adapter3.bias"} < set(authors)
    again = import_weights(LAYOUT["authors"].rules(module), authors, shapes)
    for path, array in ours.items():
        np.testing.assert_array_equal(same[path], array, err_msg=path)
        np.testing.assert_array_equal(again[path], array, err_msg=path)


def test_the_numbers_of_classes_and_of_queries_are_read_from_a_file():
    from vitjax.models.detr_panoptic_tables import sizes_of

    module = small()
    generator = np.random.default_rng(0)
    shapes = shapes_of(module, jnp.zeros((1, 64, 64, 3)))
    arrays = {path: generator.normal(size=shape).astype(np.float32) for path, shape in shapes.items()}
    found = sizes_of(export_weights(LAYOUT["authors"].rules(module), arrays))
    assert found.pop("detector").keywords == {"num_queries": 5}
    assert found == {"num_classes": 5}
