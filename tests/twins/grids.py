"""Operations from grids to grids."""
import itertools

import numpy as np
from scipy import ndimage

from .shared import NEIGHBOURS, SIDES, STEPS, TWINS, background_of, box_of, commonest, counts, enclosed, rarest, twin, walk


# ---------------------------------------------------------------------------------------------------------------------------------------
# Geometry

TWINS.update(
    flip_left_right=lambda g: g[:, ::-1], flip_up_down=lambda g: g[::-1], rotate_180=lambda g: np.rot90(g, 2), rotate_90=lambda g: np.rot90(g, -1), rotate_270=lambda g: np.rot90(g),
    transpose=lambda g: g.T, anti_transpose=lambda g: np.rot90(g, 2).T)


@twin
def shift(grid, direction, wrap):
    rows, columns = STEPS[direction]
    if wrap: return np.roll(grid, (rows, columns), (0, 1))
    return np.pad(grid, 1)[1 - rows:, 1 - columns:][:grid.shape[0], :grid.shape[1]]


@twin
def gravity(grid, direction):
    def settle(line):
        coloured, room = [c for c in line if c], [0] * sum(line == 0)
        return room + coloured if direction in (1, 3) else coloured + room
    return np.apply_along_axis(settle, 0 if direction < 2 else 1, grid)


@twin
def sort_lines(grid, lines):
    "The sort is stable."
    if lines >= 2: return sort_lines(grid.T, lines - 2).T
    return np.array(sorted(grid, key=lambda row: (row > 0).sum() * (1 if lines else -1)))


# ---------------------------------------------------------------------------------------------------------------------------------------
# Cutting

@twin
def trim(grid, common):
    "Does not apply where nothing would be left."
    mask = grid != background_of(grid, common)
    return grid[box_of(mask)] if mask.any() else None


@twin
def half(grid, direction):
    if direction >= 2: return _transposed(half(grid.T, direction - 2))
    rows = len(grid) // 2
    return None if rows == 0 else grid[:rows] if direction == 0 else grid[-rows:]


def _transposed(grid): return None if grid is None else grid.T


@twin
def quarter(grid, corner):
    down, right = grid.shape[0] // 2, grid.shape[1] // 2
    if not down or not right: return None
    return grid[:down, :][:, :right] if corner == 0 else grid[:down, -right:] if corner == 1 else grid[-down:, :right] if corner == 2 else grid[-down:, -right:]


@twin
def peel(grid): return grid[1:-1, 1:-1]


@twin
def crop_to_colour(grid, colour): return grid[box_of(grid == colour)] if (grid == colour).any() else None


@twin
def squeeze(grid):
    rows = [r for r in range(grid.shape[0]) if r == 0 or (grid[r] != grid[r - 1]).any()]
    columns = [c for c in range(grid.shape[1]) if c == 0 or (grid[:, c] != grid[:, c - 1]).any()]
    return grid[np.ix_(rows, columns)]


@twin
def drop_repeats(grid):
    rows, columns = ([k for k, line in enumerate(lines) if line.tolist() not in lines[:k].tolist()] for lines in (grid, grid.T))
    return grid[np.ix_(rows, columns)]


@twin
def drop_lines(grid):
    "Both are judged on the whole grid; does not apply where nothing would be left."
    rows, columns = (np.flatnonzero([len(set(line.tolist())) > 1 for line in lines]) for lines in (grid, grid.T))
    return grid[np.ix_(rows, columns)]


@twin
def shrink(grid):
    for k in range(min(grid.shape), 1, -1):
        if grid.shape[0] % k == 0 == grid.shape[1] % k:
            small = grid[::k, ::k]
            if np.array_equal(np.kron(small, np.ones((k, k), np.uint8)), grid): return small
    return grid


