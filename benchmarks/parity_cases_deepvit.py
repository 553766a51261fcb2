"""DeepViT beside vit-pytorch's, and beside a statement of the authors' form in torch's own layers.

The authors' repository cannot be installed; what it computes is written down here from its description, in the words of
`nn.Conv2d` and `nn.BatchNorm2d`, without looking at ours.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import numpy as np
import torch
from torch import nn

from benchmarks.comparison import Case, Stages
from vitjax.models import deepvit_tables
from vitjax.models.deepvit import AverageOfAllTokens, ConvolutionalStem, DeepViT, ReAttention, vit_pytorch
from vitjax.paths import flatten, unflatten
from vitjax.weights.rules import Rule, Table, import_weights

__all__ = ["DEEPVIT_CASES", "AuthorsDeepViT", "draw_images", "our_stages", "variable_shapes"]


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int, *, transform: bool, transform_scale: bool):
        super().__init__()
        self.heads, self.size = heads, width // heads
        self.qkv = nn.Linear(width, 3 * width)
        if transform:
            self.reatten_matrix = nn.Conv2d(heads, heads, 1)
            self.var_norm = nn.BatchNorm2d(heads)
        self.reatten_scale = self.size**-0.5 if transform_scale else 1.0
        self.transform = transform
        self.proj = nn.Linear(width, width)
        self.map: Any = None

    def forward(self, x):
        batch, tokens, width = x.shape
        query, key, value = self.qkv(x).view(batch, tokens, 3, self.heads, self.size).permute(2, 0, 3, 1, 4)
        maps = torch.softmax(query @ key.transpose(-1, -2) / self.size**0.5, dim=-1)
        if self.transform:
            maps = self.var_norm(self.reatten_matrix(maps)) * self.reatten_scale
        self.map = maps
        return self.proj((maps @ value).transpose(1, 2).reshape(batch, tokens, width))


class _MLP(nn.Module):
    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x):
        return self.fc2(nn.functional.gelu(self.fc1(x)))


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, r: float, **attention: bool):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn, self.mlp, self.r = _Attention(width, heads, **attention), _MLP(width, 3 * width), r

    def forward(self, x):
        x = x + self.attn(self.norm1(self.r * x)) / self.r
        return x + self.mlp(self.norm2(self.r * x)) / self.r


class _Patches(nn.Module):
    def __init__(self, width: int, patch: int, *, stem: bool):
        super().__init__()
        self.stem = stem
        if stem:
            self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
            self.bn1 = nn.BatchNorm2d(64)
            self.conv2 = nn.Conv2d(64, 64, 3, stride=1, padding=1, bias=False)
            self.bn2 = nn.BatchNorm2d(64)
            patch //= 2
        self.proj = nn.Conv2d(64 if stem else 3, width, patch, stride=patch)

    def forward(self, images):
        if self.stem:
            images = torch.relu(self.bn1(self.conv1(images)))
            images = torch.relu(self.bn2(self.conv2(images)))
        return self.proj(images).flatten(2).transpose(1, 2)


class AuthorsDeepViT(nn.Module):
    """The form of zhoudaquan/dvit_repo, keys included; images `[B, C, H, W]`."""

    def __init__(
        self, *, image: int, patch: int, classes: int, width: int, depth: int, heads: int, active: int,
        stem: bool, transform_scale: bool, r: float,
    ):  # fmt: skip
        super().__init__()
        self.patch_embed = _Patches(width, patch, stem=stem)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, (image // patch) ** 2 + 1, width))
        self.blocks = nn.ModuleList(
            _Block(width, heads, r, transform=number >= depth - active, transform_scale=transform_scale)
            for number in range(depth)
        )
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, classes)

    def stages(self, images) -> Stages:
        """Everything on the way, logits last."""
        tokens = self.patch_embed(images)
        x = torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], dim=1) + self.pos_embed
        found: Stages = {"embedded": x}
        for number, block in enumerate(self.blocks):
            x = block(x)
            found[f"block_{number}/attention_map"] = block.attn.map  # pyright: ignore[reportAttributeAccessIssue]
            found[f"block_{number}_output"] = x
        x = self.norm(x)
        return found | {"normed": x, "pooled": x[:, 0], "logits": self.head(x[:, 0])}


def draw_images(seed: int, *, size: int = 32, batch: int = 2) -> dict[str, np.ndarray]:
    """Normalised images from a seed."""
    return {"images": np.random.default_rng(seed).normal(size=(batch, size, size, 3)).astype(np.float32)}


def variable_shapes(module: DeepViT) -> dict[str, tuple[int, ...]]:
    """Parameters and running statistics, by path."""
    variables = jax.eval_shape(module.init, jax.random.key(0), draw_images(0)["images"])
    return {path: leaf.shape for path, leaf in flatten(dict(variables)).items()}


def our_stages(module: DeepViT, variables: Any, inputs: Any) -> Stages:
    """Everything that the module sows, maps included, and its outputs as `logits`."""
    logits, state = module.apply(variables, inputs["images"], mutable=["intermediates"])
    sown = flatten(jax.tree.map(lambda values: values[0], dict(state["intermediates"]), is_leaf=_is_sown))
    return {name: value for name, value in sown.items() if name != "features"} | {"logits": logits}


def _is_sown(node: Any) -> bool:
    return isinstance(node, tuple)


def random_statistics(module: nn.Module, seed: int = 5) -> None:
    """Running statistics that are not those of a fresh module."""
    generator = torch.Generator().manual_seed(seed)
    for name, buffer in module.named_buffers():
        if name.endswith("running_mean"):
            buffer.copy_(0.2 * torch.randn(buffer.shape, generator=generator))
        if name.endswith("running_var"):
            buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))


def _authors(name: str, *, stem: bool = False, transform_scale: bool = False, active: int = 2, r: float = 1.0) -> Case:
    width, heads, patch = 36, 4, 8
    reference = AuthorsDeepViT(
        image=32, patch=patch, classes=7, width=width, depth=2, heads=heads, active=active, stem=stem,
        transform_scale=transform_scale, r=r,
    ).eval()  # fmt: skip
    random_statistics(reference)
    parts: dict[str, Any] = {"embed": ConvolutionalStem} if stem else {}
    if transform_scale:
        parts["reattention"] = partial(ReAttention, scale=(width // heads) ** -0.5)
    module = DeepViT(
        num_classes=7, image_size=32, patch_size=patch, width=width, depth=2, num_heads=heads, mlp_width=3 * width,
        num_reattention=active, scale_adjustment=r, **parts,
    )  # fmt: skip
    table, shapes = deepvit_tables.LAYOUTS[0].rules(module), variable_shapes(module)
    weights = {key: tensor.numpy() for key, tensor in reference.state_dict().items()}
    statistics = {k: v for k, v in import_weights(table, weights, shapes).items() if k.startswith("batch_stats/")}
    return Case(
        name=name,
        reference=reference,
        reference_stages=lambda model, inputs: model.stages(inputs["images"].permute(0, 3, 1, 2)),
        inputs=draw_images,
        variables={path: shape for path, shape in shapes.items() if path.startswith("params/")},
        stages=lambda variables, inputs: our_stages(module, {**variables, **unflatten(statistics)}, inputs),
        table=_without_statistics(table),
    )


def _without_statistics(table: Table) -> Table:
    """Running statistics are no parameters: torch gives them no gradient, and they stay as they were drawn once."""

    def is_statistic(rule: Any) -> bool:
        return any(target.startswith("batch_stats/") for target in getattr(rule, "targets", ()))

    return tuple(Rule(rule.key, None) if is_statistic(rule) else rule for rule in table)


def _vit_pytorch_stages(model: Any, inputs: Any) -> Stages:
    found: Stages = {}
    handles = []

    def note(name: str, module: Any, *, output: bool = True) -> None:
        def hook(_: Any, given: Any, made: Any) -> None:
            found[name] = made if output else given[0]

        handles.append(module.register_forward_hook(hook))

    note("embedded", model.dropout)
    layers = model.transformer.layers
    for number, (attention, _) in enumerate(layers):
        note(f"block_{number}/attention_map", attention.reattn_norm)
        if number:
            note(f"block_{number - 1}_output", attention, output=False)
    note(f"block_{len(layers) - 1}_output", model.transformer)
    note("pooled", model.mlp_head[0])
    logits = model(inputs["images"].permute(0, 3, 1, 2))
    for handle in handles:
        handle.remove()
    return found | {"logits": logits}


def _vit_pytorch(name: str, *, pool: str = "cls") -> Case:
    from vit_pytorch.deepvit import DeepViT as Reference

    sizes: dict[str, Any] = {
        "image_size": 32, "patch_size": 8, "num_classes": 7, "dim": 32, "depth": 2, "heads": 4, "mlp_dim": 48,
        "dim_head": 12,
    }  # fmt: skip
    parts: dict[str, Any] = {"pool": AverageOfAllTokens} if pool == "mean" else {}
    module = vit_pytorch(**sizes, **parts)
    return Case(
        name=name,
        reference=Reference(**sizes, pool=pool).eval(),
        reference_stages=_vit_pytorch_stages,
        inputs=draw_images,
        variables=variable_shapes(module),
        stages=partial(our_stages, module),
        table=deepvit_tables.vit_pytorch(),
    )


_CASES: dict[str, Callable[..., Case]] = {
    "DeepViT vs authors' form": _authors,
    "DeepViT vs authors' form, as S": partial(_authors, stem=True, transform_scale=True, active=1, r=0.5),
    "DeepViT vs authors' form, as L": partial(_authors, stem=True, active=1, r=0.5),
    "DeepViT vs authors' form, no re-attention": partial(_authors, active=0),
    "DeepViT vs vit-pytorch": _vit_pytorch,
    "DeepViT vs vit-pytorch, mean pooling": partial(_vit_pytorch, pool="mean"),
}

DEEPVIT_CASES = {name: cache(partial(make, name)) for name, make in _CASES.items()}
"""Name -> what makes the case, once."""
