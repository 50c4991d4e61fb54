"Twins of what compares objects, and of what is done with two sets of them."
import numpy as np
from scipy import ndimage

from arc_jepa.dsl.relation_kernels import RELATIONS

from .objects import by_property, in_order, kept, picked, redrawn
from .shared import NEIGHBOURS, SIDES_AND_CORNERS, STEPS, TWINS, box_of, enclosed, main_colour, masks_of, moved, properties, twin


# ---------------------------------------------------------------------------------------------------------------------------------------
# Two objects

def overlap(one, two):
    "Of two slices: the indices that both have."
    return range(max(one.start, two.start), min(one.stop, two.stop))


def between(one, two):
    "Of two slices: the indices that lie between them."
    return range(min(one.stop, two.stop), max(one.start, two.start))


def distance(one, two): return sum(len(between(a, b)) for a, b in zip(box_of(one), box_of(two)))


def lies_in(one, two):
    boxes = box_of(one), box_of(two)
    return boxes[0] != boxes[1] and all(b.start <= a.start and a.stop <= b.stop for a, b in zip(*boxes))


AROUND = SIDES_AND_CORNERS.copy()
AROUND[1, 1] = False                     # a cell that two objects share is not its own neighbour
HOLDS = {'touching': lambda one, two, colours: (ndimage.binary_dilation(one, AROUND) & two).any(), 'inside': lambda one, two, colours: lies_in(one, two), 'around': lambda one, two, colours: lies_in(two, one),
         'aligned': lambda one, two, colours: any(overlap(a, b) for a, b in zip(box_of(one), box_of(two))), 'same_shape': lambda one, two, colours: np.array_equal(one[box_of(one)], two[box_of(two)]),
         'same_colour': lambda one, two, colours: colours[0] == colours[1], 'same_area': lambda one, two, colours: one.sum() == two.sum()}


def stands(relation, value, mask, other, partner):
    "Does the object `mask` of `value` stand in the relation to the object `partner` of `other`? An object and itself are not compared."
    if np.array_equal(mask, partner): return False
    return bool(HOLDS[RELATIONS[relation]](mask, partner, (main_colour(value[0], mask), main_colour(other[0], partner))))


def standing(value, relation, other):
    "A flag for each object of `value`: does it stand in the relation to one of `other`?"
    return [any(stands(relation, value, mask, other, partner) for partner in masks_of(other)) for mask in masks_of(value)]


def same_canvas(value, other): return value[0].shape == other[0].shape


def comparable(value, relation, other):
    "Places can be compared on canvases of one size only, shapes, colours and areas on any."
    return same_canvas(value, other) or RELATIONS[relation] in ('same_shape', 'same_colour', 'same_area')


def nearest(mask, other):
    "The nearest object of `other` but itself, the first on a tie; None if there is none."
    partners = [partner for partner in masks_of(other) if not np.array_equal(mask, partner)]
    return min(partners, key=lambda partner: distance(mask, partner), default=None)


# ---------------------------------------------------------------------------------------------------------------------------------------
# Relations

@twin
def related(value, relation): return kept(value, standing(value, relation, value))
@twin
def unrelated(value, relation): return kept(value, [not flag for flag in standing(value, relation, value)])
@twin
def related_to(value, relation, other): return kept(value, standing(value, relation, other)) if comparable(value, relation, other) else None
@twin
def unrelated_to(value, relation, other): return kept(value, [not flag for flag in standing(value, relation, other)]) if comparable(value, relation, other) else None


@twin
def nearest_to(value, other):
    if not same_canvas(value, other): return None
    ways = {k: distance(mask, nearest(mask, other)) for k, mask in enumerate(masks_of(value)) if nearest(mask, other) is not None}
    return picked(value, min(ways, key=ways.get)) if ways else None


@twin
def without(value, other):
    if not same_canvas(value, other): return None
    return kept(value, [not any(np.array_equal(mask, partner) for partner in masks_of(other)) for mask in masks_of(value)])


