"""The solver and its engines: what windows, branches, objects and views find runs again by the executor, nothing leaks from test outputs, and every limit holds: programs, CPU time, memory."""
import gc
import itertools
import json
import shutil
import subprocess
import sys
import time
import weakref
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, strategies as st
from hypothesis.extra.numpy import arrays

from arc_jepa.compiled import PACKAGE
from arc_jepa.datasets import load_task
from arc_jepa.dsl.ops import OP_BY_NAME
from arc_jepa.dsl.program import Program, Step, parse, reproduces, run_program
from arc_jepa.grid import Pair, Task
from arc_jepa.solve import objectwise as objectwise_module, solver as solver_module
from arc_jepa.solve.branches import branches, one_step_more, repeats
from arc_jepa.solve.objectwise import SEGMENTATIONS, objectwise, part_task
from arc_jepa.solve.search import Candidate, Search
from arc_jepa.solve.solver import ENGINES, rank_answers, solve, solver_stamp, warm_up
from arc_jepa.solve.stacking import stacks
from arc_jepa.solve.views import VIEWS, apply_view, undo_view
from arc_jepa.solve.windows import literal_bits, windows, worth_saying
from children import ENVIRONMENT

FOUND_BY = {                  # 6,000 programs are enough
    'search': ['007bbfb7', '1cf80156'], 'stacking': ['32597951', '3618c87e'], 'windows': ['5117e062', 'ff805c23', '9ecd008a'], 'objectwise': ['c9f8e694'],
    'ranks': ['3de23699', 'd9fac9be'], 'all_ranks': ['44f52bb0', 'bda2d7a6'], 'transposed': ['25d8a9c8', '9dfd6313']}
MANY_VIEWS_AND_PARTS = '025d127b'        # seen in all four views, and its objects make part tasks


def task_of(name): return load_task(f'arc1/training/{name}').hide_test_outputs()


def searched(task, programs=6_000):
    search = Search(task)
    search.run(programs)
    return search


def said(solution): return solution.to_json() | dict(seconds=0)


def check(candidate, task):
    "Its text is a program, which gives the demonstrations if it says so, and its answers."
    assert parse(str(candidate.program)) == candidate.program
    assert reproduces(candidate.program, task) == (not candidate.wrong), str(candidate.program)
    assert len(candidate.answers) == len(task.tests)
    for answer, test in zip(candidate.answers, task.tests): assert np.array_equal(answer, run_program(candidate.program, test.input)), str(candidate.program)


# ---- what is found

@pytest.mark.parametrize('name', [name for names in FOUND_BY.values() for name in names])
def test_candidates_do_by_the_executor_what_they_say(name):
    task = task_of(name)
    for view in VIEWS.values():
        made = apply_view(view, task)
        if made is None: continue
        search = searched(made)
        inside = [*search.candidates, *windows(search), *stacks(search), *branches(search), *one_step_more(search)[0], *repeats(search)[0], *objectwise(made, programs=6_000, looks=[branches])[0]]
        for candidate in inside: check(candidate, made)
        for candidate in filter(None, (undo_view(view, c, task) for c in inside)): check(candidate, task)


@pytest.mark.parametrize('what, name', [(what, name) for what, names in FOUND_BY.items() for name in names])
def test_what_an_engine_or_a_view_is_for_is_found_by_it(what, name):
    solution = solve(task_of(name), budget=None, max_nodes=6_000, views=['plain', what] if what in VIEWS else list(VIEWS))
    assert not solution.guess and solution.pairs_fitted == len(task_of(name).demonstrations)
    if what in ENGINES: assert solution.engine == what
    else: assert str(solution.program).startswith(VIEWS[what].before)


GRIDS = arrays(np.uint8, st.tuples(st.integers(1, 8), st.integers(1, 8)), elements=st.integers(0, 9))


