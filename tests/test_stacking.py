"""Stacks are programs like any other: they run again by the executor, and what fits by accident is told from what predicts; no task, however odd, breaks the solver or its limits."""
import numpy as np
import pytest

from arc_jepa.datasets import load_tasks
from arc_jepa.dsl.program import parse, reproduces, run_program
from arc_jepa.dsl.types import GRID
from arc_jepa.grid import Pair, Task
from arc_jepa.solve.search import Search
from arc_jepa.solve.solver import solve, warm_up
from arc_jepa.solve.stacking import COPY, stacks, tables

TASKS = load_tasks('arc1/training')


def searched(task, programs=60_000):
    search = Search(task.hide_test_outputs())
    search.run(programs)
    return search


@pytest.fixture(scope='module')
def found():
    "Stacks of every fifth training task."
    return [(task, stacks(searched(task, 20_000))) for task in TASKS[::5]]


def test_a_stack_does_by_the_executor_what_the_bit_sets_say(found):
    "Its text is a program, it fits where it says so, has as many cells wrong as it says where it does not, and answers what it says."
    fits = [(task, s) for task, some in found for s in some if not s.wrong]
    assert len(fits) > 20 and sum(bool(s.wrong) for _, some in found for s in some) > 20
    for task, some in found:
        for s in some:
            assert parse(str(s.program)) == s.program
            wrong = sum(int((run_program(s.program, p.input) != p.output).sum()) for p in task.demonstrations)
            assert wrong == s.wrong and reproduces(s.program, Task(task.id, task.demonstrations, (), {})) == (not s.wrong), (task.id, str(s.program))
            for answer, test in zip(s.answers, task.tests): assert np.array_equal(answer, run_program(s.program, test.input))


def test_test_outputs_are_not_looked_at():
    task = next(t for t in TASKS if t.id == '83302e8f')
    rng = np.random.default_rng(0)
    noise = Task(task.id, task.demonstrations, tuple(Pair(p.input, rng.integers(0, 10, p.output.shape)) for p in task.tests), {})
    ours, theirs = (solve(t, max_nodes=20_000) for t in (task, noise))
    assert ours.engine == 'stacking' and ours.program == theirs.program and ours.solves(task) and not theirs.solves(noise)


def test_outputs_without_a_rule_are_never_stood_by():
    "Each demonstration is right, and no rule leads from its input to its output."
    rng = np.random.default_rng(1)
    for n in range(12):
        pairs = [Pair(*(rng.integers(0, 3, (4, 4)) for _ in range(2))) for _ in range(4)]
        assert solve(Task(f'noise-{n}', tuple(pairs[:3]), (Pair(pairs[3].input),), {}), budget=None, max_nodes=20_000).guess


def test_a_left_out_demonstration_counts():
    "Each demonstration of 3bdb4ada has colours of its own, so neither says what the layers of the other are; those of 32597951 show the same three times."
    fits = {name: [s for s in stacks(searched(next(t for t in TASKS if t.id == name), programs)) if not s.wrong] for name, programs in (('3bdb4ada', 150_000), ('32597951', 60_000))}
    assert {s.missed for s in fits['3bdb4ada']} == {2} and {s.missed for s in fits['32597951']} == {0}


ODD = {
    'one cell': Task('', (Pair([[1]], [[2]]),), (Pair([[3]]),), {}),
    'all black': Task('', (Pair(np.zeros((3, 3), int), np.zeros((2, 2), int)),), (Pair(np.zeros((5, 5), int)),), {}),
    'one pair': Task('', (Pair([[1, 0], [0, 1]], [[1, 2], [2, 1]]),), (Pair([[0, 1], [1, 0]]),), {}),
    'noise': Task('', tuple(Pair(*np.random.default_rng(s).integers(0, 10, (2, 30, 30))) for s in range(4)), (Pair(np.random.default_rng(9).integers(0, 10, (30, 30))),), {}),
    'many objects': Task('', tuple(Pair(x, np.where(x, 5, 0)[:, ::-1]) for x in (np.random.default_rng(s).integers(0, 10, (30, 30)) * (np.indices((30, 30)).sum(0) % 2) for s in range(5))), (Pair(np.eye(30, dtype=int)),), {}),
    'ten tests': Task('', (Pair([[1, 2]], [[2, 1]]), Pair([[3, 4]], [[4, 3]])), tuple(Pair([[k % 10, 1]]) for k in range(10)), {}),
    'sizes that grow': Task('', tuple(Pair(np.full((n, n), 1), np.full((2 * n, n + 1), 2)) for n in (1, 5, 15)), (Pair(np.full((29, 29), 1)),), {}),
}


@pytest.mark.parametrize('name', ODD)
def test_odd_tasks_break_neither_the_solver_nor_its_limit(name):
    warm_up()
    solution = solve(ODD[name], budget=0.5)
    assert solution.seconds <= 0.55 and (not solution.attempts or len(solution.attempts) == len(ODD[name].tests)), solution.seconds
    assert all(1 <= len(tried) <= 2 for tried in solution.attempts)


def test_sets_of_cells_are_those_of_the_grids_and_no_piece_is_wrong():
    "Unpacked, what is wanted is the outputs; and whatever may be painted has the colour of the output on all of its cells."
    painted = 0
    for task in load_tasks('arc1/training')[::40]:
        for table in tables(searched(task, 6_000)):
            sets = table.counting()
            for colour in range(10):
                for cells, pair in zip(table.unpack(sets.wanted[colour]), task.demonstrations, strict=True): assert np.array_equal(cells, pair.output == colour)
            ground = int(table.grounds(sets)[0])
            pieces, bits, cells = table.pieces(table.open_cells(ground, sets), sets)
            for (kind, _, second, colour), here in zip(pieces.tolist(), cells): assert not (here & ~(sets.right[second] if kind == COPY else sets.wanted[colour])).any()
            painted += len(pieces)
    assert painted > 1_000


def test_literals_and_grids_are_those_of_the_cheapest_states():
    "However late the search came by them: it goes on from what is nearly the output first."
    search = searched(next(t for t in TASKS if t.id == '1b60fb0c'), 20_000)
    bits = search.state_bits()
    assert (np.diff(bits) < 0).any(), 'states are not made in the order of their cost'
    for table in tables(search):
        assert (np.diff(table.grid_bits) >= 0).all() and (np.diff(table.bits) >= 0).all()
        places = {}
        for state in np.flatnonzero(search.kinds == GRID).tolist():
            grids = search.values(state)
            if [list(g.shape) for g in grids] != table.sides: continue
            for colour in range(10): places.setdefault(tuple((g == colour).tobytes() for g in grids), []).append(bits[state])
        seen = 0
        for state, colour in zip(table.state_of.tolist(), table.colour_of.tolist()):
            if search.kinds[state] != GRID or colour > 9: continue
            assert bits[state] == min(places[tuple((g == colour).tobytes() for g in search.values(state))])
            seen += 1
        assert seen
