"""Random values, second values and arguments for an operation, for the tests of the language."""
from functools import lru_cache

import numpy as np
from grids import random_grid

from arc_jepa.dsl.ops import ColourMap, OPS, PackedPair
from arc_jepa.dsl.types import HEADER, Type, from_grid, write_scalar

APPLIED = [op for op in OPS if not op.is_control]                   # control runs programs and has no kernel


def canvas(value):
    "The H×W cells of a flat value; 0×0 of one that has none."
    height, width = map(int, value[1:3])
    return value[HEADER:HEADER + height * width].reshape(height, width)


def draw_pair(first, sides, rng): return tuple(int(rng.integers(first, side + 1)) for side in sides)


def draw_argument(parameter, rng, cells=None):
    "Any value that a person may write: colours and places of the grid and small numbers more often than others."
    if isinstance(parameter, ColourMap): return sum(int(rng.integers(10)) << 4 * c for c in range(10))
    if isinstance(parameter, PackedPair):
        sides = cells.shape if cells is not None and cells.size and rng.random() < 0.8 else (9, 9) if rng.random() < 0.8 else (parameter.last, parameter.last)
        row, column = draw_pair(parameter.first, [min(side, parameter.last) for side in sides], rng)
        return 64 * row + column
    if parameter.kind == 'colour' and cells is not None and cells.size and rng.random() < 0.6: return int(rng.choice(cells.ravel()))
    values = [v for v, name in enumerate(parameter.names) if name]
    return int(rng.choice(values[:7] if len(values) > 10 and rng.random() < 0.8 else values))


def draw_arguments(op, value, rng): return tuple(draw_argument(p, rng, canvas(value)) for p in op.scalars)


def searched_arguments(op, rng): return tuple(int(rng.choice(p.searched)) if p.searched else draw_argument(p, rng) for p in op.scalars)


def draw_scalar(kind, rng):
    "A flat value without cells: mostly small, but anything that a value of the type can be."
    small, value = rng.random() < 0.8, np.zeros(HEADER, np.uint8)
    if kind in (Type.size, Type.position): number = np.dot((64, 1), draw_pair(kind is Type.size, [9, 9] if small else [63, 63], rng))
    elif kind is Type.number: number = rng.integers(10 if small else 100) if rng.random() < 0.9 else rng.integers(65_536)
    else: number = rng.integers({Type.colour: 10, Type.boolean: 2, Type.direction: 8}[kind])
    write_scalar(value, int(kind), int(number))
    return value


def draw_mask(grid, rng):
    marks = rng.random(grid.shape) < rng.choice([0.05, 0.3, 0.7, 1])
    marks[tuple(rng.integers(grid.shape))] = True
    return np.concatenate([[Type.mask, *grid.shape, 1, 0, 0, 0, 0], grid.ravel(), marks.ravel(), [0] * (-2 * grid.size % 8)]).astype(np.uint8)


@lru_cache(maxsize=None)
def makers(kind, from_a_grid): return [op for op in APPLIED if op.gives is kind and (Type.grid in op.takes or not from_a_grid)]


def draw_value(kind, grid, rng, run, steps=3):
    "A flat value of a type that random operations make of `grid`, or None. `run(op, value, other, arguments)`: the value that an operation makes, or None."
    if kind is Type.grid and (steps == 0 or rng.random() < 0.8): return from_grid(grid)
    if kind in (Type.colour, Type.number, Type.boolean, Type.size, Type.position, Type.direction) and (steps == 0 or rng.random() < 0.6): return draw_scalar(kind, rng)
    if kind is Type.mask and (steps == 0 or rng.random() < 0.4): return draw_mask(grid, rng)
    choices = makers(kind, steps == 1)
    for _ in range(20 if steps and choices else 0):
        op = choices[rng.integers(len(choices))]
        value = draw_value(op.takes[rng.integers(len(op.takes))], grid, rng, run, steps - 1)
        other = value if value is None or not op.operand else draw_other(op, value, grid, rng, run, steps - 1)
        if other is None: continue
        made = run(op, value, other, searched_arguments(op, rng))
        if made is not None: return made


def draw_other(op, value, grid, rng, run, steps=2):
    "A second value for `op`: often the first one, or one of the same grid, or one that differs in a few cells."
    kind, cells = op.operand.accepts[rng.integers(len(op.operand.accepts))], canvas(value)
    if Type(int(value[0])) is kind and rng.random() < 0.1: return value
    how = rng.random()
    if how < 0.3: other = grid
    elif how < 0.5 and cells.size: other = np.where(rng.random(cells.shape) < 0.1, rng.integers(10), cells)
    else: other = random_grid(rng, *(cells.shape if cells.size and how < 0.85 else grid.T.shape), 1 + rng.integers(5))
    return draw_value(kind, other, rng, run, steps)


def draw_call(op, rng, height, width, n_colours, run):
    "A value that the operation takes, a second one for those that take one (else the first one again), and arguments, three times; nothing where chance finds no value."
    grid = random_grid(rng, height, width, n_colours)
    value = draw_value(op.takes[rng.integers(len(op.takes))], grid, rng, run)
    if value is None: return
    for _ in range(3):
        other = draw_other(op, value, grid, rng, run) if op.operand else value
        if other is not None: yield value, other, draw_arguments(op, value, rng)