@given(GRIDS, st.permutations(range(10)), st.sampled_from([name for name in VIEWS if name != 'plain']))
def test_the_way_back_from_a_view_is_exact(grid, colours, name):
    "A rule that turns the grid and exchanges colours in any way, said in the view, gives the output to the cell, whether the input has its colours or not."
    view, output = VIEWS[name], np.array(colours, np.uint8)[grid][::-1, ::-1]
    task = Task('', (Pair(grid, output),), (Pair(grid),))
    others = Pair([[1, 1, 2]], [[0]]), Pair([[2, 2, 1]], [[0]])         # in one pair alone there would be nothing new to see
    made = apply_view(view, Task('', task.demonstrations + others, task.tests)).demonstrations[0]
    turned, images = run_program('rotate_180', made.input), np.arange(10)
    images[turned] = made.output
    assert np.array_equal(images[turned], made.output), 'one colour each'
    exchange = Program((Step(OP_BY_NAME['map_colours'], (sum(int(c) << 4 * k for k, c in enumerate(images)),)),))
    rule = parse('rotate_180') + (exchange if (images != np.arange(10)).any() else Program(()))
    found = undo_view(view, Candidate(rule, 1.0, (), 0), task)
    assert reproduces(found.program, task) and np.array_equal(found.answers[0], output)
    assert np.array_equal(run_program(parse(view.before) + parse(view.after), grid), grid)


# ---- what is worth saying

def test_what_a_grid_costs_is_a_code():
    "One bit says which of two codes it is; with it, all grids of a size are charged no less than a prefix code needs. One colour is cheap at any size, and noise costs log₂ 10 a cell."
    for cells in (1, 2, 3, 4): assert sum(2.0 ** -literal_bits(np.array([grid])) for grid in itertools.product(range(10), repeat=cells)) <= 2
    assert literal_bits(np.full((30, 30), 7)) == literal_bits(np.full((2, 2), 7)) < 7 and literal_bits(np.random.default_rng(0).integers(0, 10, (5, 5))) == 25 * np.log2(10)


def test_a_window_on_one_colour_is_a_guess_unless_it_is_very_cheap():
    "Both outputs of this task are of one colour; programs of 27 bits that give them are wrong on the test."
    task = task_of('445eab21')
    assert worth_saying(19, task) and not worth_saying(27, task)
    assert worth_saying(80, task_of('9ecd008a')), 'cells of many colours'


# ---- the objects of a task

def grids(pairs): return [pair.input.tolist() for pair in pairs]


def test_a_part_task_tests_the_objects_that_only_the_test_inputs_have():
    def row(*cells): return np.array([cells])
    task = Task('', (Pair(row(0, 1, 2, 0, 3), row(0, 2, 1, 0, 3)), Pair(row(4, 0, 0, 5, 6), row(4, 0, 0, 6, 5))), (Pair(row(1, 2, 0, 7, 8)), Pair(row(8, 9, 9, 0, 4))))
    made = part_task(parse('shapes8'), task)
    assert sorted(grids(made.demonstrations)) == [[[1, 2]], [[3]], [[4]], [[5, 6]]] and grids(made.tests) == [[[8, 9, 9]], [[7, 8]]], 'the largest first'
    assert part_task(parse('shapes8'), Task('', task.demonstrations, task.demonstrations)).tests == ()


def test_a_body_that_gives_nothing_for_an_object_of_a_test_input_is_no_body():
    "A single cell has no left half, so what halves its objects has no answer here."
    task = Task('', tuple(Pair(np.array([[0, c, c, 0]]), np.array([[0, c, 5, 0]])) for c in (1, 2, 3)), (Pair(np.array([[4, 0, 0, 0]])),))
    made = part_task(parse('objects8'), task)
    assert [p.input.tolist() for p in made.tests] == [[[4]]]
    search = searched(made)
    assert search.candidates and all(isinstance(run_program(c.program, made.tests[0].input), np.ndarray) for c in search.candidates)


def test_objects_are_searched_until_something_fits():
    "Each object is turned: shapes and rows are a part task each. What the shapes do not need goes to the rows, whose bodies come after those of the shapes."
    def pair(*objects): return Pair(*(np.array([[0, *objects[0][::turn], 0, *objects[1][::turn], 0]]) for turn in (1, -1)))
    task = Task('', (pair((1, 2), (3, 4, 5)), pair((5, 6, 7), (8, 9)), pair((1, 3), (2, 4))), (Pair(pair((2, 6), (7, 7, 8)).input),))
    for programs, used in ((4_000, 4_000), (20_000, 6_000)):
        found, tested = objectwise(task, programs=programs)
        shapes, rows = ([c for c in found if str(c.program).startswith(words)] for words in ('shapes8', 'each_line(rows)'))
        assert tested == used and not shapes[0].missed and shapes[0].tested < 100 and all(c.tested <= 2_000 for c in shapes) and all(c.tested > 2_000 + 2_000 for c in rows)
        assert bool(rows) == (programs == 20_000)


