"""NaFlexViT, several images a row, against timm and transformers, one image a row: equal logits, stages, gradients."""

import functools
import json

import numpy as np
import pytest

import vitjax
from benchmarks.comparison import TIMES_NOISE, compare, misfits, random_weights
from benchmarks.parity_cases_naflex import NAFLEX_CASES
from benchmarks.parity_preprocessing import picture
from vitjax.data.sampling import SequenceBudget

timm = pytest.importorskip("timm")
transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")

SIZES = [(61, 90), (90, 40), (33, 33), (20, 200), (64, 48)]
NAMES = ["cat", "dog", "bird"]


QUICK = ("NaFlex vs timm, registers, LayerScale, average, buckets", "NaFlex vs transformers, SigLIP 2")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in QUICK)) for name in NAFLEX_CASES]
)
def test_packed_rows_are_the_padded_reference(name):
    differences = compare(NAFLEX_CASES[name](), 0)
    assert misfits(differences) == []
    stages = {"embedded", "block_0_output", "pooled", "logits"}
    assert stages < {difference.name for difference in differences}
    assert all(np.isfinite(difference.magnitude) for difference in differences)


def test_the_grid_of_a_picture_is_theirs():
    from timm.data.naflex_transforms import get_image_size_for_seq
    from transformers.models.siglip2.image_processing_siglip2 import get_image_size_for_max_num_patches

    generator = np.random.default_rng(0)
    sizes = [(480, 640), (512, 1024), (1, 3000), (7, 5), *generator.integers(8, 2000, (60, 2)).tolist()]
    for rows, columns in sizes:
        for tokens in (1, 16, 128, 256, 576):
            ours = SequenceBudget(tokens).grid((rows, columns), 16)
            theirs = get_image_size_for_max_num_patches(rows, columns, 16, tokens)
            assert ours == (theirs[0] // 16, theirs[1] // 16), (rows, columns, tokens)
    # timm refuses what would have to grow a hundredfold
    assert get_image_size_for_seq((480, 640), 16, 256)[1] == (224, 288)
    assert SequenceBudget(256).grid((480, 640), 16) == (14, 18)  # the worked example of the sheet: 252 tokens


def padded(patches: list, length: int):
    """One image a row: values, places, what is real, grids."""
    values = torch.zeros((len(patches), length, patches[0][0].shape[1]))
    places = torch.zeros((len(patches), length, 2), dtype=torch.int64)
    real = torch.zeros((len(patches), length), dtype=torch.bool)
    for number, (own, grid) in enumerate(patches):
        values[number, : len(own)] = own
        places[number, : len(own)] = torch.tensor(np.indices(grid).reshape(2, -1).T)
        real[number, : len(own)] = True
    return values, places, real, torch.tensor([grid for _, grid in patches])


def images_of(seed: int = 0) -> list[np.ndarray]:
    return [picture(*size)[:, :, np.random.default_rng(seed).permutation(3)] for size in SIZES]


def our_outputs(bundle) -> np.ndarray:
    """Logits, or features, of `images_of`, packed; and that they were packed."""
    from vitjax.data.sources import ImageList
    from vitjax.inference.predict import Pictures, small_batches

    (batch,) = small_batches(Pictures(ImageList(images_of()), bundle.labels), bundle.batches)
    assert batch["image_mask"].sum(axis=1).max() >= 3
    outputs = np.asarray(bundle.module.apply(bundle.variables, **bundle.task.inputs(batch)))
    order = np.argsort(batch["example"][batch["image_mask"]])
    return outputs[batch["image_mask"]][order]


def assert_same(ours: np.ndarray, run) -> None:
    with torch.no_grad():
        theirs, exact = (run(dtype).double().numpy() for dtype in (torch.float32, torch.float64))
    assert np.ptp(theirs, axis=0).max() > 0.05  # the pictures differ
    # Pixels are equal up to one grey level in a few places; where they are, so are the outputs.
    assert np.abs(ours - theirs).max() <= TIMES_NOISE * max(np.abs(exact - theirs).max(), 1e-7)


def timm_patches(bundle, *, tokens: int) -> list:
    """Timm's own evaluation pipeline."""
    from PIL import Image
    from timm.data.transforms_factory import transforms_imagenet_eval

    size = bundle.module.patch_size
    transform = transforms_imagenet_eval(
        interpolation=bundle.batches.interpolation, mean=bundle.task.mean, std=bundle.task.std, naflex=True,
        patch_size=size, max_seq_len=tokens,
    )  # fmt: skip
    found = []
    for image in images_of():
        pixels = transform(Image.fromarray(image))
        grid = pixels.shape[1] // size, pixels.shape[2] // size
        cut = pixels.reshape(3, grid[0], size, grid[1], size).permute(1, 3, 2, 4, 0)
        found.append((cut.reshape(grid[0] * grid[1], -1), grid))
    return found


TIMM = {
    "par_gap": ("naflexvit_base_patch16_par_gap", {"reg_tokens": 2}),
    "parfac_gap": ("naflexvit_base_patch16_parfac_gap", {"mlp_ratio": 2.0}),
    "siglip": ("naflexvit_base_patch16_siglip", {}),
}


@pytest.mark.parametrize(
    ("architecture", "arguments"),
    [pytest.param(*given, id=name, marks=[pytest.mark.slow] * (name != "par_gap")) for name, given in TIMM.items()],
)
def test_a_folder_of_timm_opens_and_runs_packed(architecture, arguments, tmp_path):
    sizes = {"patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 4, "num_classes": 3}
    model = timm.create_model(architecture, **sizes, **arguments).eval()
    random_weights(model, 0)
    timm.models.save_for_hf(model, tmp_path / "theirs", model_config={"label_names": NAMES})
    config = json.loads((tmp_path / "theirs" / "config.json").read_text())
    config["pretrained_cfg"]["input_size"] = [3, 48, 48]
    (tmp_path / "theirs" / "config.json").write_text(json.dumps(config))
    bundle = vitjax.load(tmp_path / "theirs")
    assert bundle.labels == tuple(NAMES)
    assert bundle.batches.resolution == SequenceBudget(36)
    values, places, real, _ = padded(timm_patches(bundle, tokens=36), 36)

    def run(dtype, model=model):
        return model.to(dtype)(values.to(dtype), patch_coord=places, patch_valid=real)

    ours = our_outputs(bundle)
    assert_same(ours, run)
    bundle.save(tmp_path / "ours", format="timm")
    written = timm.create_model(f"local-dir:{tmp_path / 'ours'}", pretrained=True).eval()
    assert_same(ours, functools.partial(run, model=written))
    again = vitjax.load(tmp_path / "ours")
    assert (again.labels, again.task, again.batches) == (bundle.labels, bundle.task, bundle.batches)
    np.testing.assert_allclose(our_outputs(again), ours, atol=1e-6)


def test_a_folder_of_siglip_2_opens_and_runs_packed(tmp_path, caplog):
    sizes = {
        "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64,
        "num_patches": 16,
    }  # fmt: skip
    model = transformers.Siglip2VisionModel(transformers.Siglip2VisionConfig(**sizes)).eval()
    random_weights(model, 0)
    model.save_pretrained(tmp_path / "vision")
    processor = transformers.Siglip2ImageProcessor(patch_size=8, max_num_patches=36)
    processor.save_pretrained(tmp_path / "vision")
    inputs = processor([image.copy() for image in images_of()], return_tensors="pt")
    values, mask, shapes = (inputs[name] for name in ("pixel_values", "pixel_attention_mask", "spatial_shapes"))
    bundle = vitjax.load(tmp_path / "vision")
    assert bundle.labels == ()

    def run(dtype):
        return model.to(dtype)(values.to(dtype), pixel_attention_mask=mask, spatial_shapes=shapes).pooler_output

    # torchvision's resize of uint8 is not Pillow's: single pixels differ by a grey level.
    with torch.no_grad():
        theirs = run(torch.float32).numpy()
    assert np.abs(our_outputs(bundle) - theirs).max() <= 0.02 * np.ptp(theirs)

    config = transformers.Siglip2Config(
        vision_config=sizes, id2label=dict(enumerate(NAMES)), label2id={name: n for n, name in enumerate(NAMES)}
    )
    classifier = transformers.Siglip2ForImageClassification(config).eval()
    random_weights(classifier, 0)
    classifier.save_pretrained(tmp_path / "classifier")
    processor.save_pretrained(tmp_path / "classifier")
    opened = vitjax.load(tmp_path / "classifier")
    assert opened.labels == tuple(NAMES)
    with torch.no_grad():
        theirs = classifier(values, pixel_attention_mask=mask, spatial_shapes=shapes).logits.numpy()
    assert np.abs(our_outputs(opened) - theirs).max() <= 0.02 * np.ptp(theirs)
