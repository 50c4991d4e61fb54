"""Scenes: every range of sides, every number of colours, nothing outside the target, and what the pairs of a task share."""
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from arc_jepa.compiled import jit
from arc_jepa.dsl.types import GRID, HEADER, VALUE_BYTES, to_python, value_bytes
from arc_jepa.generate.scenes import FAMILIES, FAMILY_WEIGHTS, draw, draw_family, draw_scene, draw_styled_scene, palette_style, seed_state

EDGE, CANARY = 4096, 0xA5
FAMILY = {name: number for number, name in enumerate(FAMILIES)}
OUT_OF_RANGE, PLAIN, FOREIGN, BYTES_AFTER, HEADERS, BEYOND = range(6)


def scene(family, seed, low, high, palette):
    value, state = np.zeros(VALUE_BYTES, np.uint8), np.zeros(1, np.uint64)
    seed_state(state, 21, seed)
    draw_scene(state, family, low, high, np.array(palette, np.int64), len(palette), value)
    return to_python(value)


def palettes(n, seed=0): return np.array([np.random.default_rng((seed, i)).permutation(np.arange(1, 10)) for i in range(n)])


@jit
def _faults(value, low, high, palette, n_palette, faults):
    "Count what is wrong with one scene."
    h, w = np.int64(value[1]), np.int64(value[2])
    if value[0] != GRID or value[3] or value[4] or value[5] or value[6] or value[7]: faults[HEADERS] += 1
    if min(h, w) < low or max(h, w) > high: faults[OUT_OF_RANGE] += 1
    plain = True
    for i in range(h * w):
        known = value[HEADER + i] == 0
        for k in range(n_palette): known |= value[HEADER + i] == palette[k]
        if not known: faults[FOREIGN] += 1
        plain &= value[HEADER + i] == value[HEADER]
    if plain and h * w > 1: faults[PLAIN] += 1
    for i in range(HEADER + h * w, value_bytes(value)):
        if value[i]: faults[BYTES_AFTER] += 1
    for i in range(HEADER + ((high * high + 7) & ~7), VALUE_BYTES):          # behind the largest grid of the range
        if value[i] != CANARY: faults[BEYOND] += 1


@jit
def _sweep(lowest, rounds, palettes, target, faults, reached):
    "All families over all ranges from `lowest` to 40, with 1 to 9 colours; counts faults for each family, and in `reached[family, low]` how often a side was as low and as high as may be."
    state, number = np.zeros(1, np.uint64), 0
    for low in range(lowest, 41):
        for high in range(low, 41):
            for family in range(len(faults)):
                for _ in range(rounds):
                    number += 1
                    seed_state(state, 22, number)
                    n_palette, palette = 1 + draw(state, 9), palettes[draw(state, len(palettes))]
                    target[:] = CANARY
                    draw_scene(state, family, low, high, palette, n_palette, target)
                    _faults(target, low, high, palette, n_palette, faults[family])
                    if high - low == 3: reached[family, low, min(max(np.int64(target[1]) - low, 0), 3)] += 1
    return number


def test_every_family_keeps_to_every_range():
    "Sides inside the range, more than one colour, only colours of the palette and black, zeros behind the last cell, and guard bytes untouched."
    guarded = np.full(EDGE + VALUE_BYTES + EDGE, CANARY, np.uint8)
    faults, reached = np.zeros((len(FAMILIES), 6), np.int64), np.zeros((len(FAMILIES), 41, 4), np.int64)
    drawn = _sweep(1, 8, palettes(60), guarded[EDGE:EDGE + VALUE_BYTES], faults, reached)
    assert drawn == 8 * len(FAMILIES) * 820
    assert not faults.any(), {name: dict(zip(('range', 'plain', 'foreign', 'bytes behind', 'header', 'beyond'), row.tolist())) for name, row in zip(FAMILIES, faults) if row.any()}
    assert (guarded[:EDGE] == CANARY).all() and (guarded[EDGE + VALUE_BYTES:] == CANARY).all()
    assert (reached.sum(1) > 20).all(), 'every family uses the whole range'


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(FAMILIES) - 1), st.integers(1, 40), st.integers(0, 39), st.permutations(range(1, 10)), st.integers(1, 9), st.integers(0, 2**63 - 1))
def test_any_scene(family, low, more, palette, n, seed):
    high = min(low + more, 40)
    grid = scene(family, seed, low, high, palette[:n])
    assert low <= min(grid.shape) and max(grid.shape) <= high
    assert set(np.unique(grid).tolist()) <= {0, *palette[:n]} and (grid.size == 1 or len(np.unique(grid)) > 1)
    assert (grid == scene(family, seed, low, high, palette[:n])).all()


@pytest.mark.parametrize('low, high, sides', [(0, 0, (1, 1)), (-3, 2, (1, 2)), (60, 80, (40, 40)), (9, 4, (9, 9)), (39, 200, (39, 40))])
def test_impossible_ranges_are_cut(low, high, sides):
    for family in range(len(FAMILIES)):
        for seed in range(20): assert sides[0] <= min(scene(family, seed, low, high, [4, 2]).shape) <= max(scene(family, seed, low, high, [4, 2]).shape) <= sides[1]


