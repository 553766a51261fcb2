"""Contrastive training from captions to zero-shot classification: tokenizer, training, what it has learnt."""

import json
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from vitjax.config import build, describe
from vitjax.data.captions import captions_of
from vitjax.data.text import ByteTokenizer, SentencePieceTokenizer, train_merges
from vitjax.errors import UserError
from vitjax.inference.bundle import Bundle, load
from vitjax.inference.segmentation_results import new_figure
from vitjax.inference.zero_shot import image_vectors, text_vectors, zero_shot
from vitjax.training.fit import RunSummary, fit

__all__ = ["ContrastiveRun", "train_and_classify", "with_tokenizer"]


@dataclass(frozen=True)
class ContrastiveRun:
    """What came out.

    Attributes:
        run: how the training ended.
        scores: of the best weights: `RetrievalMeter`'s on the evaluation data, and `zero_shot_top1`; empty where the
            run was interrupted.
    """

    run: RunSummary
    scores: dict[str, float]

    @property
    def workdir(self) -> Path:
        """Of the run, with `table.json` and `plots/retrieval.png`."""
        return self.run.workdir

    @property
    def interrupted(self) -> bool:
        """Whether the same command goes on with it."""
        return self.run.interrupted


def train_and_classify(
    config: ConfigDict,
    *,
    merges: int = 0,
    sample: int = 1000,
    classes: Any = None,
    words: Sequence[str] | None = None,
    templates: Sequence[str] = ("{}",),
    images: int = 12,
) -> ContrastiveRun:
    """Trains a `NaViTContrastive`, prints and keeps what its best weights know, and draws some of it.

    Args:
        config: of the run; `train` and `evaluation` are `PackedPairBatches`.
        merges: of a `ByteTokenizer`, learnt from training captions before the first step and stored in the run's config
            and bundle; 0 leaves the config's tokenizer as it is.
        sample: examples whose captions the merges are learnt from.
        classes: source of images with classes, for zero-shot classification; `None` for none.
        words: what to call each class in the prompts; its label if not given.
        templates: prompts, with `{}` for the class.
        images: held-back images to draw with the captions that are found for them.

    Raises:
        UserError: tokenizer, model and batches do not fit one another, or what `fit` raises.
    """
    run = fit(with_tokenizer(config, merges=merges, sample=sample))
    if run.interrupted:
        return ContrastiveRun(run, {})
    batches: Any = config.evaluation
    bundle, source = load(run.workdir), build(batches.source)
    scores = bundle.evaluate(source)
    if classes is not None:
        found = zero_shot(bundle, classes.labels, templates, words=words).evaluate(classes)
        scores |= {f"zero_shot_{name}": score for name, score in found.items() if name.startswith("top")}
        scores["zero_shot_chance"] = 1 / len(classes.labels)
    for name, score in scores.items():
        print(f"{name:<24}{score:8.4f}")
    (run.workdir / "table.json").write_text(json.dumps(scores, indent=2) + "\n", encoding="utf-8")
    examples = [source[number] for number in range(min(images, len(source)))]
    picture = _draw(bundle, examples, source.name, run.workdir / "plots" / "retrieval.png")
    print(f"look at {run.workdir}/table.json and {picture}", flush=True)
    return ContrastiveRun(run, scores)


def with_tokenizer(config: ConfigDict, *, merges: int, sample: int) -> ConfigDict:
    """The config with a tokenizer that is complete, and the model's `vocabulary_size`.

    Args:
        config: not changed.
        merges: see `train_and_classify`.
        sample: see there.

    Raises:
        UserError: training and evaluation have different tokenizers, the model has another vocabulary, or merges are
            asked for that the tokenizer cannot have.
    """
    filled: Any = config.copy_and_resolve_references()
    tokenizer, other = build(filled.train.tokenizer), build(filled.evaluation.tokenizer)
    if tokenizer != other:
        raise UserError(
            f"`train.tokenizer` is {tokenizer!r:.80}, `evaluation.tokenizer` {other!r:.80}; give both the same"
        )
    if merges:
        if not isinstance(tokenizer, ByteTokenizer) or tokenizer.merges:
            raise UserError(f"`merges` (={merges}) are for a ByteTokenizer without any, not {tokenizer!r:.80}; give 0")
        source = build(filled.train.source)
        chosen = np.linspace(0, len(source) - 1, min(sample, len(source)), dtype=np.int64)
        texts = [text for number in chosen.tolist() for text in source.captions(number)]
        tokenizer = ByteTokenizer(train_merges(texts, merges))
    elif isinstance(tokenizer, SentencePieceTokenizer):
        tokenizer = tokenizer.pinned()
    given = filled.model.vocabulary_size
    if given not in (None, tokenizer.vocabulary_size):
        raise UserError(
            f"`model.vocabulary_size={given}`, but the tokenizer has {tokenizer.vocabulary_size}; leave it None"
        )
    with filled.unlocked():
        for batches in (filled.train, filled.evaluation):
            batches.tokenizer = describe(tokenizer)
        filled.model.vocabulary_size = tokenizer.vocabulary_size
    return filled


def _draw(bundle: Bundle, examples: Sequence[dict[str, Any]], name: str, path: Path) -> Path:
    """Each image with the caption, among those of all of them, that the model finds most like it."""
    texts = [captions_of(example, name)[0] for example in examples]
    similarity = image_vectors(bundle, [example["image"] for example in examples]) @ text_vectors(bundle, texts).T
    across = min(4, len(examples))
    figure = new_figure(3.2 * across, 3.4 * -(-len(examples) // across))
    panels = figure.subplots(-(-len(examples) // across), across, squeeze=False)
    for axes in panels.flat:
        axes.set_axis_off()
    for axes, example, text, row in zip(panels.flat, examples, texts, similarity, strict=False):
        found = texts[int(row.argmax())]
        axes.imshow(example["image"])
        axes.set_title(textwrap.fill(found, 38), fontsize=7, color="black" if found == text else "firebrick")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    return path
