"""Content keys: whatever does not change a task leaves its key alone, whatever does changes it, and the compiled core agrees with a plain account of what a key is."""
import hashlib

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from arc_jepa.content import content_key, content_keys, key_texts, published_keys, room_for_key, task_key, task_keys
from arc_jepa.datasets import DATASET_NAMES, load_task, load_tasks
from arc_jepa.grid import PackedGrids, Pair, Task, pack
from grids import random_grid


def turned(grid, symmetry): return np.rot90(grid.T if symmetry >= 4 else grid, symmetry % 4)


def changed(task, grid_change, rng):
    "The task with each grid changed, pairs in another order, another name, no test outputs."
    pairs = [Pair(grid_change(p.input), grid_change(p.output)) for p in task.demonstrations]
    tests = [Pair(grid_change(p.input)) for p in task.tests]
    return Task('other', [pairs[i] for i in rng.permutation(len(pairs))], [tests[i] for i in rng.permutation(len(tests))], {'other': 1})


def disguise(task, rng):
    symmetry, colours = rng.integers(8), rng.permutation(10).astype(np.uint8)
    return changed(task, lambda grid: colours[turned(grid, symmetry)], rng)


def random_task(rng, most_side=12, most_pairs=10):
    def grid(): return random_grid(rng, *rng.integers(1, most_side + 1, 2), int(rng.integers(1, 11)))
    return Task('random', [Pair(grid(), grid()) for _ in range(rng.integers(1, most_pairs + 1))], [Pair(grid(), grid()) for _ in range(rng.integers(1, 4))])


def plain_key(task):
    "What a key says, in Python and without a hash of our own: the smallest of eight accounts of the task."
    def account(symmetry):
        pairs = []
        for role, grids in [('d', (p.input, p.output)) for p in task.demonstrations] + [('t', (p.input,)) for p in task.tests]:
            grids = [turned(grid, symmetry) for grid in grids]
            seen = list(dict.fromkeys(np.concatenate([grid.ravel() for grid in grids]).tolist()))
            pairs.append((hashlib.sha256(repr((role, [(g.shape, [seen.index(c) for c in g.ravel().tolist()]) for g in grids])).encode()).hexdigest(), seen))
        described = {colour: sorted((name, seen.index(colour)) for name, seen in pairs if colour in seen) for colour in range(10)}
        return sorted((name, [described[colour] for colour in seen]) for name, seen in pairs)
    return hashlib.sha256(repr(min(account(symmetry) for symmetry in range(8))).encode()).hexdigest()


@settings(max_examples=150)
@given(st.integers(0, 2 ** 32))
def test_a_disguise_keeps_the_key(seed):
    rng = np.random.default_rng(seed)
    task = random_task(rng)
    assert content_key(disguise(task, rng)) == content_key(task)


@pytest.mark.parametrize('symmetry', range(8))
def test_every_symmetry_of_the_largest_tasks(symmetry):
    rng = np.random.default_rng(symmetry)
    task = Task('large', [Pair(random_grid(rng, 40, 40, 10), random_grid(rng, 40, 37, 10)) for _ in range(10)], [Pair(random_grid(rng, 39, 40, 9))] * 2)
    assert content_key(changed(task, lambda grid: turned(grid, symmetry), rng)) == content_key(task)


@settings(max_examples=150)
@given(st.integers(0, 2 ** 32), st.sampled_from(['cell', 'turn', 'colours', 'role', 'size', 'exchange', 'leave out', 'twice']))
def test_a_change_of_one_pair_changes_the_key(seed, kind):
    rng = np.random.default_rng(seed)
    task = random_task(rng)
    pairs, tests = list(task.demonstrations), list(task.tests)
    k = rng.integers(len(pairs))
    source, target = pairs[k].input, pairs[k].output
    if kind == 'cell':
        target = target.copy()
        r, c = rng.integers(target.shape[0]), rng.integers(target.shape[1])
        target[r, c] = (target[r, c] + rng.integers(1, 10)) % 10
        pairs[k] = Pair(source, target)
    if kind == 'turn': pairs[k] = Pair(turned(source, symmetry := rng.integers(1, 8)), turned(target, symmetry))
    if kind == 'colours': pairs[k] = Pair((colours := rng.permutation(10).astype(np.uint8))[source], colours[target])
    if kind == 'role': tests.append(pairs.pop(k))
    if kind == 'size': pairs[k] = Pair(source, target.reshape(1, -1) if target.size <= 40 and target.shape[0] > 1 else target[:1].T)
    if kind == 'exchange': pairs[k] = Pair(target, source)
    if kind == 'leave out': del pairs[k]
    if kind == 'twice': pairs.append(pairs[k])
    other = Task('other', pairs, tests)
    assert (content_key(other) == content_key(task)) == (plain_key(other) == plain_key(task))      # a change may happen to be none: a pair of one colour, turned