def test_colours_beyond_the_number_do_not_count():
    for family in range(len(FAMILIES)):
        for seed in range(20):
            values = [np.zeros(VALUE_BYTES, np.uint8) for _ in range(2)]
            for value, rest in zip(values, (7, 250)):
                state = np.full(1, seed, np.uint64)
                draw_scene(state, family, 3, 12, np.array([3, 1] + [rest] * 14), 2, value)
            assert (values[0] == values[1]).all()


def commonest(grid): return int(np.bincount(grid.ravel()).argmax())


def test_scenes_of_a_task_share_their_ground():
    "In families of things on a ground the commonest colour is black or the last colour of the palette, the same for all scenes of a palette."
    coloured = []
    for family in ('objects', 'lines', 'dots', 'copies', 'coloured ground'):
        for palette in palettes(60)[:, :4]:
            grounds = {commonest(scene(FAMILY[family], seed, 14, 17, palette)) for seed in range(6)}
            often = {ground for ground in grounds if ground in (0, palette[3])}
            assert len(often) == 1, (family, palette, grounds)
            coloured.append((family, often.pop() > 0))
    assert all(is_coloured for family, is_coloured in coloured if family == 'coloured ground')
    assert 0.03 < np.mean([is_coloured for family, is_coloured in coloured if family != 'coloured ground']) < 0.2


def full_lines(grid, colour): return [i for i, row in enumerate(grid) if (row == colour).all()]


def test_lattices_have_lines_of_the_first_colour_at_one_distance():
    sizes = []
    for palette in palettes(40)[:, :4]:
        per_task = set()
        for seed in range(6):
            grid = scene(FAMILY['lattice'], seed, 10, 24, palette)
            gaps = set(np.diff(full_lines(grid, palette[0]))) | set(np.diff(full_lines(grid.T, palette[0])))
            if len(full_lines(grid, palette[0])) > 1: per_task |= gaps
            assert full_lines(grid, palette[0]) and full_lines(grid.T, palette[0])
        assert len(per_task) <= 1, 'the cells of all scenes of a task have one size'
        sizes += per_task
    assert len(set(sizes)) >= 4


def test_units_fit_where_they_can():
    "Blocks and lattices cut a unit only where no size of unit fits."
    for side in range(4, 41):
        for palette in palettes(6)[:, :4]:
            grid = scene(FAMILY['blocks'], side, side, side, palette)
            # the factor is one for the task, so it divides both sides; all primes up to 40 but 2, 3 and 5 are cut
            factors = [k for k in range(2, 10) if side % k == 0 and side // k >= 2]
            if factors: assert any((grid == np.kron(grid[::k, ::k], np.ones((k, k), np.uint8))).all() for k in factors)


def test_a_style_of_its_own():
    "`draw_scene` takes the style from the palette; another style gives other scenes, and one style the same choices for the same state."
    palette, state, target = np.array([2, 5, 7, 1]), np.zeros(1, np.uint64), np.zeros(VALUE_BYTES, np.uint8)

    def styled(style, family):
        seed_state(state, 1, 1)
        draw_styled_scene(state, style, family, 8, 12, palette, 4, target)
        return to_python(target).tobytes()

    for family in range(len(FAMILIES)):
        seed_state(state, 1, 1)
        draw_scene(state, family, 8, 12, palette, 4, target)
        assert to_python(target).tobytes() == styled(np.uint64(palette_style(palette, 4)), family)
        assert len({styled(np.uint64(style), family) for style in range(30)}) > 8


def test_families_by_weight():
    assert FAMILY_WEIGHTS.dtype == np.int64 and len(FAMILY_WEIGHTS) == len(FAMILIES) == len(set(FAMILIES)) and FAMILY_WEIGHTS.min() > 0
    state = np.zeros(1, np.uint64)
    drawn = np.bincount([draw_family(state) for _ in range(40_000)], minlength=len(FAMILIES)) / 40_000
    assert np.abs(drawn - FAMILY_WEIGHTS / FAMILY_WEIGHTS.sum()).max() < 0.01


def test_share_of_grounds_that_are_not_black():
    "About as many scenes as ARC-1 training inputs (23 %) have another commonest colour than black; black cells occur in many of these, too."
    state, colours = np.zeros(1, np.uint64), []
    for i, palette in enumerate(palettes(3_000)):
        grid = scene(draw_family(state), i, 4 + i % 10, 9 + i % 10, palette[:2 + i % 5])
        colours.append((commonest(grid) > 0, (grid == 0).any()))
    other, black = np.array(colours).T
    assert 0.17 < other.mean() < 0.29 and 0.3 < black[other].mean() < 0.9


def test_mosaics_are_periodic_where_they_are_whole():
    "Most cells equal the cell one period away, for some period of at most six cells across."
    for palette in palettes(60)[:, :4]:
        grid = scene(FAMILY['mosaic'], 3, 18, 24, palette)
        assert max((grid[:, p:] == grid[:, :-p]).mean() for p in range(1, 7)) > 0.6
        assert len(np.unique(grid[:2])) > 1 or len(np.unique(grid[:, :2])) > 1
