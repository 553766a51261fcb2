"""ViT with learnable memory in every layer: one backbone for its own task and for others."""

import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vitjax.arrays import Array, Bool, Float
from vitjax.errors import UserError
from vitjax.layers.attention import MAPS
from vitjax.layers.dense import Dense
from vitjax.layers.normalisation import LayerNorm
from vitjax.layers.transformer import MLP, DropPath
from vitjax.models.vit import ClassTokenPooling, LearnedPositions, PatchEmbedding, check_transformer
from vitjax.ops.activations import gelu
from vitjax.ops.attention import attention_map, attention_report, dense_attention
from vitjax.ops.fusion import end_fusion

__all__ = [
    "BASE",
    "VARIANTS",
    "MemoryTask",
    "MemoryViT",
    "no_position",
    "normed_memory",
    "plain_memory",
    "shared_position",
    "task_mask",
]

BASE = "base"
"""What the backbone's own task is called beside the names of the others."""


@dataclass(frozen=True)
class MemoryTask:
    """A task that is added to a frozen backbone: a class token, memory in every layer, and a head (section 3.2).

    Attributes:
        name: letters, digits, `_`, `-` and `.`; its parameters are under `task_{name}/`.
        memory_size: M, cells in each layer; the paper recommends 5 (section 4).
        num_classes: outputs of its head; `None` for the model's `num_classes`.
        sees: earlier tasks whose class tokens and memories it attends to: none in *concatenation*, all in *extension*.
    """

    name: str
    memory_size: int = 5
    num_classes: int | None = None
    sees: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w.-]+", self.name) or self.name == BASE:
            raise UserError(
                f"MemoryTask: `name` (={self.name!r}) must be letters, digits, '_', '-' or '.', and not {BASE!r}, "
                "which is the backbone's own task"
            )
        if self.memory_size < 0:
            raise UserError(f"MemoryTask {self.name}: `memory_size` (={self.memory_size}) must be 0 or more")


def task_mask(tasks: tuple[MemoryTask, ...]) -> Bool[np.ndarray, "tasks keys"]:
    """The paper's Table 1 right of its first two columns: row C_k, columns C_1, C_2, ..., then the cells M_1, M_2, ...

    All rows see all of INP and CLS; the rows INP and CLS see nothing of this.
    """
    numbers = {task.name: number for number, task in enumerate(tasks)}
    sees = np.eye(len(tasks), dtype=bool)
    for number, task in enumerate(tasks):
        sees[number, [numbers[name] for name in task.sees]] = True
    return np.concatenate([sees, np.repeat(sees, [task.memory_size for task in tasks], axis=1)], axis=1)


def normed_memory(norm: Callable[[Array], Array], memory: Float[Array, "M D"]) -> Float[Array, "M D"]:
    """Memory joins the tokens in front of the layer's first norm, which normalises it too (Fig. 2)."""
    return norm(memory)


def plain_memory(norm: Callable[[Array], Array], memory: Float[Array, "M D"]) -> Float[Array, "M D"]:
    """Memory joins behind the norm, as in both public codes."""
    del norm
    return memory


def shared_position(prefix: Float[Array, "prefix D"]) -> Float[Array, "1 D"]:
    """An added class token stands at the position of the backbone's own (Fig. 3); at none where that has none."""
    return prefix.sum(axis=0, keepdims=True)  # one row, or none


def no_position(prefix: Float[Array, "prefix D"]) -> Float[Array, "1 D"]:
    """An added class token has no position, as in vit-pytorch."""
    return jnp.zeros((1, prefix.shape[-1]), prefix.dtype)


class _Added(NamedTuple):
    """What the tasks bring into a layer."""

    rows: Array
    """`[B*tasks, D]`: their class tokens."""
    memory: Array
    """`[M, D]`: their cells in this layer, task by task."""
    mask: Array
    """bool `[tasks, keys]`, of all keys: the backbone's, then those of `task_mask`."""


def _attend(
    dropout_key: Array | None, query: Array, key: Array, value: Array, mask: Array | None, **settings: Any
) -> Array:
    return dense_attention(query, key, value, mask, dropout_key=dropout_key, **settings)


