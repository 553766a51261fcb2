"""Length buckets: where attention on CPU finds each image of a packed batch.

Attention over whole rows costs rows × N², most of it between tokens of different images. Gathering the images by length
into a few blocks of fixed shape costs about Σ nᵢ² whatever the length of a row is.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

__all__ = ["Buckets", "plan_buckets"]


@dataclass(frozen=True)
class Buckets:
    """Shapes of the blocks that attention is gathered into.

    Attributes:
        lengths: tokens that an image of each block may have, increasing.
        capacities: images that each block holds, per group of rows.
    """

    lengths: tuple[int, ...]
    capacities: tuple[int, ...]

    def assign(
        self,
        groups: Int[np.ndarray, "_images"],
        starts: Int[np.ndarray, "_images"],
        sizes: Int[np.ndarray, "_images"],
        *,
        num_groups: int,
        group_tokens: int,
    ) -> tuple[np.ndarray, ...] | None:
        """Lists the tokens of each image in exactly one slot of one block.

        Args:
            groups: group of rows that the image is in, 0 ... num_groups - 1.
            starts: number of its first token in its group's flattened rows.
            sizes: tokens, at least 1.
            num_groups: G.
            group_tokens: tokens of a group, padding included; also fills the places that no token takes.

        Returns:
            An int32 array [G, capacity, length] per block, or `None` if the images do not fit.
        """
        own = np.searchsorted(self.lengths, sizes)
        # shortest first, so that what spills into the next block is what wastes least there
        order = np.lexsort((sizes, groups))
        waiting = np.zeros(0, np.int64)
        blocks = []
        for number, (length, capacity) in enumerate(zip(self.lengths, self.capacities, strict=True)):
            chosen = np.concatenate([waiting, order[own[order] == number]])
            chosen = chosen[np.argsort(groups[chosen], kind="stable")]
            counts = np.bincount(groups[chosen], minlength=num_groups)
            place = np.arange(len(chosen)) - np.repeat(np.cumsum(counts) - counts, counts)
            waiting, chosen, place = chosen[place >= capacity], chosen[place < capacity], place[place < capacity]
            block = np.full((num_groups, capacity, length), group_tokens, np.int32)
            steps = np.arange(length)
            block[groups[chosen], place] = np.where(
                steps < sizes[chosen, None], starts[chosen, None] + steps, group_tokens
            )
            blocks.append(block)
        fits = not len(waiting) and not np.any(own == len(self.lengths))
        return tuple(blocks) if fits else None


def plan_buckets(groups: Sequence[Int[np.ndarray, "_"]], *, largest: int, sample: int, num_buckets: int = 8) -> Buckets:
    """Chooses lengths and capacities from example groups of full rows.

    Lengths minimise the cost of attention, Σ length² over the images. Images spill into longer blocks only, so that a
    group fits if, for every block, the images too long for all shorter blocks fit into it and those above it: these
    sums of capacities are the most that any example group needs, and two standard errors of the sample to spare.

    Args:
        groups: tokens of the images of each group.
        largest: tokens that an image can have at most; the last block is that long.
        sample: how many different examples the groups were drawn from.
        num_buckets: at most this many blocks.
    """
    lengths = _best_lengths(np.concatenate(groups), largest, num_buckets)
    counts = np.array([np.bincount(np.searchsorted(lengths, group), minlength=len(lengths)) for group in groups])
    at_least = counts[:, ::-1].cumsum(axis=1)[:, ::-1]  # images of each block or a longer one
    images = counts.sum(axis=1).mean()
    error = np.sqrt((at_least.mean(axis=0) / images + 2 / sample) / sample)  # + 2: a sample may miss what is rare
    needed = np.maximum.accumulate(np.ceil(at_least.max(axis=0) + 2 * images * error).astype(int)[::-1])[::-1]
    capacities = needed - np.append(needed[1:], 0)
    kept = capacities > 0
    return Buckets(tuple(lengths[kept].tolist()), tuple(capacities[kept].tolist()))


def _best_lengths(sizes: np.ndarray, largest: int, num_buckets: int) -> np.ndarray:
    """At most `num_buckets` lengths, `largest` among them, with the least Σ length² over the images."""
    unit = max(1, -(-largest // 128))  # at most 128 candidates
    candidates = np.unique(np.append(np.arange(unit, largest, unit), largest))
    below = np.concatenate([[0], np.searchsorted(np.sort(sizes), candidates, side="right")])
    # cost[i, j]: images longer than candidate i - 1, up to candidate j - 1, all padded to the latter
    ends = np.concatenate([[0], candidates])
    cost = (below[None, :] - below[:, None]) * (ends[None, :] ** 2.0)
    cost[np.tril_indices(len(ends))] = np.inf
    best, previous = cost[0], []
    for _ in range(min(num_buckets, len(candidates)) - 1):
        total = best[:, None] + cost
        total[np.arange(len(ends)), np.arange(len(ends))] = best  # one bucket fewer
        previous.append(np.argmin(total, axis=0))
        best = np.min(total, axis=0)
    chosen, end = [], len(ends) - 1
    for step in reversed(previous):
        chosen.append(end)
        end = int(step[end])
    chosen.append(end)
    return ends[np.unique([number for number in chosen if number > 0])]
