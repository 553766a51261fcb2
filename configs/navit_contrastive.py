"""NaViT and a packed text tower on captions of digit scenes: zero-shot classification and retrieval in miniature.

    python train.py --config configs/navit_contrastive.py

Data: scenes of one or two scanned digits and a sentence about each, drawn as they are needed; those held back have
digits from held-back scans. A byte-level tokenizer learns its merges from the training captions first. Cost: 32
minutes on a single CPU core. Expected: zero-shot top-1 over prompts for single digits of at least 95 % (chance 10 %),
and among 512 held-back pairs R@1 of at least 75 % in the mean of both ways (chance 1.3 %), R@5 and R@10 beside it,
printed at the end; seed 0 gives 96.2 % and 81 % (75 % image to text, 88 % text to image), and R@1 of 81 % at step 3000.
`plots/retrieval.png` shows captions found for held-back pictures.

The same config on other pictures (set `--config.workdir` and the program's classes too):
    --config.data=jsonl:PATH     lines of {"image": PATH, "caption": TEXT}
    --config.data=tfds:NAME      a prepared TensorFlow data set with captions, such as coco_captions

NaViT (Dehghani et al., 2023, arXiv:2307.06304), section 3.3 and appendix B.2: both towers packed, softmax loss chunked
across devices, sides drawn from a distribution, no other augmentation, weight decay on all kernels. The paper's decay
of 1e-6 and rate of 3e-3 are those of long runs with a reciprocal square root schedule. For the sigmoid loss:
`task.criterion=spec(SigmoidPairs)` and `model.initial_bias=-10.0`.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from vitjax.config import factory, spec
from vitjax.data.captions import open_captions
from vitjax.data.digits import DigitCaptions
from vitjax.data.packing import PackedBatches
from vitjax.data.pairs import PackedPairBatches
from vitjax.data.sampling import FixedSide, TruncatedNormalSide
from vitjax.data.text import ByteTokenizer
from vitjax.layers.packed_positions import FactorisedPositions, LearnedAxis
from vitjax.models.navit import NaViT
from vitjax.models.navit_contrastive import NaViTContrastive, TextTower
from vitjax.ops.contrastive_chunks import SoftmaxPairs
from vitjax.programs.contrastive import train_and_classify
from vitjax.tasks.contrastive import Contrastive
from vitjax.training.optimizers import AdamW
from vitjax.training.schedules import Cosine


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.workdir = "runs/navit_contrastive"
    config.data = "digits"
    config.data_dir = placeholder(str)  # where TFDS looks, if not in its usual place
    config.steps = 5000
    config.patch_size = 8
    config.max_grid = (32, 32)
    config.max_tokens = 40

    scenes = {"sides": (48, 80), "digit_sides": (20, 48)}
    config.program = factory(
        train_and_classify,
        merges=160,
        classes=spec(DigitCaptions, split="validation", num_scenes=500, seed=1, min_digits=1, max_digits=1, **scenes),
        words=("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
        templates=(
            "a large {} in the centre on a light ground",
            "a {} in the centre on a light ground",
            "a large {} at the top on a light ground",
            "a large {} at the bottom on a light ground",
            "a small {} on the left on a light ground",
            "a small {} on the right on a light ground",
        ),
    )

    config.model = spec(
        NaViTContrastive,
        image=factory(
            NaViT,
            num_classes=0,
            patch_size=config.get_ref("patch_size"),
            max_grid=config.get_ref("max_grid"),
            width=128,
            depth=4,
            num_heads=4,
            mlp_width=256,
            positions=factory(FactorisedPositions, axis=factory(LearnedAxis, std=0.5)),
        ),
        text=factory(TextTower, max_tokens=config.get_ref("max_tokens"), width=96, depth=2, num_heads=3, mlp_width=192),
        width=64,
    )
    config.task = spec(
        Contrastive, mean=(0.65, 0.65, 0.65), std=(0.25, 0.25, 0.25), criterion=spec(SoftmaxPairs, chunk=1024)
    )

    pictures = {
        "data": config.get_ref("data"),
        "data_dir": config.get_ref("data_dir"),
        "min_digits": 1,
        "max_digits": 2,
    }
    packing = {"patch_size": config.get_ref("patch_size"), "max_grid": config.get_ref("max_grid"), "length": 128}
    texts = {"max_tokens": config.get_ref("max_tokens"), "text_length": 128, "max_texts": 10}
    config.train = spec(
        PackedPairBatches,
        source=spec(open_captions, split="train", num_scenes=100_000, **pictures, **scenes),
        images=spec(
            PackedBatches,
            source=None,
            rows=32,
            max_images=6,
            packers=8,
            window=32,
            workers=1,
            resolution=spec(TruncatedNormalSide, low=40, high=64),
            **packing,
        ),
        tokenizer=spec(ByteTokenizer),
        text_rows=16,
        pairs=120,
        **texts,
    )
    config.evaluation = spec(
        PackedPairBatches,
        source=spec(open_captions, split="validation", num_scenes=512, **pictures, **scenes),
        images=spec(
            PackedBatches,
            source=None,
            rows=32,
            max_images=6,
            packers=8,
            window=32,
            resolution=spec(FixedSide, side=60),
            **packing,
        ),
        tokenizer=spec(ByteTokenizer),
        text_rows=16,
        pairs=120,
        **texts,
    )

    config.optimizer = spec(AdamW, lr=2e-3, weight_decay=0.02, b2=0.98)
    config.schedule = spec(Cosine, warmup_steps=200)
    config.decay_rules = ((".*/kernel", 1.0), (".*", 0.0))
    config.rate_rules = ((".*", 1.0),)
    config.clip_norm = 1.0
    config.accumulate_steps = 1
    config.ema_decay = 0.99

    config.mesh = {"data": -1, "fsdp": 1, "tensor": 1}
    config.sharding_rules = ()

    config.log_every = 50
    config.evaluate_every = 1000
    config.checkpoint_every = 1000
    config.keep_checkpoints = 2
    config.best_metric = "r1"
    return config