def small_tasks():
    "Tasks of 1×1 and 1×2 grids of three colours: many of them are the same, and a key has little to hold on to."
    rng = np.random.default_rng(0)
    def grid(): return rng.integers(0, 3, (1, rng.integers(1, 3)))
    return [Task('s', [Pair(grid(), grid()) for _ in range(rng.integers(1, 5))], [Pair(grid())]) for _ in range(4000)]


@pytest.mark.parametrize('tasks', [pytest.param(small_tasks, id='small'), *[pytest.param(lambda name=name: load_tasks(name), id=name) for name in DATASET_NAMES]])
def test_keys_are_equal_where_the_plain_account_is(tasks):
    tasks = tasks()
    plain, keys = [plain_key(task) for task in tasks], [tuple(key) for key in task_keys(tasks).tolist()]
    assert len(set(plain)) == len(set(keys)) == len(set(zip(plain, keys)))
    assert len({a for a, _ in keys}) == len({b for _, b in keys}) == len(set(keys)), 'each half alone tells them apart'


def test_the_bond_between_pairs_counts():
    def chain(*pairs): return Task('chain', [Pair([[a]], [[b]]) for a, b in pairs], [Pair([[0]])])
    assert content_key(chain((1, 2), (2, 3), (3, 1))) == content_key(chain((7, 5), (8, 7), (5, 8))) != content_key(chain((1, 2), (2, 1), (3, 4)))
    assert content_key(chain((1, 2), (1, 2))) != content_key(chain((1, 2), (3, 4))) != content_key(chain((1, 2), (1, 3)))


def test_many_at_once_are_each_alone():
    rng = np.random.default_rng(3)
    tasks = [random_task(rng) for _ in range(60)]
    assert [content_key(task) for task in tasks] == key_texts(task_keys(tasks))
    grids = pack([grid for task in tasks for pair in task.demonstrations + task.tests for grid in (pair.input, pair.output)])
    numbers = [len(task.demonstrations + task.tests) for task in tasks], [len(task.tests) for task in tasks]
    assert (content_keys(grids, *numbers) == task_keys(tasks)).all()
    zeros = PackedGrids(grids.cells.copy(), grids.offset, grids.height, grids.width)
    is_test_output, at = np.zeros(len(grids), bool), 0
    for n, tests in zip(*numbers): at += 2 * n; is_test_output[at - 2 * tests + 1:at:2] = True
    for i in np.flatnonzero(is_test_output): zeros.cells[zeros.offset[i]:zeros.offset[i] + zeros[i].size] = 77
    assert (content_keys(zeros, *numbers) == task_keys(tasks)).all(), 'test outputs are not looked at'
    assert content_keys(pack([]), [], 1).shape == (0, 2)


def test_numbers_that_do_not_fit_are_refused():
    grids = pack([[[1]]] * 4)
    with pytest.raises(ValueError, match='4 grids for 3 pairs'): content_keys(grids, [3], 1)
    with pytest.raises(ValueError, match='task 1: 2 tests among 1 pairs'): content_keys(grids, [1, 1], [1, 2])


def test_the_core_works_where_the_grids_lie_and_leaves_no_trace():
    task = load_task('arc1/training/0d3d703e')
    grids = pack([[[1, 2]], [[3]], *[grid for pair in task.demonstrations + task.tests for grid in (pair.input, pair.output)]])
    work, key = room_for_key(12), np.zeros(2, np.uint64)
    for _ in range(2):
        task_key(grids.cells, grids.offset, grids.height, grids.width, 2, len(task.demonstrations + task.tests), len(task.tests), work, key)
        assert '{:016x}{:016x}'.format(*key.tolist()) == content_key(task)
        work[:] = np.random.default_rng(0).integers(0, 2 ** 63, work.shape, dtype=np.uint64)


def test_published_tasks():
    assert content_key(load_task('arc1/training/40853293')) == content_key(load_task('arc1/evaluation/070dd51e'))
    keys = published_keys()
    assert keys.shape == (1147, 2) and not keys.flags.writeable and published_keys() is keys
    assert sorted(map(tuple, keys.tolist())) == list(map(tuple, keys.tolist()))
    rng = np.random.default_rng(1)
    there = {key.tobytes() for key in keys}
    for name in DATASET_NAMES: assert {key.tobytes() for key in task_keys([disguise(task, rng) for task in load_tasks(name)[:120]])} <= there
    assert not {key.tobytes() for key in task_keys([random_task(rng) for _ in range(200)])} & there