def periodic_tile(grid, hole=None):
    "The smallest tile (with fewer rows on a tie) that contradicts no cell but those of the colour `hole`, has all its cells seen, and fits twice by its area; it may be cut off at the end."
    height, width = grid.shape
    for rows, columns in sorted(itertools.product(range(1, height + 1), range(1, width + 1)), key=lambda size: size[0] * size[1]):
        if 2 * rows * columns > height * width: return None
        tile = np.full((rows, columns), 255)
        for (r, c), colour in np.ndenumerate(grid):
            seen = tile[r % rows, c % columns]
            if colour == hole: continue
            if seen not in (255, colour): break
            tile[r % rows, c % columns] = colour
        else:
            if not (tile == 255).any(): return tile


@twin
def smallest_tile(grid):
    tile = periodic_tile(grid)
    return grid if tile is None else tile


# ---------------------------------------------------------------------------------------------------------------------------------------
# Growing

TWINS.update(
    scale=lambda g, k: np.kron(g, np.ones((k, k), np.uint8)), stretch_down=lambda g, k: np.repeat(g, k, 0), stretch_right=lambda g, k: np.repeat(g, k, 1),
    tile=lambda g, down, right: np.tile(g, (down, right)),
    mirror=lambda g, direction: np.concatenate([[g[::-1], g], [g, g[::-1]], [g[:, ::-1], g], [g, g[:, ::-1]]][direction], direction // 2),
    kaleidoscope=lambda g: np.block([[g, g[:, ::-1]], [g[::-1], g[::-1, ::-1]]]), kaleidoscope_inward=lambda g: np.block([[g[::-1, ::-1], g[::-1]], [g[:, ::-1], g]]),
    mirror_tile_3=lambda g: np.block([[g[::-1, ::-1], g[::-1], g[::-1, ::-1]], [g[:, ::-1], g, g[:, ::-1]], [g[::-1, ::-1], g[::-1], g[::-1, ::-1]]]),
    frame=lambda g, colour: np.pad(g, 1, constant_values=colour),
    fractal=lambda g: np.kron(g > 0, g), fractal_inverse=lambda g: np.kron(g == 0, g), fractal_commonest=lambda g: np.kron(g == commonest(g), g))


@twin
def scale_by_colours(grid):
    "A grid that is all black would vanish."
    return TWINS['scale'](grid, TWINS['count_colours'](grid))


@twin
def pinwheel(grid):
    if grid.shape[0] != grid.shape[1]: return None
    return np.block([[grid, np.rot90(grid, -1)], [np.rot90(grid), np.rot90(grid, 2)]])


# ---------------------------------------------------------------------------------------------------------------------------------------
# Colour

TWINS.update(
    recolour_all=lambda g, colour: np.where(g > 0, colour, 0), replace=lambda g, old, new: np.where(g == old, new, g),
    swap=lambda g, one, two: np.where(g == one, two, np.where(g == two, one, g)), map_colours=lambda g, images: np.array([images >> 4 * c & 15 for c in range(10)])[g],
    fill_background=lambda g, colour: np.where(g == 0, colour, g), commonest_to_black=lambda g: np.where(g == commonest(g), 0, g),
    commonest_everywhere=lambda g: np.full(g.shape, commonest(g)))


@twin
def keep_colour(grid, colour): return grid * (grid == colour)


@twin
def invert(grid):
    present = np.unique(grid)
    return np.where(grid == present[0], present[1], present[0]) if len(present) == 2 else None


@twin
def majority_lines(grid, axis):
    if axis: return majority_lines(grid.T, 0).T
    return np.array([[commonest(row)] * len(row) for row in grid])


@twin
def keep_commonest(grid): return keep_colour(grid, commonest(grid, skip_black=True)) if grid.any() else grid
@twin
def keep_rarest(grid): return keep_colour(grid, rarest(grid, skip_black=True)) if grid.any() else grid
@twin
def all_to_commonest(grid): return np.where(grid > 0, commonest(grid, skip_black=True), 0) if grid.any() else grid
@twin
def all_to_rarest(grid): return np.where(grid > 0, rarest(grid, skip_black=True), 0) if grid.any() else grid


# ---------------------------------------------------------------------------------------------------------------------------------------
# Lines

def senders(grid, colour):
    "Coloured cells (of one colour, 0: of any) in reading order."
    return [(r, c) for (r, c), found in np.ndenumerate(grid) if found and colour in (0, found)]


def rays(grid, colour, directions, blocked=False):
    "Black cells on the way from each coloured cell take its colour; on a crossing the last cell in reading order wins."
    result = grid.copy()
    for r, c in senders(grid, colour):
        for direction in directions:
            for place in walk(grid, r, c, STEPS[direction]):
                if grid[place] and blocked: break
                if not grid[place]: result[place] = grid[r, c]
    return result


TWINS.update(
    rays_horizontal=lambda g, colour: rays(g, colour, [2, 3]), rays_vertical=lambda g, colour: rays(g, colour, [0, 1]), rays_straight=lambda g, colour: rays(g, colour, [0, 1, 2, 3]),
    rays_diagonal=lambda g, colour: rays(g, colour, [4, 5, 6, 7]), rays_blocked=lambda g, colour: rays(g, colour, [0, 1, 2, 3], blocked=True),
    ray=lambda g, direction: rays(g, 0, [direction], blocked=True))


@twin
def connect(grid, axes, paint):
    "Paint 0: in the colour of the two cells. On a crossing the line whose upper (then left) end comes last in reading order wins."
    result = grid.copy()
    steps = [[STEPS[3]], [STEPS[1]], [STEPS[3], STEPS[1]], [STEPS[7], STEPS[6]]][axes]
    for r, c in senders(grid, 0):
        for step in steps:
            between = []
            for place in walk(grid, r, c, step):
                if grid[place]: break
                between.append(place)
            else: continue
            if grid[place] == grid[r, c]:
                for cell in between: result[cell] = paint or grid[r, c]
    return result


@twin
def bridge(grid, axes, paint):
    def between(lines):
        seen = lines > 0
        return np.logical_or.accumulate(seen, 1) & np.logical_or.accumulate(seen[:, ::-1], 1)[:, ::-1]
    wanted = (between(grid) & (axes != 1)) | (between(grid.T).T & (axes != 0))
    return np.where(wanted & (grid == 0), paint, grid)


@twin
def flood(grid, colour):
    "Black spreads over black: nothing is to be seen of it."
    reached = ndimage.binary_propagation(grid == colour, SIDES, mask=(grid == 0) | (grid == colour))
    return np.where(reached, colour, grid)


@twin
def hollow(grid):
    inner = np.zeros(grid.shape, bool)
    inner[1:-1, 1:-1] = grid[1:-1, 1:-1] > 0
    for rows, columns in STEPS[:4]: inner &= np.roll(grid, (rows, columns), (0, 1)) == grid
    return np.where(inner, 0, grid)


@twin
def bars(grid):
    numbers = counts(grid)
    colours = sorted((c for c in range(1, 10) if numbers[c]), key=lambda c: -numbers[c])
    if not colours: return None
    result = np.zeros((numbers[colours[0]], len(colours)), int)
    for i, c in enumerate(colours): result[len(result) - numbers[c]:, i] = c
    return result


# ---------------------------------------------------------------------------------------------------------------------------------------
# Repair

@twin
def repair_symmetry(grid, hole):
    """Axes: rows and columns up to an eighth of the side from the middle, the main diagonal, and the other diagonals that reach from side to side. At most half of the grid
    may be missing, and four times through all axes is the most."""
    (height, width), (r, c), result = grid.shape, np.indices(grid.shape), grid
    if 2 * (grid == hole).sum() > grid.size: return grid
    images = [(s - r, c) for s in range(height - 1 - height // 4, height + height // 4)] + [(r, s - c) for s in range(width - 1 - width // 4, width + width // 4)]
    images += [(c, r)] + [(s - c, s - r) for s in range(min(grid.shape) - 1, max(grid.shape))]
    for y, x in images * 4:
        paired = (0 <= y) & (y < height) & (0 <= x) & (x < width) & ((y != r) | (x != c))
        there = np.where(paired, result[y % height, x % width], hole)
        intact = (result != hole) & (there != hole)
        if (result == there)[intact].all() and 3 * intact.sum() >= grid.size: result = np.where(result == hole, there, result)
    return result


@twin
def repair_tiling(grid, hole):
    tile = periodic_tile(grid, hole)
    if hole not in grid or tile is None: return grid
    return np.array([[tile[r % tile.shape[0], c % tile.shape[1]] for c in range(grid.shape[1])] for r in range(grid.shape[0])])


@twin
def symmetrise(grid, axis): return np.where(grid == 0, grid[::-1] if axis == 0 else grid[:, ::-1], grid)


@twin
def complete_diagonal(grid, anti):
    if grid.shape[0] != grid.shape[1]: return None
    return np.where(grid == 0, np.rot90(grid, 2).T if anti else grid.T, grid)


@twin
def complete_rotation(grid):
    if grid.shape[0] != grid.shape[1]: return None
    result, n = grid.copy(), len(grid)
    for r, c in np.argwhere(grid == 0):
        images = [grid[c, n - 1 - r], grid[n - 1 - r, n - 1 - c], grid[n - 1 - c, r]]         # where the cell comes to lie after 90°, 180°, 270° clockwise
        result[r, c] = next((colour for colour in images if colour), 0)
    return result


def neighbourhood(grid, r, c): return grid[max(r - 1, 0):r + 2, max(c - 1, 0):c + 2]


@twin
def remove_noise(grid, common):
    background = background_of(grid, common)
    return np.array([[background if (neighbourhood(grid, r, c) == grid[r, c]).sum() == 1 else grid[r, c] for c in range(grid.shape[1])] for r in range(grid.shape[0])])


@twin
def smooth(grid):
    "On a tie the cell keeps its colour if that is among the first, else takes the smallest."
    def majority(r, c):
        numbers = counts(neighbourhood(grid, r, c))
        return grid[r, c] if numbers[grid[r, c]] == numbers.max() else numbers.argmax()
    return np.array([[majority(r, c) for c in range(grid.shape[1])] for r in range(grid.shape[0])])


@twin
def fill_holes(grid, colour): return np.where(enclosed(grid == 0), colour, grid)


@twin
def outline(grid, colour, connectivity): return np.where((grid == 0) & ndimage.binary_dilation(grid > 0, NEIGHBOURS[connectivity]), colour, grid)


# ---------------------------------------------------------------------------------------------------------------------------------------
# Two grids

TWINS.update(
    beside=lambda g, other: np.hstack([g, other]) if g.shape[0] == other.shape[0] else None, above=lambda g, other: np.vstack([g, other]) if g.shape[1] == other.shape[1] else None,
    under=lambda g, other: np.where(other > 0, other, g) if g.shape == other.shape else None, keep_equal=lambda g, other: np.where(g == other, g, 0) if g.shape == other.shape else None,
    paint_where=lambda g, seen, colour, other: np.where(other == seen, colour, g) if g.shape == other.shape else None, keep_where=lambda g, seen, other: np.where(other == seen, g, 0) if g.shape == other.shape else None)


def by_rank(grid, common):
    "The colours in the order of their ranks."
    cells = grid.ravel().tolist()
    def place(colour): return colour == 0 and not common, cells.count(colour), -cells.index(colour) if colour in cells else -99999 - colour
    return sorted(range(10), key=place, reverse=True)


@twin
def rank_colours(grid, common): return np.argsort(by_rank(grid, common))[grid]


@twin
def unrank_colours(grid, common, other): return np.array(by_rank(other, common))[grid]