@twin
def joined_with(value, other):
    if not same_canvas(value, other): return None
    labels = value[1].astype(int)
    for partner in masks_of(other):
        free = partner & (value[1] == 0)
        if free.any(): labels[free] = labels.max() + 1
    return value[0], labels


@twin
def merge(value, relation):
    masks = masks_of(value)
    group = list(range(len(masks)))
    for i, one in enumerate(masks):
        for j, two in enumerate(masks):
            if stands(relation, value, one, value, two): group = [min(group[i], group[j]) if g in (group[i], group[j]) else g for g in group]
    numbers = sorted(set(group))
    return value[0], sum(mask * (numbers.index(g) + 1) for mask, g in zip(masks, group))


# ---------------------------------------------------------------------------------------------------------------------------------------
# Selection

TWINS.update(
    having=lambda v, number, n: by_property(v, number, lambda p, all_: p == n), having_more=lambda v, number, n: by_property(v, number, lambda p, all_: p > n),
    having_less=lambda v, number, n: by_property(v, number, lambda p, all_: p < n), keep_unusual=lambda v, number: by_property(v, number, lambda p, all_: all_.count(p) == 1),
    sort_objects=lambda v, number, ascending: (v[0], sum(mask * (k + 1) for k, mask in enumerate(in_order(v, number, ascending)))))


@twin
def keep_usual(value, number):
    "Two values that are equally common: neither is usual."
    values = properties(value, number)
    most = max(map(values.count, values))
    usual = {v for v in values if values.count(v) == most}
    return kept(value, [v in usual for v in values]) if len(usual) == 1 else None


@twin
def pick_at(value, position):
    if not all(n < side for n, side in zip(position, value[0].shape)) or not value[1][position]: return None
    return picked(value, int(value[1][position]) - 1)


# ---------------------------------------------------------------------------------------------------------------------------------------
# Painting

def own_or(value, mask, colour): return colour or main_colour(value[0], mask)


@twin
def recolour_by(value, number):
    values = properties(value, number)
    return sum(((value[1] == k + 1) * v for k, v in enumerate(values)), np.where(value[1] > 0, 0, value[0])) if all(1 <= v <= 9 for v in values) else None


@twin
def recolour_like(value, other):
    if not same_canvas(value, other): return None
    result = value[0].copy()
    for mask in masks_of(value):
        partner = nearest(mask, other)
        if partner is not None: result[mask] = main_colour(other[0], partner)
    return result


@twin
def fill_holes_each(value, colour):
    "Later objects over earlier ones."
    result = value[0].copy()
    for mask in masks_of(value):
        shut_in = np.zeros_like(mask)
        shut_in[box_of(mask)] = enclosed(~mask[box_of(mask)])
        result[shut_in] = own_or(value, mask, colour)
    return result


@twin
def surround(value, colour, connectivity):
    result = value[0].copy()
    for mask in masks_of(value): result[ndimage.binary_dilation(mask, NEIGHBOURS[connectivity]) & ~mask & (value[0] == 0)] = own_or(value, mask, colour)
    return result


@twin
def turn_each(value):
    if any(len(set(mask[box_of(mask)].shape)) > 1 for mask in masks_of(value)): return None
    def turned(array, mask):
        result = np.zeros_like(array)
        result[box_of(mask)] = np.rot90(np.where(mask, array, 0)[box_of(mask)], -1)
        return result
    return redrawn(value, [(turned(mask, mask), turned(value[0], mask)) for mask in masks_of(value)])


@twin
def invert_each(value):
    "Objects of one colour, or of three, stay."
    result = value[0].copy()
    for mask in masks_of(value):
        present = np.unique(value[0][mask])
        if len(present) == 2: result[mask] = np.where(value[0] == present[0], present[1], present[0])[mask]
    return result