class _Attention(nn.Module):
    """Self-attention of the backbone's tokens, and a small one of the tasks' rows over all there is.

    The backbone's rows are no part of the second, so they need no mask, and what is computed for them is what ViT
    computes, bit for bit. Memory has keys and values, but never queries (section 3.1).
    """

    num_heads: int
    head_size: int | None
    use_qkv_bias: bool
    dtype: str

    @nn.compact
    def __call__(
        self, tokens: Array, memory: Array, added: _Added | None, attend: Callable[..., Array], num_images: int
    ) -> tuple[Array, Array | None]:
        width = tokens.shape[-1]
        size = width // self.num_heads if self.head_size is None else self.head_size
        dense = {
            name: Dense(self.num_heads * size, use_bias=self.use_qkv_bias, dtype=self.dtype, name=name)
            for name in ("query", "key", "value")
        }
        out = Dense(width, dtype=self.dtype, name="out")

        def project(name: str, rows: Array) -> Array:
            return dense[name](rows).reshape(num_images, -1, self.num_heads, size)

        def spread(name: str, cells: Array) -> Array:
            """One projection for all images."""
            heads = dense[name](cells).reshape(1, -1, self.num_heads, size)
            return jnp.broadcast_to(heads, (num_images, *heads.shape[1:]))

        def attended(rows: Array, keys: Array, values: Array, mask: Array | None) -> Array:
            query = project("query", rows)
            if mask is None and self.is_mutable_collection(MAPS) and not self.is_initializing():
                self.sow(MAPS, "map", attention_map(query, keys, scale=size**-0.5))
            outputs = attend(query, keys, values, mask, scale=size**-0.5)
            return out(outputs.reshape(-1, self.num_heads * size))

        key, value = project("key", tokens), project("value", tokens)
        if len(memory):
            key, value = (
                jnp.concatenate([old, spread(name, memory)], axis=1) for name, old in (("key", key), ("value", value))
            )
        branch = attended(tokens, key, value, None)
        if added is None:
            return branch, None
        keys, values = (
            jnp.concatenate([old, project(name, added.rows), spread(name, added.memory)], axis=1)
            for name, old in (("key", key), ("value", value))
        )
        mask = jnp.broadcast_to(added.mask[None, None], (num_images, 1, *added.mask.shape))
        return branch, attended(added.rows, keys, values, mask)


