"""Each operation of the language once more in numpy and plain Python, written from its documentation: a second opinion on the compiled kernels.

A grid is a uint8 H×W array, objects and an object are pairs (cells, labels) and a mask is a pair (cells, marks) of H×W arrays, sizes and positions are pairs of ints, booleans are
bool, colours, numbers and directions are ints. `TWINS[name](value, *arguments)`, with the second value of the operations that take one as the last argument, is the result, or
None where the operation does not apply (or another `Status`). A twin need not care how large its result is: whoever compares it knows what a value can hold.

Where the documentation leaves a case open, a line under the name says how the twin decides it."""
import itertools

import numpy as np
from scipy import ndimage

from arc_jepa.dsl.object_kernels import PROPERTIES
from arc_jepa.dsl.types import MAX_OBJECTS, Status
from arc_jepa.grid import MAX_SIDE

TWINS = {}


def twin(function):
    "Register a twin by its name; an underscore at the end keeps it apart from a word of Python."
    TWINS[function.__name__.rstrip('_')] = function
    return function


# ---------------------------------------------------------------------------------------------------------------------------------------
# What several twins need

STEPS = [(-1, 0), (1, 0), (0, -1), (0, 1), (-1, -1), (-1, 1), (1, -1), (1, 1)]      # up, down, left, right, up_left, up_right, down_left, down_right
SIDES, SIDES_AND_CORNERS = ndimage.generate_binary_structure(2, 1), ndimage.generate_binary_structure(2, 2)
NEIGHBOURS = {4: SIDES, 8: SIDES_AND_CORNERS}


def counts(cells): return np.bincount(np.ravel(cells), minlength=10)


def commonest(cells, skip_black=False):
    "The most frequent colour, the smaller on a tie; None if there is nothing to count."
    numbers = counts(cells)
    if skip_black: numbers[0] = 0
    return int(numbers.argmax()) if numbers.any() else None


def rarest(cells, skip_black=False):
    "The least frequent of the colours that occur, the smaller on a tie; None if there is nothing to count."
    numbers = counts(cells)
    present = [(n, c) for c, n in enumerate(numbers) if n and not (skip_black and c == 0)]
    return min(present)[1] if present else None


def background_of(grid, common): return commonest(grid) if common else 0


def box_of(mask):
    "Slices of the rows and columns of the bounding box."
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def box_mask(mask):
    "All cells of the bounding box."
    result = np.zeros(mask.shape, bool)
    result[box_of(mask)] = True
    return result


def reading_order(labels):
    "Labels numbered anew from 1 by where they first occur."
    seen = [label for label in dict.fromkeys(labels.ravel().tolist()) if label]
    return sum(((labels == label) * (i + 1) for i, label in enumerate(seen)), np.zeros(labels.shape, int))


def components(cells, connectivity, by_colour, background):
    "Labels 1…n of the connected areas that are not `background` (None: all count), of one colour or of any, in reading order."
    kinds = [cells == c for c in range(10) if c != background] if by_colour else [cells != background]
    labels = np.zeros(cells.shape, int)
    for kind in kinds:
        found, _ = ndimage.label(kind, NEIGHBOURS[connectivity])
        labels += np.where(found, found + labels.max(), 0)
    return reading_order(labels)


def enclosed(area):
    "The cells of an area that no path inside it (by sides) joins to the border."
    labels, _ = ndimage.label(area, SIDES)
    rim = np.ones(area.shape, bool)
    rim[1:-1, 1:-1] = False
    return area & ~np.isin(labels, labels[rim & area])


def masks_of(value):
    "Where each object of a value is: a list of boolean H×W arrays."
    return [value[1] == k for k in range(1, value[1].max() + 1)]


def crop_of(cells, mask): return np.where(mask, cells, 0)[box_of(mask)]


def changed(result, grid): return None if np.array_equal(result, grid) else result


def moved(mask, rows, columns):
    "The mask after a move; what leaves the grid is lost."
    r, c = np.nonzero(mask)
    r, c = r + rows, c + columns
    inside, result = (0 <= r) & (r < mask.shape[0]) & (0 <= c) & (c < mask.shape[1]), np.zeros_like(mask)
    result[r[inside], c[inside]] = True
    return result


