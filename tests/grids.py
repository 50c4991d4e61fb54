"""Random grids, for the tests of the language."""
import numpy as np
from scipy import ndimage


def _noise(rng, height, width, palette): return rng.choice(palette, (height, width))


def _sparse(rng, height, width, palette): return np.where(rng.random((height, width)) < 0.8, 0, _noise(rng, height, width, palette))


def _boxes(rng, height, width, palette):
    "Boxes on black, some of them hollow."
    grid = np.zeros((height, width), np.uint8)
    for _ in range(rng.integers(1, 7)):
        r, c = rng.integers(height), rng.integers(width)
        h, w = rng.integers(1, 8, 2)
        grid[r:r + h, c:c + w] = rng.choice(palette)
        if rng.random() < 0.3: grid[r + 1:r + h - 1, c + 1:c + w - 1] = rng.choice([0, rng.choice(palette)])
    return grid


def _period(rng, height, width, palette): return np.tile(_noise(rng, *rng.integers(1, 4, 2), palette), (40, 40))[:height, :width]


def _mirrored(rng, height, width, palette):
    "Symmetric under half a turn, at both middle lines, or (where it is square) at the diagonal."
    grid, kind = _noise(rng, height, width, palette), rng.integers(3)
    if kind == 0: return np.maximum(grid, grid[::-1, ::-1])
    if kind == 1: grid = np.maximum(grid, grid[::-1])
    return np.maximum(grid, grid.T) if height == width and kind == 2 else np.maximum(grid, grid[:, ::-1])


def _with_hole(rng, height, width, palette):
    "A period or a symmetry, damaged: a box or single cells of one colour."
    grid, hole = rng.choice([_period, _mirrored])(rng, height, width, palette).copy(), rng.integers(10)
    if rng.random() < 0.5: grid[rng.random(grid.shape) < 0.1] = hole
    else:
        r, c = rng.integers(height), rng.integers(width)
        grid[r:r + rng.integers(1, 5), c:c + rng.integers(1, 5)] = hole
    return grid


def _lattice(rng, height, width, palette):
    "Lines of one colour at equal distances; between them cells of one colour, or noise."
    grid, (down, right) = _noise(rng, height, width, palette), rng.integers(1, 7, 2)
    if rng.random() < 0.6: grid = grid[np.ix_(np.arange(height) // (down + 1), np.arange(width) // (right + 1))].copy()
    separator = rng.integers(10)
    if rng.random() < 0.8: grid[down::down + 1] = separator
    if rng.random() < 0.8: grid[:, right::right + 1] = separator
    return grid


def _blocks(rng, height, width, palette):
    down, right = rng.integers(1, 5, 2) if rng.random() < 0.5 else [rng.integers(1, 5)] * 2
    return np.kron(_noise(rng, height, width, palette), np.ones((down, right), np.uint8))[:height, :width]


def _outlines(rng, height, width, palette):
    "Areas with a rim that shuts them in, some of them only by its corners."
    areas = _boxes(rng, height, width, [1]) > 0
    rim = ndimage.binary_dilation(areas, ndimage.generate_binary_structure(2, rng.integers(1, 3))) & ~areas
    return np.where(rim, rng.choice(palette), np.where(areas & (rng.random(areas.shape) < 0.1), rng.choice(palette), 0))


def _copies(rng, height, width, palette):
    "A few small shapes, again and again."
    grid, shapes = np.zeros((height, width), np.uint8), [rng.choice([0, *palette], rng.integers(1, 4, 2)) for _ in range(rng.integers(1, 4))]
    for _ in range(rng.integers(2, 10)):
        shape, r, c = shapes[rng.integers(len(shapes))], rng.integers(height), rng.integers(width)
        room = grid[r:r + shape.shape[0], c:c + shape.shape[1]]
        room[:] = shape[:room.shape[0], :room.shape[1]]
    return grid


KINDS = [_noise, _sparse, _boxes, _period, _mirrored, _with_hole, _lattice, _blocks, _outlines, _copies]


def random_grid(rng, height, width, n_colours):
    "H×W of one of several kinds: what the kernels look for and what they do not."
    palette = rng.permutation(10)[:n_colours].astype(np.uint8)
    return np.ascontiguousarray(KINDS[rng.integers(len(KINDS))](rng, height, width, palette), np.uint8)
