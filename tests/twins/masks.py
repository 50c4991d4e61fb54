"""Operations that make masks, combine and change them, and make objects and grids of them."""
import numpy as np
from scipy import ndimage

from .shared import NEIGHBOURS, SIDES, SIDES_AND_CORNERS, STEPS, TWINS, background_of, box_mask, box_of, components, enclosed, masks_of, twin, walk


def mask_of(value, marks): return (value if isinstance(value, np.ndarray) else value[0]), marks


def marking(marks_of):
    "The twin whose marks this function gives; its canvas is that of the value. None: does not apply."
    def masked(value, *arguments):
        marks = marks_of(value, *arguments)
        return None if marks is None else mask_of(value, marks)
    TWINS[marks_of.__name__] = masked
    return masked


# ---------------------------------------------------------------------------------------------------------------------------------------
# Cells of a grid

@marking
def where(grid, colour): return grid == colour
@marking
def where_not(grid, colour): return grid != colour
@marking
def where_enclosed(grid, common): return enclosed(grid == background_of(grid, common))
@marking
def where_same(grid, other): return grid == other if grid.shape == other.shape else None
@marking
def where_different(grid, other): return grid != other if grid.shape == other.shape else None


@marking
def where_open(grid, common):
    background = grid == background_of(grid, common)
    return background & ~enclosed(background)


def eight_neighbours(marks):
    "How many of the eight neighbours of each cell are marked."
    return ndimage.convolve(marks.astype(int), SIDES_AND_CORNERS.astype(int), mode='constant') - marks


@marking
def where_alone(grid, common):
    alike = sum((grid == colour) * eight_neighbours(grid == colour) for colour in range(10))
    return (grid != background_of(grid, common)) & (alike == 0)


@marking
def where_crowded(grid, k): return (grid == 0) & (eight_neighbours(grid > 0) >= k)


@marking
def where_rim(grid):
    rim = np.ones(grid.shape, bool)
    rim[1:-1, 1:-1] = False
    return rim


def along(axis, of_rows, marks):
    "`of_rows` (H×W → H×W) for the rows (axis 0), for the columns (1), or for both, united."
    return (axis != 1) * of_rows(marks) + (axis != 0) * of_rows(marks.T).T > 0


@marking
def where_lines(grid, axis): return along(axis, lambda g: np.repeat((g == g[:, :1]).all(1, keepdims=True), g.shape[1], 1), grid)


@marking
def where_striped(grid, stripes):
    r, c = np.indices(grid.shape)
    return [r, c, r + c][stripes] % 2 == 0


# ---------------------------------------------------------------------------------------------------------------------------------------
# Cells of objects and their boxes

def over_objects(value, marks_of): return np.any([marks_of(mask) for mask in masks_of(value)], axis=0)


@marking
def cells_of(value): return value[1] > 0
@marking
def boxes_of(value): return over_objects(value, box_mask)


@marking
def centres_of(value):
    "One row where the height is odd, the two in the middle where it is even; columns likewise."
    def centre(mask):
        result = np.zeros(mask.shape, bool)
        result[tuple(slice((side.start + side.stop - 1) // 2, (side.start + side.stop) // 2 + 1) for side in box_of(mask))] = True
        return result
    return over_objects(value, centre)


@marking
def corners_of(value):
    def corners(mask):
        result, (rows, columns) = np.zeros(mask.shape, bool), box_of(mask)
        result[np.ix_([rows.start, rows.stop - 1], [columns.start, columns.stop - 1])] = True
        return result
    return over_objects(value, corners)


@marking
def core_of(value): return over_objects(value, lambda mask: ndimage.binary_erosion(mask, SIDES))
@marking
def rim_of(value): return over_objects(value, lambda mask: mask & ~ndimage.binary_erosion(mask, SIDES))
@marking
def surroundings(value, connectivity): return ndimage.binary_dilation(value[1] > 0, NEIGHBOURS[connectivity]) & (value[1] == 0)


# ---------------------------------------------------------------------------------------------------------------------------------------
# Masks: sets of cells, grown and shrunk, lines through them

@marking
def complement(value): return ~value[1]
@marking
def grow(value, connectivity): return ndimage.binary_dilation(value[1], NEIGHBOURS[connectivity])
@marking
def erode(value, connectivity): return ndimage.binary_erosion(value[1], NEIGHBOURS[connectivity])
@marking
def fill_in(value): return value[1] | enclosed(~value[1])


def combining(marks_of): return lambda value, other: mask_of(value, marks_of(value[1], other[1])) if value[1].shape == other[1].shape else None


TWINS.update(intersect=combining(lambda one, two: one & two), unite=combining(lambda one, two: one | two), subtract=combining(lambda one, two: one & ~two), differ=combining(lambda one, two: one ^ two))


@marking
def through(value, axis): return along(axis, lambda marks: np.repeat(marks.any(1, keepdims=True), marks.shape[1], 1), value[1])


@marking
def span(value, axis):
    "With both axes, the cells between two of a row and those between two of a column: of the mask itself, not of one another."
    return along(axis, lambda marks: np.logical_or.accumulate(marks, 1) & np.logical_or.accumulate(marks[:, ::-1], 1)[:, ::-1], value[1])


@marking
def beams(value, direction):
    marks = value[1].copy()
    for r, c in np.argwhere(value[1]):
        for place in walk(marks, r, c, STEPS[direction]): marks[place] = True
    return marks


# ---------------------------------------------------------------------------------------------------------------------------------------
# To objects and to a grid

TWINS.update(parts4=lambda v: (v[0], components(v[1], 4, False, False)), parts8=lambda v: (v[0], components(v[1], 8, False, False)))


@twin
def take_from(value, grid): return np.where(value[1], grid, value[0]) if value[1].shape == grid.shape else None
