"""NaFlexViT, several images a row, against timm and transformers, one image a row: equal logits, stages, gradients."""

import dataclasses
import functools
import json

import numpy as np
import pytest

import vitjax
from benchmarks.comparison import TIMES_NOISE, compare, misfits, random_weights
from benchmarks.parity_cases_naflex import NAFLEX_CASES
from benchmarks.parity_preprocessing import picture
from vitjax.data.sampling import SequenceBudget
from vitjax.errors import UserError
from vitjax.models.naflex import AttentionPooling
from vitjax.ops.activations import gelu_tanh

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
    "par_gap": ("naflexvit_base_patch16_par_gap", {"reg_tokens": 2, "qk_norm": True}),
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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rope_type": "axial"}, r"`model_args.rope_type` \(='axial'\): only '' is known here"),
        ({"pos_embed": "rope"}, "ask for positions 'rope'"),
        ({"attn_gated": True}, "`model_args.attn_gated`"),
    ],
)
def test_parts_of_timms_that_are_not_here_are_refused(arguments, message, tmp_path):
    config = {"architecture": "naflexvit_base_patch16_par_gap", "model_args": arguments, "num_classes": 3}
    (tmp_path / "config.json").write_text(json.dumps(config | {"pretrained_cfg": {"input_size": [3, 48, 48]}}))
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(UserError, match=message):
        vitjax.load(tmp_path)


SIGLIP_2 = {
    "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "num_patches": 16,
}  # fmt: skip


def siglip_2(folder):
    """A small vision model of transformers with its processor, and the folder that they are in."""
    model = transformers.Siglip2VisionModel(transformers.Siglip2VisionConfig(**SIGLIP_2)).eval()
    random_weights(model, 0)
    model.save_pretrained(folder)
    processor = transformers.Siglip2ImageProcessor(patch_size=8, max_num_patches=36)
    processor.save_pretrained(folder)
    return model, processor


def siglip_2_classifier(folder, processor):
    config = transformers.Siglip2Config(
        vision_config=SIGLIP_2, id2label=dict(enumerate(NAMES)), label2id={name: n for n, name in enumerate(NAMES)}
    )
    classifier = transformers.Siglip2ForImageClassification(config).eval()
    random_weights(classifier, 0)
    classifier.save_pretrained(folder)
    processor.save_pretrained(folder)
    return classifier


def processed(processor) -> dict:
    return dict(processor([image.copy() for image in images_of()], return_tensors="pt"))


def test_a_folder_of_siglip_2_opens_and_runs_packed(tmp_path):
    model, processor = siglip_2(tmp_path / "vision")
    inputs = processed(processor)
    bundle = vitjax.load(tmp_path / "vision")
    assert bundle.labels == ()
    # torchvision's resize of uint8 is not Pillow's: single pixels differ by a grey level.
    with torch.no_grad():
        theirs = model(**inputs).pooler_output.numpy()
    assert np.abs(our_outputs(bundle) - theirs).max() <= 0.02 * np.ptp(theirs)

    classifier = siglip_2_classifier(tmp_path / "classifier", processor)
    opened = vitjax.load(tmp_path / "classifier")
    assert opened.labels == tuple(NAMES)
    with torch.no_grad():
        theirs = classifier(**inputs).logits.numpy()
    assert np.abs(our_outputs(opened) - theirs).max() <= 0.02 * np.ptp(theirs)


def same_pixels(bundle) -> dict:
    """What transformers' processor would make of `images_of`, resized as here."""
    from vitjax.data.sources import ImageList
    from vitjax.inference.predict import Pictures, small_batches

    (batch,) = small_batches(Pictures(ImageList(images_of()), bundle.labels), bundle.batches)
    found = {}
    values = np.asarray(bundle.task.inputs(batch)["patches"])
    for row, slot in np.argwhere(batch["image_mask"]):
        own = values[row][batch["segments"][row] == slot + 1]
        found[int(batch["example"][row, slot])] = torch.tensor(own), tuple(batch["grid_sizes"][row, slot].tolist())
    values, _, real, shapes = padded([found[number] for number in sorted(found)], bundle.batches.resolution.tokens)
    return {"pixel_values": values, "pixel_attention_mask": real.to(torch.int64), "spatial_shapes": shapes}