@pytest.mark.parametrize('name', ['aabf363d', '0d3d703e', 'ce22a75a'])
def test_what_objects_miss_counts_demonstrations(name):
    "Left out one by one, in `aabf363d` both of two demonstrations have a colour that only they show, and four of `0d3d703e` are no more than four; all of them have more objects."
    task = task_of(name)
    found, _ = objectwise(task, programs=6_000)
    assert found and all(c.missed <= len(task.demonstrations) for c in found)
    assert min(c.missed for c in found) == {'aabf363d': 2, '0d3d703e': 2, 'ce22a75a': 0}[name]
    assert [c.bits for c in found] == sorted(c.bits for c in found)
    if name == 'ce22a75a': assert any(not c.missed and 'map_colours' in str(c.program) for c in found), 'both demonstrations show the change, each in one and the same object'


# ---- when it was found

@pytest.mark.parametrize('what, name', [(what, name) for what, names in FOUND_BY.items() for name in names])
def test_an_answer_has_a_number_whichever_engine_and_view_it_comes_from(what, name):
    "That of all programs until then: engines that look at what a search has come by find nothing before their first look, a view nothing before the plain one was given up."
    solution = solve(task_of(name), budget=None, max_nodes=6_000, **dict(views=['plain', what]) if what in VIEWS else dict(engines={'search', what}))
    earliest = {'stacking': 4_000, 'windows': 4_000, 'objectwise': 4_000, 'ranks': 4_800, 'all_ranks': 4_800}.get(what, 0)
    assert earliest <= solution.found_after <= solution.programs_tested


@pytest.mark.parametrize('name', [name for names in FOUND_BY.values() for name in names] + ['97a05b5b', '3428a4f5', '2dd70a9a', 'd9fac9be'])
def test_what_it_does_not_stand_by_was_not_found(name):
    "A colour map or stack that the demonstrations do not predict is no answer, whatever fits."
    for programs in (300, 3_000):
        solution = solve(task_of(name), budget=None, max_nodes=programs)
        assert (solution.found_after is None) == solution.guess


def test_programs_that_other_engines_and_views_tested_before_count():
    "A look at objects in between, and what the views before took, stand in the number of programs."
    account, work = solver_module._Account(), solver_module._Work(task_of('007bbfb7'), None, ENGINES, solver_module._Clock(None), np.inf, 1_000)
    work.others = 300
    work.run()
    account.tested = 5_000
    account.add(work, work.candidates)
    alone = searched(task_of('007bbfb7'), 1_000).candidates
    assert [c.tested for c in account.candidates] == [c.tested + 5_300 for c in alone[:len(account.candidates)]] and account.candidates
    assert account.tested == 5_300 + work.search.tested


# ---- what an engine carries from one look to the next

class Oracle:
    "Says at each look what it was told, for ten programs a look."
    def __init__(self, says): self.says, self.looks = says, []

    def look(self, search, before, programs, seconds):
        self.looks.append((search.tested, before, programs, seconds))
        return self.says, 10


def test_another_engine_is_a_class_and_a_line(monkeypatch):
    "What it stands by is an answer, what it tested counts, for it and for the limit, and each view has one of its own that knows what is left."
    task, made = task_of('97a05b5b'), []
    answer = Candidate(parse('trim'), 1.0, (np.zeros((1, 1), np.uint8),), 7, 'oracle', missed=1)
    monkeypatch.setitem(solver_module._OTHERS, 'oracle', lambda chosen: made.append(Oracle([answer])) or made[-1])
    monkeypatch.setattr(solver_module, 'ENGINES', ('search', *solver_module._OTHERS))
    solution = solve(task, budget=None, max_nodes=3_000, engines=['search', 'oracle'], views=['plain', 'transposed'])
    assert solution.programs[:1] == ('trim',) and solution.engine == 'oracle' and solution.guess
    assert len(made) == 2 and all(len(one.looks) >= 1 for one in made)
    for one in made:
        assert [before for _, before, _, _ in one.looks] == [10 * k for k in range(len(one.looks))] and all(programs >= 0 and seconds == np.inf for *_, programs, seconds in one.looks)
    assert solution.programs_tested == sum(one.looks[-1][0] + 10 * len(one.looks) for one in made) <= 3_000 + 10 * sum(len(one.looks) for one in made)
    assert not any(name == 'oracle' for name in solve(task, budget=None, max_nodes=3_000, engines=['search'], views=['plain']).engines)


