"""Operations that give or take numbers, colours, sizes, positions, directions and booleans; grids made of them, cut and extended by them."""
import numpy as np

from .shared import STEPS, TWINS, box_of, commonest, counts, main_colour, properties, rarest, twin


# ---------------------------------------------------------------------------------------------------------------------------------------
# Numbers

TWINS.update(
    count=lambda v: int(v[1].max()), count_colours=lambda g: len(set(g[g > 0].tolist())), count_where=lambda g, colour: int((g == colour).sum()), cell_count=lambda v: int((v[1] > 0).sum()),
    count_distinct=lambda v, number: len(set(properties(v, number))), value_of=lambda v, number: properties(v, number)[0],
    height=lambda size: size[0], width=lambda size: size[1], row=lambda position: position[0], column=lambda position: position[1], as_number=lambda colour: colour,
    plus=lambda n, k: n + k, minus=lambda n, k: n - k, times=lambda n, k: n * k, divided_by=lambda n, k: n // k if k and n % k == 0 else None)


# ---------------------------------------------------------------------------------------------------------------------------------------
# Colours

TWINS.update(
    colour_of=lambda v: main_colour(v[0], v[1] > 0), commonest_colour=lambda g, skip_black: commonest(g, skip_black), rarest_colour=lambda g, skip_black: rarest(g, skip_black),
    as_colour=lambda n: n if n < 10 else None)


@twin
def colour_ranked(grid, k):
    numbers = counts(grid)
    ranked = sorted(set(grid[grid > 0].tolist()), key=lambda colour: (-numbers[colour], colour))
    return ranked[k - 1] if 1 <= k <= len(ranked) else None


def inside(grid, position): return position[0] < grid.shape[0] and position[1] < grid.shape[1]


@twin
def colour_at(grid, position): return int(grid[position]) if inside(grid, position) else None


# ---------------------------------------------------------------------------------------------------------------------------------------
# Sizes, positions and directions

def box_size(value): return (value if isinstance(value, np.ndarray) else value[0][box_of(value[1] > 0)]).shape


TWINS.update(
    size_of=box_size, square=lambda n: (n, n) if 1 <= n <= 40 else None, turned=lambda size: size[::-1], scaled=lambda size, k: (k * size[0], k * size[1]) if k else None,
    position_of=lambda v: tuple(side.start for side in box_of(v[1] > 0)), centre_of=lambda v: tuple(side.start + (side.stop - side.start - 1) // 2 for side in box_of(v[1] > 0)),
    go=lambda position, direction, k: tuple(at + k * step for at, step in zip(position, STEPS[direction])))


@twin
def first_where(grid, colour): return next(((r, c) for (r, c), found in np.ndenumerate(grid) if found == colour), None)


def turned_step(row, column): return column, -row       # a quarter clockwise: up (−1, 0) becomes right (0, 1)


TWINS.update(opposite=lambda direction: STEPS.index(tuple(-step for step in STEPS[direction])), turn_right=lambda direction: STEPS.index(turned_step(*STEPS[direction])))


@twin
def side_of(value):
    "The distance to a border is the number of rows or columns between it and the box."
    (rows, columns), (height, width) = box_of(value[1] > 0), value[1].shape
    return int(np.argmin([rows.start, height - rows.stop, columns.start, width - columns.stop]))


@twin
def direction_to(position, other):
    down, right = other[0] - position[0], other[1] - position[1]
    if down == right == 0: return None
    return STEPS.index((np.sign(down) * (abs(down) >= abs(right)), np.sign(right) * (abs(right) >= abs(down))))


# ---------------------------------------------------------------------------------------------------------------------------------------
# Questions

TWINS.update(
    equals=lambda n, k: n == k, more_than=lambda n, k: n > k, less_than=lambda n, k: n < k, is_even=lambda n: n % 2 == 0, is_colour=lambda colour, other: colour == other,
    is_square=lambda g: g.shape[0] == g.shape[1], is_symmetric=lambda g, axis: np.array_equal(g, g[::-1] if axis == 0 else g[:, ::-1]), is_uniform=lambda g: len(np.unique(g)) == 1,
    has_colour=lambda g, colour: colour in g, same_as=np.array_equal, negate=lambda yes: not yes, both=lambda yes, other: yes and other, either=lambda yes, other: yes or other)


# ---------------------------------------------------------------------------------------------------------------------------------------
# Grids of numbers, colours and sizes

TWINS.update(
    canvas=lambda colour, k: np.full((k, k), colour), filled=np.full, diagonal=lambda n, colour: np.diag(np.full(min(n, 99), colour)))        # more is too large anyway


@twin
def bar(n, colour, k): return None if k and n > k else np.array([[colour] * n + [0] * (k - n)])


@twin
def tally(n, colour, k): return np.array([colour] * n + [0] * (k * k - n)).reshape(k, k) if n <= k * k else None


# ---------------------------------------------------------------------------------------------------------------------------------------
# Grids cut and extended

@twin
def crop_at(grid, position, size):
    "Does not apply where the part is not wholly inside."
    (row, column), (height, width) = position, size
    return grid[row:row + height, column:column + width] if row + height <= grid.shape[0] and column + width <= grid.shape[1] else None


@twin
def resize(grid, size):
    result, (height, width) = np.zeros(size, np.uint8), np.minimum(size, grid.shape)
    result[:height, :width] = grid[:height, :width]
    return result


@twin
def repeat_to(grid, size): return np.tile(grid, (40, 40))[:size[0], :size[1]]


@twin
def paint_cell(grid, position, colour):
    if not inside(grid, position): return None
    result = grid.copy()
    result[position] = colour
    return result


def parted(grid, direction, k):
    "The first k rows or columns from one side, and the rest; either may be empty. None if there are not so many."
    if direction >= 2: return [part.T for part in parted(grid.T, direction - 2, k) or []]
    if k > len(grid): return None
    return (grid[:k], grid[k:]) if direction == 0 else (grid[len(grid) - k:], grid[:len(grid) - k])


@twin
def take(grid, direction, k):
    parts = parted(grid, direction, k)
    return parts[0] if parts else None


@twin
def drop(grid, direction, k):
    parts = parted(grid, direction, k)
    return parts[1] if parts else None


@twin
def pad(grid, colour, k): return np.pad(grid, k, constant_values=colour)