def test_transformers_opens_what_is_written_for_it(tmp_path):
    _, processor = siglip_2(tmp_path / "vision")
    siglip_2_classifier(tmp_path / "classifier", processor)
    kinds = {"vision": transformers.Siglip2VisionModel, "classifier": transformers.Siglip2ForImageClassification}
    for name, kind in kinds.items():
        bundle = vitjax.load(tmp_path / name)
        ours, inputs = our_outputs(bundle), same_pixels(bundle)
        bundle.save(tmp_path / "written" / name, format="huggingface")
        model, said = kind.from_pretrained(tmp_path / "written" / name, output_loading_info=True)
        assert not any(said[problem] for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"))

        def run(dtype, model=model, inputs=inputs):
            outputs = model.to(dtype)(**{**inputs, "pixel_values": inputs["pixel_values"].to(dtype)})
            return outputs.pooler_output if "pooler_output" in outputs else outputs.logits

        assert_same(ours, run)
        told = transformers.AutoImageProcessor.from_pretrained(tmp_path / "written" / name)
        assert torch.equal(processed(told)["pixel_values"], processed(processor)["pixel_values"])
        again = vitjax.load(tmp_path / "written" / name)
        assert (again.labels, again.task, again.batches) == (bundle.labels, bundle.task, bundle.batches)
        np.testing.assert_array_equal(our_outputs(again), ours)


def test_what_transformers_has_no_words_for_is_refused(tmp_path):
    sizes = {"patch_size": 8, "width": 16, "depth": 1, "num_heads": 2, "mlp_width": 32, "num_classes": 3}
    for name, settings, message in (
        ("naflexvit_base_patch16_gap", {}, r"`num_registers` \(=4\) is 0 there"),
        ("naflexvit_base_patch16_siglip", {}, r"`pool` \(=AttentionPooling\): its classifier reads the mean"),
        ("naflexvit_base_patch16_siglip", {"use_qk_norm": True}, r"`use_qk_norm` \(=True\) is False there"),
        ("naflexvit_base_patch16_siglip", {"table_grid": (4, 3)}, "`positions`: it has one square table"),
    ):
        bundle = vitjax.create_model(name, **sizes, **settings)
        with pytest.raises(UserError, match=message):
            bundle.save(tmp_path / "out", format="huggingface")


def in_big_visions_words(model) -> dict[str, np.ndarray]:
    """The weights as `naflex_vit` of big_vision has them: heads have an axis of their own, positions two."""
    state = {key: value.numpy() for key, value in model.state_dict().items()}
    width, heads = SIGLIP_2["hidden_size"], SIGLIP_2["num_attention_heads"]
    table = state["embeddings.position_embedding.weight"].reshape(4, 4, width)
    found = {"pos_embedding": table, "MAPHead_0/probe": state["head.probe"]}

    def norm(place: str, key: str) -> None:
        found.update({f"{place}/scale": state[f"{key}.weight"], f"{place}/bias": state[f"{key}.bias"]})

    def dense(place: str, key: str) -> None:
        found.update({f"{place}/kernel": state[f"{key}.weight"].T, f"{place}/bias": state[f"{key}.bias"]})

    def rest(place: str, key: str, norm_key: str) -> None:
        """What a block and the pooling have in common."""
        out = f"{place}/MultiHeadDotProductAttention_0/out"
        dense(out, f"{key}.out_proj")
        found[f"{out}/kernel"] = found[f"{out}/kernel"].reshape(heads, -1, width)
        owner = key.rpartition(".")[0]
        norm(f"{place}/LayerNorm_{int('layers' in key)}", f"{owner}.{norm_key}")
        for number in range(2):
            dense(f"{place}/MlpBlock_0/Dense_{number}", f"{owner}.mlp.fc{number + 1}")

    def queries_keys_values(place: str, weights, biases) -> None:
        for part, weight, bias in zip(("query", "key", "value"), weights, biases, strict=True):
            own = f"{place}/MultiHeadDotProductAttention_0/{part}"
            found.update({f"{own}/kernel": weight.T.reshape(width, heads, -1), f"{own}/bias": bias.reshape(heads, -1)})

    dense("embedding", "embeddings.patch_embedding")
    norm("Transformer/encoder_norm", "post_layernorm")
    fused = [np.split(state[f"head.attention.in_proj_{leaf}"], 3) for leaf in ("weight", "bias")]
    queries_keys_values("MAPHead_0", *fused)
    rest("MAPHead_0", "head.attention", "layernorm")
    for number in range(SIGLIP_2["num_hidden_layers"]):
        place, layer = f"Transformer/encoderblock_{number}", f"encoder.layers.{number}"
        norm(f"{place}/LayerNorm_0", f"{layer}.layer_norm1")
        parts = [[state[f"{layer}.self_attn.{part}_proj.{leaf}"] for part in "qkv"] for leaf in ("weight", "bias")]
        queries_keys_values(place, *parts)
        rest(place, f"{layer}.self_attn", "layer_norm2")
    return found


def scanned(arrays: dict[str, np.ndarray], depth: int) -> dict[str, np.ndarray]:
    """As a model with `scan` writes them: each leaf of all blocks in one array."""
    first = "Transformer/encoderblock_0/"
    found = {key: array for key, array in arrays.items() if "/encoderblock_" not in key}
    for inside in [key.removeprefix(first) for key in arrays if key.startswith(first)]:
        parts = [arrays[f"Transformer/encoderblock_{number}/{inside}"] for number in range(depth)]
        found[f"Transformer/encoderblock/{inside}"] = np.stack(parts)
    return found


def test_npz_files_of_big_vision_open_as_the_same_model(tmp_path):
    model, _ = siglip_2(tmp_path / "vision")
    arrays = in_big_visions_words(model)
    others = {"params/txt/head/bias": np.zeros(3, np.float32), "params/t": np.zeros(1, np.float32)}
    reference = vitjax.load(tmp_path / "vision")
    expected = our_outputs(reference)
    pool = functools.partial(AttentionPooling, num_heads=4, mlp_width=64)
    sizes = {"name": "naflexvit_base_patch16_siglip", "patch_size": 8, "width": 32, "num_heads": 4, "mlp_width": 64}
    sizes |= {"depth": 2, "pool": functools.partial(pool, activation=gelu_tanh)}
    for name, found in (("plain", arrays), ("scanned", scanned(arrays, 2))):
        np.savez(tmp_path / f"{name}.npz", **{f"params/img/{key}": array for key, array in found.items()}, **others)
        bundle = vitjax.load(tmp_path / f"{name}.npz", **sizes)
        assert (bundle.batches.resolution, bundle.task) == (SequenceBudget(256), reference.task)
        ours = our_outputs(dataclasses.replace(bundle, batches=reference.batches))
        np.testing.assert_array_equal(ours, expected)
    with pytest.raises(UserError, match=r"`pool` has `activation` \(=gelu\), expected the model's \(=gelu_tanh\)"):
        vitjax.load(tmp_path / "plain.npz", layout="big_vision", **sizes | {"pool": pool})