class _Block(nn.Module):
    """A pre-norm block whose attention sees memory; memory is cut off again, so residual and MLP never meet it."""

    attention: Callable[..., nn.Module]
    mlp: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    prepare_memory: Callable[..., Array]
    dropout_rate: float
    drop_path_rate: float

    @nn.compact
    def __call__(  # noqa: PLR0917, arguments by place are what rematerialisation knows
        self, tokens: Array, memory: Array, added: _Added | None, attend: Callable[..., Array], num_images: int,
        train: bool,
    ) -> tuple[Array, Array | None]:  # fmt: skip
        dropout = nn.Dropout(self.dropout_rate, deterministic=not train)
        drop_path = DropPath(self.drop_path_rate)
        attention_norm, mlp_norm = self.norm(name="attention_norm"), self.norm(name="mlp_norm")
        mlp = self.mlp(name="mlp")

        def finish(rows: Array, branch: Array) -> Array:
            images = jnp.repeat(jnp.arange(num_images), len(rows) // num_images)
            rows = rows + drop_path(dropout(branch), images, train)
            return rows + drop_path(mlp(mlp_norm(rows), train), images, train)

        tokens = end_fusion(tokens)
        normed = None
        if added is not None:
            normed = added._replace(
                rows=attention_norm(added.rows), memory=self.prepare_memory(attention_norm, added.memory)
            )
        cells = self.prepare_memory(attention_norm, memory) if len(memory) else memory
        attention = self.attention(name="attention")
        branch, row_branch = attention(attention_norm(tokens), cells, normed, attend, num_images)
        return finish(tokens, branch), None if added is None else finish(added.rows, row_branch)


class _Task(nn.Module):
    """The parameters of one added task."""

    num_classes: int
    memory_size: int
    width: int
    depth: int
    own_norm: Callable[..., nn.Module] | None

    def setup(self) -> None:
        self.class_token = self.param("class_token", nn.initializers.normal(0.02), (1, self.width), jnp.float32)
        shape = (self.depth, self.memory_size, self.width)
        self.memory = self.param("memory", nn.initializers.normal(0.02), shape, jnp.float32)
        self.norm = None if self.own_norm is None else self.own_norm()
        self.head = Dense(self.num_classes, kernel_init=nn.initializers.zeros_init())

    def __call__(self, row: Array, shared_norm: Callable[[Array], Array]) -> Array:
        norm = shared_norm if self.norm is None else self.norm
        return self.head(norm(row))


class MemoryViT(nn.Module):
    """ViT whose layers attend to learnable memory cells beside the tokens, with any number of added tasks.

    Fine-tuning Image Transformers using Learnable Memory. Sandler, Zhmoginov, Vladymyrov, Jackson, 2022.
    https://arxiv.org/abs/2203.15243. Memory: section 3.1 and Fig. 2; several tasks: section 3.2, Table 1 and Fig. 3.

    Two forms, which may also be had together:

    - *full attention* (`memory_size`): all tokens see the memory `[L, M, D]`, and the one class token is trained with
      it. The backbone's own task is lost, its parameters are ViT's and `memory`.
    - *masked* (`tasks`): each task has a class token and memory that no token of the backbone sees. One pass serves
      all, and the backbone's logits are those of `ViT` bit for bit.

    Intermediates: those of ViT, and with tasks `embedded_tasks`, `block_{i}_tasks` (`[B, tasks, D]`).

    Attributes:
        num_classes: outputs of the task that answers; 0, for the backbone's own, returns features.
        memory_size: M, cells per layer that all tokens see; 0 for none.
        tasks: added tasks, each after those that it sees.
        answer: which task's logits a call returns: 0 for the backbone's own, then `tasks` in turn; -1 is the last.
        base_classes: outputs of the backbone's own head, where another answers; `None` for `num_classes`.
        prepare_memory: `normed_memory` or `plain_memory`.
        place_class_token: `shared_position` or `no_position`, for the class tokens of `tasks`.
        task_norm: factory of a norm in front of each added head; `None` for the final norm that all share.
        head_size: K; `D / A` if not given.
        image_size: and all that follow: see `ViT`.
    """

    num_classes: int | None = None
    memory_size: int = 0
    tasks: tuple[MemoryTask, ...] = ()
    answer: int = -1
    base_classes: int | None = None
    prepare_memory: Callable[..., Array] = normed_memory
    place_class_token: Callable[..., Array] = shared_position
    task_norm: Callable[..., nn.Module] | None = None
    head_size: int | None = None
    image_size: int | tuple[int, int] = 224
    patch_size: int = 16
    width: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_width: int = 3072
    embedding: Callable[..., nn.Module] = PatchEmbedding
    use_class_token: bool = True
    pool: Callable[..., nn.Module] = ClassTokenPooling
    positions: Callable[..., nn.Module] = LearnedPositions
    norm_after_pooling: bool = False
    representation_size: int | None = None
    zero_init_head: bool = True
    head_bias: float = 0.0
    use_qkv_bias: bool = True
    activation: Callable[[Array], Array] = gelu
    norm_epsilon: float = 1e-6
    dropout_rate: float = 0.0
    attention_dropout_rate: float = 0.0
    drop_path_rate: float = 0.0
    remat: bool = False
    attention_implementation: str = "auto"
    dtype: str = "float32"

    def __post_init__(self) -> None:
        """Checks what can be checked before there is an image."""
        super().__post_init__()
        check_transformer(self.width, self.num_heads, self.dtype, where="MemoryViT", head_size=self.head_size)
        if any(side % self.patch_size for side in self.image_shape):
            raise UserError(
                f"MemoryViT: `image_size` (={self.image_size}) must be divisible by `patch_size` (={self.patch_size})"
            )
        names = [task.name for task in self.tasks]
        for number, task in enumerate(self.tasks):
            if task.name in names[:number]:
                raise UserError(f"MemoryViT: two tasks are called {task.name!r}; give one of them another name")
            if unknown := sorted(set(task.sees) - set(names[:number])):
                raise UserError(
                    f"MemoryViT: task {task.name!r} sees {', '.join(unknown)}, but in front of it are "
                    f"{', '.join(names[:number]) or 'none'}; list the tasks that it sees first"
                )
        if not -1 <= self.answer <= len(self.tasks):
            raise UserError(f"MemoryViT: `answer` (={self.answer}) must be -1, 0, or up to {len(self.tasks)}")
        classes = list(self.classes.values())[self.answer]
        if classes != self.num_classes:
            raise UserError(
                f"MemoryViT: `num_classes` (={self.num_classes}) must be that of the task that answers, "
                f"{self.task_names[self.answer]!r} with {classes}"
            )

    @property
    def task_names(self) -> tuple[str, ...]:
        """The backbone's own task, then the added ones."""
        return (BASE, *(task.name for task in self.tasks))

    @property
    def classes(self) -> dict[str, int | None]:
        """Number of outputs of each task."""
        counts = (self.base_classes, *(task.num_classes for task in self.tasks))
        filled = (self.num_classes if count is None else count for count in counts)
        return dict(zip(self.task_names, filled, strict=True))

    @property
    def image_shape(self) -> tuple[int, int]:
        """Rows and columns of the images that the position table is made for."""
        size = self.image_size
        return (size, size) if isinstance(size, int) else (size[0], size[1])

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches that the position table is made for."""
        rows, columns = self.image_shape
        return rows // self.patch_size, columns // self.patch_size

    def describe(self, images: Any) -> str:
        """The attention that runs for these inputs, in words; only shapes matter."""
        return attention_report(packed=False, dtype=self.dtype, implementation=self.attention_implementation)

    def __call__(self, images: Float[Array, "B H W C"], *, train: bool = False) -> Float[Array, "B classes"]:
        """Classifies images for the task that answers.

        Raises:
            UserError: an image's side is not divisible by the patch, or `num_classes` is `None`.
        """
        return list(self.every_task(images, train=train).values())[self.answer]

    @nn.compact
    def every_task(self, images: Float[Array, "B H W C"], *, train: bool = False) -> dict[str, Array]:
        """Logits `[B, classes]` of every task by name, the backbone's own first, from one pass.

        Raises:
            UserError: as `__call__`.
        """
        if self.num_classes is None:
            raise UserError("MemoryViT: `num_classes` is not set; give the number of labels, or 0 for features")
        parts = [
            _Task(
                num_classes=self.classes[task.name] or 0,
                memory_size=task.memory_size,
                width=self.width,
                depth=self.depth,
                own_norm=self.task_norm,
                name=f"task_{task.name}",
            )
            for task in self.tasks
        ]
        tokens, rows = self._embed(jnp.asarray(images, jnp.dtype(self.dtype)), parts, train)
        num_images, length, width = tokens.shape
        tokens, rows = self._encode(tokens.reshape(-1, width), rows, parts, num_images, train)
        norm = LayerNorm(epsilon=self.norm_epsilon, dtype=self.dtype, name="final_norm")
        if not self.norm_after_pooling:
            tokens = norm(tokens)
            self.sow("intermediates", "normed", tokens.reshape(num_images, length, width))
        tokens = tokens.reshape(num_images, length, width)
        pooled = self.pool(name="pooling")(tokens, int(self.use_class_token), train)
        if self.norm_after_pooling:
            pooled = norm(pooled)
        self.sow("intermediates", "pooled", pooled)
        logits = {BASE: self._classify(pooled)}
        for number, (task, part) in enumerate(zip(self.tasks, parts, strict=True)):
            assert rows is not None
            logits[task.name] = part(rows.reshape(num_images, -1, width)[:, number], norm)
        return logits

    def _embed(self, images: Array, parts: list[_Task], train: bool) -> tuple[Array, Array | None]:
        """The backbone's tokens `[B, N, D]`, as in ViT, and the tasks' class tokens `[B*tasks, D]`."""
        embed = self.embedding(patch_size=self.patch_size, width=self.width, dtype=self.dtype, name="patch_embedding")
        tokens, grid = embed(images, None, train)
        num_prefix = int(self.use_class_token)
        prefix, table = self.positions(name="position_embedding")(self.grid, grid, self.width, num_prefix)
        tokens = tokens + table.astype(tokens.dtype)
        num_images = len(tokens)
        if self.use_class_token:
            first = self.param("class_token", nn.initializers.zeros_init(), (1, self.width), jnp.float32) + prefix
            first = jnp.broadcast_to(first.astype(tokens.dtype), (num_images, 1, self.width))
            tokens = jnp.concatenate([first, tokens], axis=1)
        dropout = nn.Dropout(self.dropout_rate, deterministic=not train)
        tokens = dropout(tokens)
        self.sow("intermediates", "embedded", tokens)
        if not parts:
            return tokens, None
        rows = jnp.concatenate([part.class_token for part in parts]) + self.place_class_token(prefix)
        rows = dropout(jnp.broadcast_to(rows.astype(tokens.dtype), (num_images, *rows.shape)))
        self.sow("intermediates", "embedded_tasks", rows)
        return tokens, rows.reshape(-1, self.width)

    def _encode(
        self, tokens: Array, rows: Array | None, parts: list[_Task], num_images: int, train: bool
    ) -> tuple[Array, Array | None]:
        """All blocks, on the flat trunk `[B*N, D]`, each with its own memory."""
        memory = jnp.zeros((self.depth, 0, self.width))
        if self.memory_size:
            shape = (self.depth, self.memory_size, self.width)
            memory = self.param("memory", nn.initializers.normal(0.02), shape, jnp.float32)
        added = None
        if rows is not None:
            seen = np.ones((len(parts), len(tokens) // num_images + self.memory_size), bool)  # INP and CLS
            mask = jnp.asarray(np.concatenate([seen, task_mask(self.tasks)], axis=1))
            added = _Added(rows, jnp.concatenate([part.memory for part in parts], axis=1), mask)
        block = nn.remat(_Block, static_argnums=(5, 6)) if self.remat else _Block
        rate, form = self.attention_dropout_rate, self.attention_implementation
        bound = functools.partial(_attend, dropout_rate=rate, implementation=form)
        for number in range(self.depth):
            key = self.make_rng("dropout") if train and self.attention_dropout_rate > 0 else None
            attend = jax.tree_util.Partial(bound, key)  # a pytree, for rematerialisation
            layer = None if added is None else added._replace(rows=rows, memory=added.memory[number])
            tokens, rows = self._block(block, number)(tokens, memory[number], layer, attend, num_images, train)
            self.sow("intermediates", f"block_{number}_output", tokens.reshape(num_images, -1, self.width))
            if rows is not None:
                self.sow("intermediates", f"block_{number}_tasks", rows.reshape(num_images, -1, self.width))
        return tokens, rows

    def _block(self, block: Callable[..., nn.Module], number: int) -> nn.Module:
        return block(
            attention=functools.partial(
                _Attention,
                num_heads=self.num_heads,
                head_size=self.head_size,
                use_qkv_bias=self.use_qkv_bias,
                dtype=self.dtype,
            ),
            mlp=functools.partial(
                MLP,
                width=self.mlp_width,
                activation=self.activation,
                dropout_rate=self.dropout_rate,
                dtype=self.dtype,
            ),
            norm=functools.partial(LayerNorm, epsilon=self.norm_epsilon, dtype=self.dtype),
            prepare_memory=self.prepare_memory,
            dropout_rate=self.dropout_rate,
            drop_path_rate=self.drop_path_rate * number / max(self.depth - 1, 1),
            name=f"block_{number}",
        )

    def _classify(self, pooled: Array) -> Array:
        """The backbone's own head, as in ViT."""
        features = pooled
        if self.representation_size is not None:
            lecun = nn.initializers.lecun_normal()
            dense = Dense(self.representation_size, dtype=self.dtype, kernel_init=lecun, name="pre_logits")
            features = jnp.tanh(dense(pooled))
        self.sow("intermediates", "features", features)
        if not self.classes[BASE]:
            return features
        zeros, lecun = nn.initializers.zeros_init(), nn.initializers.lecun_normal()
        head = Dense(
            self.classes[BASE] or 0,
            kernel_init=zeros if self.zero_init_head else lecun,
            bias_init=nn.initializers.constant(self.head_bias),
            name="head",
        )
        return head(features)


_SIZES: dict[str, dict[str, int]] = {
    "base": {"width": 768, "depth": 12, "num_heads": 12, "mlp_width": 3072},
    "large": {"width": 1024, "depth": 24, "num_heads": 16, "mlp_width": 4096},
}

VARIANTS: Mapping[str, Mapping[str, Any]] = {
    # The backbones of the paper's experiments (section 4), with the number of cells that it recommends.
    f"memory_vit_{size}_patch{patch}_224": {
        **_SIZES[size],
        "patch_size": patch,
        "image_size": 224,
        "num_classes": 1000,
        "memory_size": 5,
    }
    for size, patch in (("base", 32), ("base", 16), ("large", 32))
}
"""Name -> keywords of `MemoryViT`, for `vitjax.create_model`: memory that all tokens see."""

MODEL = MemoryViT