def test_bodies_are_repeated_once_each(monkeypatch):
    "A look goes on from the state at which the last one ended, and a new view begins anew."
    firsts = []
    monkeypatch.setattr(solver_module, 'repeats', lambda search, first, programs: (firsts.append((id(search), first)), repeats(search, first, programs))[1])
    engine, search = solver_module._Repeats(), searched(task_of('97a05b5b'), 4_000)
    for _ in range(3): engine.look(search, 0, 50, np.inf)
    assert [first for _, first in firsts] == sorted({first for _, first in firsts}) and len(firsts) == 3 and firsts[0][1] == 1 < firsts[1][1]
    solver_module._Repeats().look(search, 0, np.inf, np.inf)
    assert firsts[-1][1] == 1


def test_objects_wait_until_they_get_more_programs_than_before():
    "A search that has gone on for a tenth would find them less than the last look did; what that found stands until then."
    task, engine = task_of('c9f8e694'), solver_module._Objectwise([])
    search = searched(task, 4_000)
    found, tested = engine.look(search, 0, np.inf, np.inf)
    assert found and 0 < tested <= 4_000 and all(search.tested < c.tested <= search.tested + tested for c in found)
    assert engine.look(search, tested, tested, np.inf) == (found, 0) == engine.look(search, tested, np.inf, 0)
    search.run(8_000)
    later, more = engine.look(search, tested, np.inf, np.inf)
    assert more > 0 and engine.tested == tested + more and all(c.tested > search.tested + tested for c in later)


# ---- what it went into

@pytest.mark.parametrize('name', [MANY_VIEWS_AND_PARTS, 'bda2d7a6'])
def test_spans_say_what_the_seconds_went_into(name):
    solution = solve(task_of(name), budget=None, max_nodes=60_000)
    assert all(span.start <= span.end for span in solution.spans) and all(a.end <= b.start and a[:2] != b[:2] for a, b in zip(solution.spans, solution.spans[1:]))
    assert 0.8 * solution.seconds < sum(span.end - span.start for span in solution.spans) <= solution.seconds
    assert {span.engine for span in solution.spans} == set(ENGINES)
    views = list(dict.fromkeys(span.view for span in solution.spans))
    assert views == list(VIEWS)[:len(views)] and len(views) > 1
    assert {span.engine for span in solve(task_of(name), budget=None, max_nodes=6_000, engines=['search', 'windows']).spans} == {'search', 'windows'}


def test_nobody_looks_twice_at_the_same(monkeypatch):
    "A look sees at least a tenth more programs than the one before."
    looks = []
    monkeypatch.setattr(solver_module, 'stacks', lambda search: looks.append((id(search.task), search.tested)) or stacks(search))
    for programs in (6_000, 20_000, 100_000, 200_000): solve(task_of(MANY_VIEWS_AND_PARTS), budget=None, max_nodes=programs)
    assert len(looks) > 16 and all(after >= 1.1 * before for (task, before), (same, after) in zip(looks, looks[1:]) if task == same)


# ---- what comes first, and what is counted

def priced(text, bits, answer, **against): return Candidate(parse(text), bits, (np.array([[answer]], np.uint8),), 0, **against)


def test_what_speaks_against_an_answer_is_a_price_and_no_rank():
    def order(*candidates): return [(int(c.answers[0][0, 0]), bits) for c, bits in rank_answers(list(candidates))]
    one_cell = priced('trim', 20.0, 1, wrong=1)
    assert order(priced('peel', 30.0, 2, missed=3), one_cell) == [(1, 60.0), (2, 66.0)], 'a wrong cell comes before a fit that misses three'
    assert order(one_cell, priced('peel', 59.0, 2)) == [(2, 59.0), (1, 60.0)] and order(one_cell, priced('peel', 61.0, 2)) == [(1, 60.0), (2, 61.0)]
    assert order(priced('trim', 20.0, 1, wrong=2), priced('peel', 99.0, 2, missed=0), priced('invert', 1.0, 3, wrong=2, missed=1)) == [(3, 93.0), (2, 99.0), (1, 100.0)]
    assert order(replace(one_cell, bits=21.0), priced('peel', 61.0, 1), priced('invert', 60.5, 2)) == [(1, 60.0), (2, 60.5)], 'those that agree support each other, what has cells wrong too'


