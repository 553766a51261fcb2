"""A bundle's features: what stands in front of its head, or any other vector per image that its module sows."""

from collections.abc import Callable
from typing import Any

import jax

from vitjax.arrays import Array, Batch, Tree
from vitjax.data.loading import Shards
from vitjax.errors import UserError
from vitjax.evaluation.features import Features, extract_features
from vitjax.inference.bundle import Bundle

__all__ = ["feature_function", "source_features", "source_probabilities"]


def feature_function(bundle: Bundle, name: str = "features") -> Callable[[Batch], Array]:
    """A jitted function from a batch of the bundle's kind to one vector per image.

    Args:
        bundle: any whose module sows `name` under `intermediates/`; the models of this library sow `features`, which is
            what their head reads. The rest of the pass, the head included, is not computed.
        name: of the intermediate, such as `pooled`.
    """

    @jax.jit
    def forward(variables: Tree, batch: Batch) -> Array:
        inputs = bundle.task.inputs(batch)
        state: Any = bundle.module.apply(variables, **inputs, train=False, mutable=["intermediates"])[1]
        sown = state.get("intermediates", {})
        if name not in sown:
            raise UserError(
                f"{type(bundle.module).__name__} sows no intermediate `{name}`; it sows {', '.join(sorted(sown))}"
            )
        features = sown[name][0]
        lead = batch["image_mask"].shape
        if features.shape[:-1] != lead:
            raise UserError(
                f"`{name}` of {type(bundle.module).__name__} has shape {features.shape}, expected one vector for each "
                f"of the images {lead}; `features` and `pooled` are such"
            )
        return features

    return lambda batch: forward(bundle.variables, batch)


def source_features(bundle: Bundle, source: Any, name: str = "features") -> Features:
    """The features of all images of a source, prepared as the bundle prepares images.

    The source's classes need not be the bundle's: features are compared within a data set.

    Args:
        bundle: as in `feature_function`.
        source: see `vitjax.data.sources`.
        name: as in `feature_function`.

    Raises:
        UserError: no image can be read, or the module sows no such vector.
    """
    return extract_features(feature_function(bundle, name), bundle.batches.with_source(source).epoch(Shards()))


def source_probabilities(bundle: Bundle, source: Any) -> Features:
    """What the bundle predicts of all images of a source, in the form of features: one probability per class.

    Raises:
        UserError: no image can be read, or the source's labels are not the bundle's.
    """
    if tuple(source.labels) != bundle.labels:
        raise UserError(
            f"{source.name} has {len(source.labels)} labels and the bundle {len(bundle.labels)}; its predictions "
            "can only be compared with the same labels in the same order"
        )

    @jax.jit
    def forward(variables: Tree, batch: Batch) -> Array:
        outputs = bundle.module.apply(variables, **bundle.task.inputs(batch), train=False)
        return bundle.task.predict(outputs, batch)

    batches = bundle.batches.with_source(source).epoch(Shards())
    return extract_features(lambda batch: forward(bundle.variables, batch), batches)