def walk(grid, r, c, step):
    "Cells from (r, c), which is left out, in steps to the border."
    r, c = r + step[0], c + step[1]
    while 0 <= r < grid.shape[0] and 0 <= c < grid.shape[1]:
        yield r, c
        r, c = r + step[0], c + step[1]


def main_colour(cells, mask):
    "The commonest colour of an object; black only if it has no other."
    return commonest(cells[mask], skip_black=True) or 0


def properties(value, number):
    "The property with this number of each object."
    cells, masks, name = value[0], masks_of(value), PROPERTIES[number]
    pictures = [np.where(mask, cells.astype(int), -1)[box_of(mask)] for mask in masks]         # −1: not of the object
    def of(mask, picture):
        rows, columns = box_of(mask)
        if name == 'area': return mask.sum()
        if name == 'box': return picture.size
        if name == 'height': return picture.shape[0]
        if name == 'width': return picture.shape[1]
        if name == 'top': return rows.start
        if name == 'bottom': return rows.stop - 1
        if name == 'left': return columns.start
        if name == 'right': return columns.stop - 1
        if name == 'colours': return len(np.unique(cells[mask]))
        if name == 'holes': return ndimage.label(enclosed(np.pad(picture < 0, 1, constant_values=True)), SIDES)[1]
        if name == 'density': return 1000 * mask.sum() // picture.size
        if name == 'symmetry': return int(np.array_equal(picture, picture[::-1])) + int(np.array_equal(picture, picture[:, ::-1]))
        if name == 'alike': return sum(np.array_equal(picture, other) for other in pictures)
        if name == 'colour': return main_colour(cells, mask)
        if name == 'border': return int(rows.start == 0 or columns.start == 0 or rows.stop == cells.shape[0] or columns.stop == cells.shape[1])
        if name == 'noise': return mask.sum() - counts(cells[mask]).max()                # black counts here
    return [int(of(mask, picture)) for mask, picture in zip(masks, pictures)]


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
    "Does not apply where there is nothing to cut away."
    mask = grid != background_of(grid, common)
    return changed(grid[box_of(mask)], grid) if mask.any() else None


@twin
def half(grid, direction):
    if direction >= 2: return _transposed(half(grid.T, direction - 2))
    rows = len(grid) // 2
    return None if rows == 0 else grid[:rows] if direction == 0 else grid[-rows:]


def _transposed(grid): return None if grid is None else grid.T


@twin
def peel(grid): return grid[1:-1, 1:-1]


@twin
def crop_to_colour(grid, colour): return grid[box_of(grid == colour)] if (grid == colour).any() else None


@twin
def squeeze(grid):
    rows = [r for r in range(grid.shape[0]) if r == 0 or (grid[r] != grid[r - 1]).any()]
    columns = [c for c in range(grid.shape[1]) if c == 0 or (grid[:, c] != grid[:, c - 1]).any()]
    return changed(grid[np.ix_(rows, columns)], grid)


@twin
def drop_lines(grid):
    rows, columns = (np.flatnonzero([len(set(line.tolist())) > 1 for line in lines]) for lines in (grid, grid.T))
    return changed(grid[np.ix_(rows, columns)], grid)


@twin
def shrink(grid):
    for k in range(min(grid.shape), 1, -1):
        if grid.shape[0] % k == 0 == grid.shape[1] % k:
            small = grid[::k, ::k]
            if np.array_equal(np.kron(small, np.ones((k, k), np.uint8)), grid): return small


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
def smallest_tile(grid): return periodic_tile(grid)


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
    "One colour is not enough."
    k = TWINS['count_colours'](grid)
    return TWINS['scale'](grid, k) if k > 1 else None


@twin
def pinwheel(grid):
    if grid.shape[0] != grid.shape[1]: return None
    return np.block([[grid, np.rot90(grid, -1)], [np.rot90(grid), np.rot90(grid, 2)]])


# ---------------------------------------------------------------------------------------------------------------------------------------
# Colour

TWINS.update(
    recolour_all=lambda g, colour: np.where(g > 0, colour, 0), replace=lambda g, old, new: np.where(g == old, new, g),
    swap=lambda g, one, two: np.where(g == one, two, np.where(g == two, one, g)), map_colours=lambda g, images: np.array([images >> 4 * c & 15 for c in range(10)])[g],
    fill_background=lambda g, colour: np.where(g == 0, colour, g) if 0 in g else None, commonest_to_black=lambda g: changed(np.where(g == commonest(g), 0, g), g),
    commonest_everywhere=lambda g: np.full(g.shape, commonest(g)))