@pytest.mark.parametrize('cheaper, guess', [(solver_module.DOUBT + 0.5, True), (solver_module.DOUBT - 0.5, False)])
def test_a_cheaper_answer_with_something_against_it_can_stand_before_one_that_is_trusted(cheaper, guess):
    task = Task('two ways', (Pair([[1]], [[1]]),), (Pair([[2]]),))
    account = solver_module._Account([priced('trim', 40.0, 1), priced('peel', 40.0 - cheaper, 2, missed=1)], tested=9)
    solution = solver_module._solution(task, account, 'uniform', solver_module._Clock(None))
    assert solution.guess == guess and solution.programs == (('peel', 'trim') if guess else ('trim', 'peel')) and (solution.found_after is None) == guess


def test_few_programs_are_run_that_are_not_counted(monkeypatch):
    "In one look of an engine; steps and bodies that the executor runs were counted before."
    most, runs = {stacks: 8, windows: 64, branches: 64, one_step_more: 64, repeats: 64}, []
    for room in map(sys.modules.get, {engine.__module__ for engine in most}):
        monkeypatch.setattr(room, 'run_on_task', lambda program, task, run=room.run_on_task: runs.append(program) or run(program, task))
    counts = {engine: [] for engine in most}
    for search in map(searched, map(task_of, ('5582e5ca', '007bbfb7', '25ff71a9', 'd23f8c26'))):
        before = search.tested
        for engine in most:
            runs.clear()
            engine(search)
            counts[engine].append(len(runs))
        assert search.tested == before
    assert all(0 < max(counts[engine]) <= most[engine] for engine in most), counts


# ---- what is left out

def never(*words): raise AssertionError('this was left out')


@pytest.mark.parametrize('engine', ENGINES)
def test_engines_and_views_that_are_left_out_have_no_part_in_it(engine, monkeypatch):
    warm_up()
    rooms = ('windows', 'windows'), ('stacking', 'stacks'), ('branches', 'branches'), ('branches', 'one_step_more'), ('repeats', 'repeats'), ('objectwise', 'objectwise')
    for other, function in rooms:
        if other != engine: monkeypatch.setattr(solver_module, function, never)
    for name in (MANY_VIEWS_AND_PARTS, '44f52bb0', 'c9f8e694', '5117e062'):
        task = task_of(name)
        ranked = [c for c, _ in rank_answers(solver_module._explore(task, None, solver_module._Clock(None), 3_000, {'search', engine}, ['plain']).candidates)]
        assert {c.engine for c in ranked} <= {'search', engine}
        assert not any(str(c.program).startswith(view.before) for c in ranked for view in VIEWS.values() if view.name in ('ranks', 'all_ranks'))
        solution = solve(task, budget=None, max_nodes=3_000, engines=['search', engine], views=['plain'])
        assert solution.engine in ('search', engine, 'none') and solution.programs == tuple(str(c.program) for c in ranked[:2])


@pytest.mark.parametrize('what, chosen', [('engines', ['stacking']), ('engines', []), ('engines', ['search', 'stackin']), ('views', ['ranks']), ('views', []), ('views', ['plain', 'rank'])])
def test_engines_and_views_that_there_are_not(what, chosen):
    with pytest.raises(ValueError) as error: solve(task_of('007bbfb7'), **{what: chosen})
    right = {'engines': 'engines are search, stacking, windows, branches, repeats, objectwise, the first of them always', 'views': 'views are plain, ranks, all_ranks, transposed, the first of them always'}
    assert right[what] in str(error.value) and str(error.value).endswith(f'not {", ".join(chosen) or "none"}')


def test_a_name_is_no_task():
    with pytest.raises(TypeError, match="solve takes a Task, as load_task.* gives, not 'arc1/training/3428a4f5'"): solve('arc1/training/3428a4f5', max_nodes=10)
    with pytest.raises(ValueError, match='guidance comes from None .*, not 5'): solve(task_of(MANY_VIEWS_AND_PARTS), max_nodes=10, guidance=5)


# ---- no leak, no chance