@twin
def connect_each(value, axes, colour):
    "Judged on the canvas as it was; a pair that comes later in the order of objects paints over."
    cells, masks, result = value[0], masks_of(value), value[0].copy()
    for i, one in enumerate(masks):
        for two in masks[i + 1:]:
            if main_colour(cells, one) != main_colour(cells, two): continue
            (rows, columns), (rows_, columns_) = box_of(one), box_of(two)
            for axis, (down, right) in enumerate([(overlap(rows, rows_), between(columns, columns_)), (between(rows, rows_), overlap(columns, columns_))]):
                if axes in (axis, 2) and down and right and not cells[np.ix_(down, right)].any():
                    result[np.ix_(down, right)] = own_or(value, one, colour)
    return result


# ---------------------------------------------------------------------------------------------------------------------------------------
# Moving

def put(result, mask, cells, rows, columns, where=True):
    "Draw the object (mask, cells) into `result` after a move, where that is allowed; what leaves the grid is lost."
    for r, c in np.argwhere(mask):
        y, x = r + rows, c + columns
        if 0 <= y < result.shape[0] and 0 <= x < result.shape[1] and (where is True or where[y, x]): result[y, x] = cells[r, c]


def way(mask, other):
    "Direction and number of steps of an object that is attracted; 0 steps for one that stays."
    box = box_of(mask)
    in_line = [partner for partner in masks_of(other) if any(overlap(a, b) for a, b in zip(box, box_of(partner)))]
    if not in_line or any(np.array_equal(mask, partner) for partner in masks_of(other)): return 0, 0
    partner = min(in_line, key=lambda p: distance(mask, p))
    (rows, columns), (rows_, columns_) = box, box_of(partner)
    if overlap(rows, rows_) and overlap(columns, columns_): return 0, 0
    if overlap(rows, rows_): direction = 3 if columns_.start > columns.start else 2
    else: direction = 1 if rows_.start > rows.start else 0
    for k in range(40):
        if (moved(mask, *(np.array(STEPS[direction]) * (k + 1))) & partner).any(): return direction, k
    return direction, 40


@twin
def attract(value, other):
    "All that moves is taken off the grid first, then drawn in order."
    if not same_canvas(value, other): return None
    ways = [(mask, *way(mask, other)) for mask in masks_of(value)]
    result = value[0].copy()
    for mask, _, k in ways: result[mask & (k > 0)] = 0
    for mask, direction, k in ways:
        if k: put(result, mask, value[0], k * STEPS[direction][0], k * STEPS[direction][1])
    return result


def to_position(value, position, result):
    mask = value[1] > 0
    rows, columns = box_of(mask)
    put(result, mask, value[0], position[0] - rows.start, position[1] - columns.start)
    return result


@twin
def move_to(value, position): return to_position(value, position, np.where(value[1] > 0, 0, value[0]))
@twin
def copy_to(value, position): return to_position(value, position, value[0].copy())


def middle(mask): return [side.start + (side.stop - side.start - 1) // 2 for side in box_of(mask)]


@twin
def stamp(value, other):
    result, pattern = value[0].copy(), masks_of(other)[0]
    for mask in masks_of(value):
        (r, c), (y, x) = middle(mask), middle(pattern)
        put(result, pattern, other[0], r - y, c - x)
    return result


@twin
def reflect_each(value, direction):
    "What is black is judged on the canvas as it was; later objects over earlier ones."
    result, (rows, columns) = value[0].copy(), STEPS[direction]
    for mask in masks_of(value):
        down, right = box_of(mask)
        image, colours = np.zeros_like(mask), value[0].copy()
        for array, source in ((image, mask), (colours, value[0])): array[box_of(mask)] = source[box_of(mask)][::-1 if rows else 1, ::-1 if columns else 1]
        put(result, image, colours, rows * (down.stop - down.start), columns * (right.stop - right.start), value[0] == 0)
    return result


@twin
def repeat_each(value, direction):
    "Later objects over earlier ones."
    result = value[0].copy()
    for mask in masks_of(value):
        down, right = box_of(mask)
        for k in range(1, 41): put(result, mask, value[0], k * STEPS[direction][0] * (down.stop - down.start), k * STEPS[direction][1] * (right.stop - right.start), value[0] == 0)
    return result