@twin
def keep_colour(grid, colour): return np.where(grid == colour, colour, 0) if colour in grid else None


@twin
def invert(grid):
    present = np.unique(grid)
    return np.where(grid == present[0], present[1], present[0]) if len(present) == 2 else None


@twin
def keep_commonest(grid): return keep_colour(grid, commonest(grid, skip_black=True)) if grid.any() else None
@twin
def keep_rarest(grid): return keep_colour(grid, rarest(grid, skip_black=True)) if grid.any() else None
@twin
def all_to_commonest(grid): return np.where(grid > 0, commonest(grid, skip_black=True), 0) if grid.any() else None
@twin
def all_to_rarest(grid): return np.where(grid > 0, rarest(grid, skip_black=True), 0) if grid.any() else None


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
def connect(grid, axis, paint):
    "Paint 0: in the colour of the two cells."
    result = grid.copy()
    for r, c in senders(grid, 0):
        for step in [(0, 1)] * (axis != 1) + [(1, 0)] * (axis != 0):
            between = []
            for place in walk(grid, r, c, step):
                if grid[place]: break
                between.append(place)
            else: continue
            if grid[place] == grid[r, c]:
                for cell in between: result[cell] = paint or grid[r, c]
    return result


# ---------------------------------------------------------------------------------------------------------------------------------------
# Repair

