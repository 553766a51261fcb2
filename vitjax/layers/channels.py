"""Where a model makes its channels: what the analysis of channels, and pruning, look for in the paths of variables."""

from dataclasses import dataclass

__all__ = ["Channels", "transformer_channels"]


@dataclass(frozen=True)
class Channels:
    """One kind of channels, of all places of a model that have it. Patterns match whole paths, and name the `place`.

    Attributes:
        kind: such as "query" or "hidden".
        weights: pattern of the parameters that make the channels, the last axis being the channels: a projection's
            kernel and bias, or scale and bias of the norm behind it, of which the output is as much a linear function.
        part: first and last but one of the channels along that axis; `None` for the axis' end.
        unit: kinds of one unit can only be cut together: logits pair a query's channel with a key's. Its name stands in
            a pruned model's `channel_sizes`, behind the place. Empty where the model cannot be cut.
        makers: pattern of the variables whose last axis is cut with the channels.
        readers: pattern of the variables whose last but one axis is cut, for they read the channels.
        heads: that share out the channels equally, and go on doing so.
    """

    kind: str
    weights: str
    part: tuple[int, int | None] = (0, None)
    unit: str = ""
    makers: str = ""
    readers: str = ""
    heads: int = 1


def transformer_channels(num_heads: int = 1) -> tuple[Channels, ...]:
    """Of every model made of `layers.attention.SelfAttention` and `layers.transformer.MLP`."""
    place = r"params/(?P<place>.*)"

    def made_by(kind: str, path: str, unit: str, readers: str = "", heads: int = 1) -> Channels:
        makers = rf"{place}/{path}/(kernel|bias)"
        return Channels(kind, makers, unit=unit, makers=makers, readers=readers, heads=heads)

    return (
        made_by("query", "attention/query", "query", heads=num_heads),
        made_by("key", "attention/key", "query", heads=num_heads),
        made_by("value", "attention/value", "value", rf"{place}/attention/out/kernel", num_heads),
        made_by("hidden", "mlp/expand", "hidden", rf"{place}/mlp/contract/kernel"),
    )
