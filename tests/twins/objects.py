"""Operations that find objects, choose among them, act on them and join them."""
import itertools

import numpy as np
from scipy import ndimage

from arc_jepa.dsl.object_kernels import PROPERTIES
from arc_jepa.dsl.types import MAX_OBJECTS, Status
from arc_jepa.grid import MAX_SIDE

from .shared import SIDES, SIDES_AND_CORNERS, STEPS, TWINS, background_of, box_mask, box_of, commonest, components, crop_of, main_colour, masks_of, moved, properties, rarest, reading_order, twin, walk


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


@twin
def split_at_lines(grid, axis):
    lines = grid.T if axis else grid
    best = max((bands(lines, colour) for colour in [*range(1, 10), 0]), key=max)
    if best.max() < 2: return None
    labels = np.repeat(best[:, None], lines.shape[1], 1)
    return grid, labels.T if axis else labels


@twin
def each_line(grid, axis): return grid, np.indices(grid.shape)[axis] + 1


@twin
def blocks(grid, k):
    if not k or grid.shape[0] % k or grid.shape[1] % k: return None
    r, c = np.indices(grid.shape) // k
    return grid, r * (grid.shape[1] // k) + c + 1


# ---------------------------------------------------------------------------------------------------------------------------------------
# Selection

def picked(value, number):
    "The object with this number (from 0) alone."
    return value[0], (value[1] == number + 1).astype(int)


def kept(value, flags):
    "The objects with a flag, numbered anew; to keep none does not apply."
    if not any(flags): return None
    return value[0], sum(mask * sum(flags[:k + 1]) for k, mask in enumerate(masks_of(value)) if flags[k])


@twin
def pick_max(value, number):
    values = properties(value, number)
    return picked(value, values.index(max(values)))


@twin
def pick_min(value, number):
    values = properties(value, number)
    return picked(value, values.index(min(values)))


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
    on_border=lambda v: by_mask(v, at_border), off_border=lambda v: by_mask(v, lambda mask: not at_border(mask)),
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
    "Equal values have one rank; there are nine ranks at most."
    values = properties(value, number)
    ranks = sorted(set(values), reverse=not ascending)
    return painted(value, lambda k, mask: ranks.index(values[k]) + 1) if len(ranks) <= 9 else None


@twin
def recolour_like_extreme(value, number, ascending):
    values = properties(value, number)
    extreme = masks_of(value)[values.index(min(values) if ascending else max(values))]
    return painted(value, lambda k, mask: main_colour(value[0], extreme))


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
    "All at once and step by step: what cannot go on stays. In the way are the border, coloured cells that belong to no object, and objects that stay."
    (rows, columns), (cells, labels), masks = STEPS[direction], value, masks_of(value)
    fixed, pictures = (labels == 0) & (cells > 0), [(mask, cells) for mask in masks]
    while True:
        beyond, stays, before = [moved(mask, rows, columns) for mask, _ in pictures], np.zeros(len(masks), bool), None
        while not np.array_equal(stays, before):
            before, taken = stays, np.logical_or.reduce([fixed] + [mask for (mask, _), stay in zip(pictures, stays) if stay])
            stays = stays | [after.sum() < mask.sum() or (after & ~mask & taken).any() for (mask, _), after in zip(pictures, beyond)]
        if stays.all(): return redrawn(value, pictures)
        pictures = [picture if stay else (after, np.roll(picture[1], (rows, columns), (0, 1))) for picture, after, stay in zip(pictures, beyond, stays)]


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
    "What is in the boxes of the objects, if all are of one size, else None."
    boxes = [value[0][box_of(mask)] for mask in masks_of(value)]
    return np.array(boxes) if len({box.shape for box in boxes}) == 1 else None


@twin
def logic(value, which, colour):
    parts = equal_parts(value)
    if parts is None: return None
    filled = parts > 0
    first, others, number = filled[0], filled[1:], filled.sum(0)
    everywhere, nowhere = filled.all(0), number == 0
    wanted = [everywhere, ~nowhere, number % 2 == 1, nowhere, first & ~others.any(0), ~first & others.any(0), ~everywhere, everywhere | nowhere][which]
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
    crops = [crop_of(value[0], mask) for mask in in_order(value, number, ascending)]
    height = max(len(crop) for crop in crops)
    return np.hstack([np.pad(crop, ((0, height - len(crop)), (0, 0))) for crop in crops])


@twin
def join_down(value, number, ascending):
    crops = [crop_of(value[0], mask) for mask in in_order(value, number, ascending)]
    width = max(crop.shape[1] for crop in crops)
    return np.vstack([np.pad(crop, ((0, 0), (0, width - crop.shape[1]))) for crop in crops])


@twin
def list_colours(value, number, column):
    "The largest value first."
    colours = np.array([[main_colour(value[0], mask) for mask in in_order(value, number, ascending=False)]])
    return colours.T if column else colours


@twin
def one_cell_each(value, black_counts):
    "A lattice: the upper left corners of the boxes are all the crossings of some rows and some columns, and the parts are numbered in reading order of them."
    corners = [tuple(side.start for side in box_of(mask)) for mask in masks_of(value)]
    tops, lefts = (sorted(set(places)) for places in zip(*corners))
    if corners != list(itertools.product(tops, lefts)): return None
    colours = {corner: commonest(value[0][mask]) if black_counts else main_colour(value[0], mask) for corner, mask in zip(corners, masks_of(value))}
    return np.array([[colours[top, left] for left in lefts] for top in tops])