@twin
def repair_symmetry(grid, hole):
    """Axes: rows and columns up to a quarter of the side from the middle, the main diagonal, and the other diagonals that reach from side to side. At most half of the grid
    may be missing, and four times through all axes is the most."""
    (height, width), (r, c), result = grid.shape, np.indices(grid.shape), grid
    if not 0 < 2 * (grid == hole).sum() <= grid.size: return None
    images = [(s - r, c) for s in range(height - 1 - height // 4, height + height // 4)] + [(r, s - c) for s in range(width - 1 - width // 4, width + width // 4)]
    images += [(c, r)] + [(s - c, s - r) for s in range(min(grid.shape) - 1, max(grid.shape))]
    for y, x in images * 4:
        paired = (0 <= y) & (y < height) & (0 <= x) & (x < width) & ((y != r) | (x != c))
        there = np.where(paired, result[y % height, x % width], hole)
        intact = (result != hole) & (there != hole)
        if (result == there)[intact].all() and 3 * intact.sum() >= grid.size: result = np.where(result == hole, there, result)
    return changed(result, grid)


@twin
def repair_tiling(grid, hole):
    if hole not in grid: return None
    tile = periodic_tile(grid, hole)
    if tile is None: return None
    return np.array([[tile[r % tile.shape[0], c % tile.shape[1]] for c in range(grid.shape[1])] for r in range(grid.shape[0])])


@twin
def symmetrise(grid, axis): return np.where(grid == 0, grid[::-1] if axis == 0 else grid[:, ::-1], grid)


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
def fill_holes(grid, colour):
    holes = enclosed(grid == 0)
    return np.where(holes, colour, grid) if holes.any() else None


@twin
def outline(grid, colour, connectivity): return np.where((grid == 0) & ndimage.binary_dilation(grid > 0, NEIGHBOURS[connectivity]), colour, grid)


# ---------------------------------------------------------------------------------------------------------------------------------------
# Segmentation

TWINS.update(
    objects4=lambda g, common: (g, components(g, 4, True, background_of(g, common))), objects8=lambda g, common: (g, components(g, 8, True, background_of(g, common))),
    shapes4=lambda g, common: (g, components(g, 4, False, background_of(g, common))), shapes8=lambda g, common: (g, components(g, 8, False, background_of(g, common))),
    regions=lambda g: (g, components(g, 4, True, None)), holes=lambda g, common: (g, reading_order(ndimage.label(g == background_of(g, common), SIDES)[0])),
    colours=lambda g, common: (g, reading_order(np.where(g == background_of(g, common), 0, g.astype(int) + 1))))


@twin
def split(grid, axis, k):
    if axis == 1:
        parts = split(grid.T, 0, k)
        return parts and (grid, reading_order(parts[1].T))
    rows, labels = len(grid), np.zeros(grid.shape, int)
    if k < 1: return None
    if rows % k == 0: length, gap = rows // k, 0
    elif (rows - (k - 1)) % k == 0: length, gap = (rows - (k - 1)) // k, 1
    else: return None
    if length < 1: return None
    for i in range(k): labels[i * (length + gap):i * (length + gap) + length] = i + 1
    return grid, labels


def bands(lines, colour):
    "Number of the band that each line is in, 0 for a line full of the colour."
    separator = np.array([(line == colour).all() for line in lines])
    return ndimage.label(~separator)[0]


def lattice(grid):
    "Row bands and column bands for the separator that makes the most parts (more than a value can hold do not count): coloured rather than black, then the smaller."
    def parts(bands_): return bands_[0].max() * bands_[1].max()
    choices = [(bands(grid, colour), bands(grid.T, colour)) for colour in [*range(1, 10), 0]]
    return max((choice for choice in choices if parts(choice) <= MAX_OBJECTS), key=parts)


@twin
def cells(grid):
    rows, columns = lattice(grid)
    if rows.max() * columns.max() < 2: return None
    return grid, np.where((rows[:, None] > 0) & (columns > 0), (rows[:, None] - 1) * columns.max() + columns, 0)


# ---------------------------------------------------------------------------------------------------------------------------------------
# Selection

def picked(value, number):
    "The object with this number (from 0) alone."
    return value[0], (value[1] == number + 1).astype(int)


def kept(value, flags):
    "The objects with a flag, numbered anew; to keep none or all does not apply."
    if all(flags) or not any(flags): return None
    return value[0], sum(mask * sum(flags[:k + 1]) for k, mask in enumerate(masks_of(value)) if flags[k])


@twin
def pick_max(value, number):
    values = properties(value, number)
    return picked(value, values.index(max(values))) if len(values) > 1 else None


@twin
def pick_min(value, number):
    values = properties(value, number)
    return picked(value, values.index(min(values))) if len(values) > 1 else None


@twin
def pick_odd(value, number):
    "There must be one such object, and at least two others."
    values = properties(value, number)
    odd = [k for k, v in enumerate(values) if values.count(v) == 1]
    return picked(value, odd[0]) if len(odd) == 1 and len(values) > 2 else None


@twin
def pick_nth(value, k): return picked(value, k - 1) if 1 <= k <= value[1].max() else None
@twin
def pick_only(value): return value if value[1].max() == 1 else None


def by_property(value, number, wanted):
    values = properties(value, number)
    return kept(value, [wanted(v, values) for v in values])


def by_mask(value, wanted): return kept(value, [wanted(mask) for mask in masks_of(value)])


def at_border(mask): return mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any()


HOLES, SYMMETRY = PROPERTIES.index('holes'), PROPERTIES.index('symmetry')
TWINS.update(
    keep_max=lambda v, number: by_property(v, number, lambda p, all_: p == max(all_)), keep_min=lambda v, number: by_property(v, number, lambda p, all_: p == min(all_)),
    drop_max=lambda v, number: by_property(v, number, lambda p, all_: p < max(all_)), drop_min=lambda v, number: by_property(v, number, lambda p, all_: p > min(all_)),
    with_colour=lambda v, colour: by_mask(v, lambda mask: colour in v[0][mask]), without_colour=lambda v, colour: by_mask(v, lambda mask: colour not in v[0][mask]),
    on_border=lambda v: by_mask(v, at_border), inside=lambda v: by_mask(v, lambda mask: not at_border(mask)),
    squares=lambda v: by_mask(v, lambda mask: len(set(mask[box_of(mask)].shape)) == 1), solid=lambda v: by_mask(v, lambda mask: mask[box_of(mask)].all()),
    with_holes=lambda v: by_property(v, HOLES, lambda p, all_: p > 0), symmetric=lambda v: by_property(v, SYMMETRY, lambda p, all_: p > 0))


# ---------------------------------------------------------------------------------------------------------------------------------------
# Acting

TWINS.update(
    crop=lambda v: crop_of(v[0], v[1] > 0), crop_box=lambda v: v[0][box_of(v[1] > 0)], crop_inside=lambda v: TWINS['crop_box'](v)[1:-1, 1:-1],
    isolate=lambda v: np.where(v[1] > 0, v[0], 0), erase=lambda v: np.where(v[1] > 0, 0, v[0]), recolour=lambda v, colour: np.where(v[1] > 0, colour, v[0]),
    recolour_others=lambda v, colour: np.where((v[1] == 0) & (v[0] > 0), colour, v[0]), stencil=lambda v, colour: np.where(v[1] > 0, colour, 0))


def painted(value, colour_of):
    "The canvas with each object in its colour."
    result = value[0].copy()
    for k, mask in enumerate(masks_of(value)): result[mask] = colour_of(k, mask)
    return result


@twin
def fill_box(value, colour):
    "Black cells of the object itself stay."
    result = value[0].copy()
    for mask in masks_of(value): result[box_mask(mask) & ~mask & (value[0] == 0)] = colour
    return result


@twin
def fill_box_own(value):
    "All cells of the box; later objects over earlier ones."
    result = value[0].copy()
    for mask in masks_of(value): result[box_mask(mask)] = main_colour(value[0], mask)
    return result


@twin
def frame_box(value, colour):
    "Only black cells are painted."
    result = value[0].copy()
    for mask in masks_of(value):
        box = box_mask(mask)
        result[ndimage.binary_dilation(box, SIDES_AND_CORNERS) & ~box & (value[0] == 0)] = colour
    return result


@twin
def recolour_by_rank(value, number, ascending):
    "Equal values have one rank; for up to nine objects."
    values = properties(value, number)
    ranks = sorted(set(values), reverse=not ascending)
    return painted(value, lambda k, mask: ranks.index(values[k]) + 1) if len(values) <= 9 else None


@twin
def recolour_like_extreme(value, number, ascending):
    values = properties(value, number)
    extreme = masks_of(value)[values.index(min(values) if ascending else max(values))]
    return painted(value, lambda k, mask: main_colour(value[0], extreme)) if len(values) > 1 else None


@twin
def majority_each(value): return painted(value, lambda k, mask: main_colour(value[0], mask))
@twin
def rarest_each(value): return painted(value, lambda k, mask: rarest(value[0][mask], skip_black=True) or 0)


def redrawn(value, pictures):
    "The canvas without its objects, then each object (mask, cells) drawn, later ones on top."
    result = np.where(value[1] > 0, 0, value[0])
    for mask, cells in pictures: result[mask] = cells[mask]
    return result


@twin
def flip_each(value, flip):
    def flipped(array, mask):
        result = np.zeros_like(array)
        part = np.where(mask, array, 0)[box_of(mask)]
        result[box_of(mask)] = [part[::-1], part[:, ::-1], part[::-1, ::-1]][flip]
        return result
    return redrawn(value, [(flipped(mask, mask), flipped(value[0], mask)) for mask in masks_of(value)])


def shifted(value, mask, rows, columns):
    "An object (mask, cells) after a move."
    return moved(mask, rows, columns), np.roll(value[0], (rows, columns), (0, 1))


@twin
def move(value, direction, k):
    rows, columns = STEPS[direction]
    return redrawn(value, [shifted(value, mask, k * rows, k * columns) for mask in masks_of(value)])


@twin
def fall(value, direction):
    "One after the other, nearest to the wall first. Coloured cells that belong to no object, and objects that have come down, are in the way; those that have yet to fall are not."
    (rows, columns), (cells, labels), masks = STEPS[direction], value, masks_of(value)
    if len(masks) > 64: return Status.too_many_objects
    def distance(mask):
        down, right = box_of(mask)
        return [down.start, -down.stop, right.start, -right.stop][direction]
    result = np.where(labels > 0, 0, cells)
    for mask in sorted(masks, key=distance):
        way = 0
        while True:
            beyond = moved(mask, (way + 1) * rows, (way + 1) * columns)
            if beyond.sum() < mask.sum() or result[beyond].any(): break
            way += 1
        result[moved(mask, way * rows, way * columns)] = cells[mask]          # both in reading order
    return result


@twin
def extend_each(value, direction):
    "Each cell of an object sends its colour, be it black, up to the next coloured cell, in reading order."
    cells, result = value[0], value[0].copy()
    for r, c in np.argwhere(value[1] > 0):
        for place in walk(cells, r, c, STEPS[direction]):
            if cells[place]: break
            result[place] = cells[r, c]
    return result


# ---------------------------------------------------------------------------------------------------------------------------------------
# Joining

def equal_parts(value):
    "What is in the boxes of the objects, if there are several and all are of one size, else None."
    boxes = [value[0][box_of(mask)] for mask in masks_of(value)]
    return np.array(boxes) if len(boxes) > 1 and len({box.shape for box in boxes}) == 1 else None


@twin
def logic(value, which, colour):
    parts = equal_parts(value)
    if parts is None: return None
    filled = parts > 0
    first, others, number = filled[0], filled[1:], filled.sum(0)
    wanted = [filled.all(0), filled.any(0), number % 2 == 1, number == 0, first & ~others.any(0), ~first & others.any(0)][which]
    return np.where(wanted, colour, 0)


@twin
def overlay(value, last_on_top):
    parts = equal_parts(value)
    if parts is None: return None
    result = np.zeros_like(parts[0])
    for part in parts if last_on_top else parts[::-1]: result = np.where(part > 0, part, result)
    return result


def in_order(value, number, ascending):
    "The masks of the objects, sorted by a property; equals stay in reading order."
    values = properties(value, number)
    return [mask for _, mask in sorted(zip(values, masks_of(value)), key=lambda pair: pair[0] if ascending else -pair[0])]


@twin
def join_right(value, number, ascending):
    if value[1].max() > MAX_SIDE: return Status.too_many_objects
    crops = [crop_of(value[0], mask) for mask in in_order(value, number, ascending)]
    height = max(len(crop) for crop in crops)
    return np.hstack([np.pad(crop, ((0, height - len(crop)), (0, 0))) for crop in crops])


@twin
def join_down(value, number, ascending):
    if value[1].max() > MAX_SIDE: return Status.too_many_objects
    crops = [crop_of(value[0], mask) for mask in in_order(value, number, ascending)]
    width = max(crop.shape[1] for crop in crops)
    return np.vstack([np.pad(crop, ((0, 0), (0, width - crop.shape[1]))) for crop in crops])


@twin
def list_colours(value, number, column):
    "The largest value first; for up to thirty objects."
    if value[1].max() > 30: return Status.too_many_objects
    colours = np.array([[main_colour(value[0], mask) for mask in in_order(value, number, ascending=False)]])
    return colours.T if column else colours


@twin
def one_cell_each(value, black_counts):
    "A lattice: the upper left corners of the boxes are all the crossings of some rows and some columns."
    corners = [tuple(side.start for side in box_of(mask)) for mask in masks_of(value)]
    tops, lefts = (sorted(set(places)) for places in zip(*corners))
    if len(corners) < 2 or sorted(corners) != list(itertools.product(tops, lefts)): return None
    colours = {corner: commonest(value[0][mask]) if black_counts else main_colour(value[0], mask) for corner, mask in zip(corners, masks_of(value))}
    return np.array([[colours[top, left] for left in lefts] for top in tops])


# ---------------------------------------------------------------------------------------------------------------------------------------
# Numbers and colours

TWINS.update(
    count=lambda v: int(v[1].max()), count_colours=lambda g: len(set(g[g > 0].tolist())), colour_of=lambda v: main_colour(v[0], v[1] > 0),
    commonest_colour=lambda g, skip_black: commonest(g, skip_black), rarest_colour=lambda g, skip_black: rarest(g, skip_black),
    canvas=lambda colour, k: np.full((k, k), colour), diagonal=lambda n, colour: np.diag(np.full(n, colour)))


@twin
def bar(n, colour, k): return None if k and n > k else np.array([[colour] * n + [0] * (k - n)])


# ---------------------------------------------------------------------------------------------------------------------------------------
# Two grids

TWINS.update(
    beside=lambda g, other: np.hstack([g, other]) if g.shape[0] == other.shape[0] else None, above=lambda g, other: np.vstack([g, other]) if g.shape[1] == other.shape[1] else None,
    under=lambda g, other: np.where(other > 0, other, g) if g.shape == other.shape else None, where_equal=lambda g, other: np.where(g == other, g, 0) if g.shape == other.shape else None)
