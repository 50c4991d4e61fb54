"""What several twins need."""
import numpy as np
from scipy import ndimage

from arc_jepa.dsl.object_kernels import PROPERTIES

TWINS = {}


def twin(function):
    "Register a twin by its name; an underscore at the end keeps it apart from a word of Python."
    TWINS[function.__name__.rstrip('_')] = function
    return function


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