@pytest.mark.parametrize('name', [name for names in FOUND_BY.values() for name in names])
def test_test_outputs_change_nothing(name):
    "With all engines and views: outputs that are noise of the same size, noise of another, or hidden give the same solution."
    task, rng = load_task(f'arc1/training/{name}'), np.random.default_rng(0)
    def with_outputs(output): return Task(task.id, task.demonstrations, tuple(Pair(p.input, output(p)) for p in task.tests), {})
    honest = solve(task, budget=None, max_nodes=6_000)
    for other in (task.hide_test_outputs(), with_outputs(lambda p: rng.integers(0, 10, p.output.shape)), with_outputs(lambda p: rng.integers(0, 10, rng.integers(1, 31, 2)))):
        assert said(solve(other, budget=None, max_nodes=6_000)) == said(honest)
    assert honest.attempts and not honest.solves(with_outputs(lambda p: (p.output.astype(int) + 1) % 10))


@pytest.mark.parametrize('name', [MANY_VIEWS_AND_PARTS, 'c9f8e694', '73251a56'])
def test_the_same_limit_gives_the_same_solution(name):
    assert said(solve(task_of(name), budget=None, max_nodes=20_000)) == said(solve(task_of(name), budget=None, max_nodes=20_000))


# ---- limits

@pytest.mark.parametrize('name', [MANY_VIEWS_AND_PARTS, '11852cab'])
def test_the_memory_of_a_view_is_given_back_without_the_garbage_collector(name, monkeypatch):
    "In a reference cycle the grids of each view would stay until some later collection: hundreds of MB a task."
    arenas = []
    class Watched(Search):
        def __init__(self, *words, **limits):
            super().__init__(*words, **limits)
            arenas.append(weakref.ref(self._memory.arena))
    for room in (solver_module, objectwise_module): monkeypatch.setattr(room, 'Search', Watched)
    gc.collect()
    gc.disable()
    try:
        solve(task_of(name), budget=None, max_nodes=20_000)
        left = [arena() is not None for arena in arenas]
    finally: gc.enable()
    assert len(left) > 2 and not any(left)


SMALL_LIMITS = """
import json, sys
from arc_jepa.datasets import load_task
from arc_jepa.solve.solver import solve
for name in sys.argv[1:]:
    task = load_task(f'arc1/training/{name}')
    print(json.dumps([solve(task, budget=None, max_nodes=n).programs_tested for n in range(1, 61)]))
"""


