"""Back from low rank to a plain model."""

from dataclasses import replace

import jax

from vitjax.errors import UserError
from vitjax.inference.bundle import Bundle
from vitjax.layers.low_rank import LowRank, merge_low_rank

__all__ = ["merge"]


def merge(bundle: Bundle) -> Bundle:
    """The same function as a plain model: products are added to their kernels, for saving in any layout.

    Args:
        bundle: of a model trained as `LowRank`.

    Raises:
        UserError: the model has no low-rank parts.
    """
    module = bundle.module
    if not isinstance(module, LowRank):
        raise UserError(f"merge: the model is a {type(module).__name__}, expected a LowRank")

    def make_variables() -> dict:
        params = bundle.variables["params"]
        return {
            "params": jax.device_get(merge_low_rank(params["base"], params["low_rank"], module.alpha / module.rank))
        }

    return replace(bundle, module=module.inner, make_variables=make_variables)
