"""Small images packed into rows, for the models that read them: the same images in any company."""

import numpy as np

LENGTH, SLOTS, SIDE = 20, 3, 2
GRIDS = ((2, 3), (3, 3), (1, 4), (2, 2))
TRUNK = {"patch_size": SIDE, "max_grid": (4, 4), "width": 16, "depth": 1, "num_heads": 2, "mlp_width": 24}


def pictures(keep: float = 1.0, seed: int = 0) -> list[dict[str, np.ndarray]]:
    """One per grid; with `keep` below 1 some of their tokens are gone."""
    generator, found = np.random.default_rng(seed), []
    for rows, columns in GRIDS:
        kept = np.sort(generator.permutation(rows * columns)[: max(1, round(keep * rows * columns))])
        patches = generator.normal(size=(len(kept), 3 * SIDE**2)).astype(np.float32)
        places = np.stack(np.divmod(kept, columns), axis=1)
        found.append({"patches": patches, "positions": places, "grid": np.int32([rows, columns])})
    return found


def pack(rows: list[list[int]], images: list[dict[str, np.ndarray]], *, padding: float = 0.0) -> dict[str, np.ndarray]:
    """A batch of those images; what padding tokens hold is up to the caller."""
    batch = {
        "patches": np.full((len(rows), LENGTH, 3 * SIDE**2), padding, np.float32),
        "segments": np.zeros((len(rows), LENGTH), np.int32),
        "positions": np.zeros((len(rows), LENGTH, 2), np.int32),
        "grid_sizes": np.ones((len(rows), SLOTS, 2), np.int32),
    }
    for row, members in enumerate(rows):
        start = 0
        for slot, number in enumerate(members):
            at = slice(start, start + len(images[number]["patches"]))
            batch["patches"][row, at] = images[number]["patches"]
            batch["positions"][row, at] = images[number]["positions"]
            batch["segments"][row, at] = slot + 1
            batch["grid_sizes"][row, slot] = images[number]["grid"]
            start = at.stop
    return batch


def places(rows: list[list[int]]) -> dict[int, tuple[int, int]]:
    """(row, slot) of each image."""
    return {number: (row, slot) for row, members in enumerate(rows) for slot, number in enumerate(members)}


TOGETHER = [[0, 1, 2], [3], []]
SHUFFLED = [[2, 3, 0], [], [1]]
ALONE = [[0], [1], [2], [3]]
EMPTY = [[], []]