def test_every_small_number_of_programs_is_kept_and_comes_to_an_end():
    "In a process of its own: what went on for ever would hang there. The shares of the views and of the part tasks are fractions of a program here."
    task = task_of(MANY_VIEWS_AND_PARTS)
    assert all(apply_view(view, task) for view in VIEWS.values()) and any(part_task(s, task) for s in SEGMENTATIONS)
    warm_up()
    done = subprocess.run([sys.executable, '-c', SMALL_LIMITS, MANY_VIEWS_AND_PARTS, '05f2a901', 'c9f8e694'], capture_output=True, text=True, timeout=120, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr[-2000:]
    for line in done.stdout.splitlines():
        tested = json.loads(line)
        assert len(tested) == 60 and all(0 < used <= limit for limit, used in enumerate(tested, 1)), tested


LARGE_TASKS = """
import json, time
import numpy as np
from arc_jepa.grid import Pair, Task
from arc_jepa.solve.solver import solve, warm_up

def objects(seed):
    rng = np.random.default_rng(seed)
    return np.where(rng.random((30, 30)) < 0.25, rng.integers(1, 10, (30, 30)), 0)

def noise(seed): return np.random.default_rng(seed).integers(0, 10, (30, 30))

many_objects = Task('objects', tuple(Pair(objects(s), objects(s + 50)) for s in range(5)), (Pair(objects(99)),))
noisy = Task('noise', tuple(Pair(noise(s), noise(s + 50)) for s in range(6)), (Pair(noise(99)),))
warm_up()
used = []
for task, budget in ((many_objects, 0.3), (many_objects, 1), (noisy, 0.3), (noisy, 3)):
    before = time.thread_time()
    tested = solve(task, budget).programs_tested
    used.append([task.id, budget, time.thread_time() - before, tested])
peak = next(line for line in open('/proc/self/status') if line.startswith('VmHWM'))          # of this program alone: ru_maxrss counts what the process was before it
print(json.dumps(dict(used=used, megabytes=int(peak.split()[1]) / 1024)))
"""


def test_large_tasks_stay_within_their_seconds_and_a_gigabyte():
    warm_up()               # what is compiled here is loaded there
    done = subprocess.run([sys.executable, '-c', LARGE_TASKS], capture_output=True, text=True, timeout=300, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    for task, budget, seconds, tested in found['used']: assert seconds <= 1.1 * budget + 0.05 and tested >= 2_000, (task, budget, seconds, tested)
    assert found['megabytes'] < 1024, found


def test_objects_have_a_limit_in_seconds_too():
    task = task_of('c9f8e694')
    objectwise(task, programs=100)
    found, tested = objectwise(task, seconds=0)
    assert (found, tested) == ([], 0)
    before = time.thread_time()
    tested = objectwise(task, programs=10_000_000, seconds=0.2)[1]
    assert time.thread_time() - before < 0.35 and 1_000 < tested < 10_000_000


FIRST_GUIDANCE = """
import json, time
from arc_jepa.datasets import load_task
from arc_jepa.solve.solver import solve, warm_up
warm_up()
solution = solve(load_task('arc1/training/97a05b5b'), budget=0.5, guidance='frequency')
print(json.dumps([solution.programs_tested, solution.seconds]))
"""


def test_what_all_tasks_share_is_on_nobodys_clock():
    "The first frequencies of a process take longer than this budget."
    done = subprocess.run([sys.executable, '-c', FIRST_GUIDANCE], capture_output=True, text=True, timeout=120, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr[-2000:]
    tested, seconds = json.loads(done.stdout)
    assert tested > 10_000 and seconds <= 0.6, (tested, seconds)


@pytest.mark.parametrize('limits', [dict(max_nodes=0), dict(max_nodes=-5), dict(budget=-1), dict(budget=float('nan')), dict(budget=0)])
def test_limits_that_leave_nothing_to_do_are_mistakes(limits):
    with pytest.raises(ValueError, match='limits are seconds above 0 and at least one program'): solve(task_of('c9f8e694'), **limits)


def test_engines_do_not_look_at_test_outputs():
    "Each by itself, as `solve` takes them away before anything looks."
    task = load_task(f'arc1/training/{MANY_VIEWS_AND_PARTS}')
    noise = Task(task.id, task.demonstrations, tuple(Pair(p.input, np.full((3, 3), 7, np.uint8)) for p in task.tests))

    def everything(given):
        found = []
        for view in VIEWS.values():
            made = apply_view(view, given)
            search = searched(made)
            inside = [*search.candidates, *windows(search), *stacks(search), *branches(search), *one_step_more(search)[0], *repeats(search)[0], *objectwise(made, programs=6_000, looks=[branches])[0]]
            found += [(str(c.program), c.bits, c.missed, c.wrong, [a.tolist() for a in c.answers]) for c in inside]
        return found
    assert everything(task) == everything(noise) == everything(task.hide_test_outputs()) != []


def test_the_right_attempt_is_the_one_with_the_credit():
    "Of this task's two programs that fit, the second is right."
    task = load_task('arc1/training/c3f564a4')
    solution = solve(task, max_nodes=20_000)
    assert not solution.solves(task, 1) and solution.right_attempt(task) == 1 and len(solution.engines) == 2
    assert solve(task_of('c3f564a4'), max_nodes=500).right_attempt(Task('', task.demonstrations, (Pair(task.tests[0].input, np.zeros((1, 1), np.uint8)),))) is None


@pytest.mark.parametrize('file, other', [('solve/solver.py', True), ('solve/windows.py', True), ('dsl/ops.py', True), ('evaluate/evaluation.py', False), ('solve/library.py', False)])
def test_the_stamp_is_another_one_after_a_change_of_what_the_solver_is_made_of(file, other, tmp_path, monkeypatch):
    "And of nothing else."
    def copied(name):
        shutil.copytree(PACKAGE, tmp_path/name/'arc_jepa', ignore=shutil.ignore_patterns('__pycache__'))
        monkeypatch.setattr(solver_module, 'PACKAGE', tmp_path/name/'arc_jepa')
        return tmp_path/name/'arc_jepa'
    copied('before')
    before = solver_stamp()
    with open(copied('after')/file, 'a') as source: source.write('# changed\n')
    assert (solver_stamp() != before) == other
