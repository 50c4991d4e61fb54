"""Branches and repetitions: found by search they do by the executor what they say, count what they miss when it is left out, stay within their bounds, and reach the solver, alone and inside of objects."""
import time

import numpy as np
import pytest

from arc_jepa.config import load_config
from arc_jepa.datasets import load_task
from arc_jepa.dsl.program import parse, reproduces, run_program
from arc_jepa.generate.corpus import tasks_of
from arc_jepa.generate.generator import GenerateConfig
from arc_jepa.grid import Pair, Task
from arc_jepa.solve import branches as room
from arc_jepa.solve.branches import MAX_ANSWERS, MAX_PAIRS, branches, one_step_more, repeats
from arc_jepa.solve.objectwise import objectwise
from arc_jepa.solve.search import Search
from arc_jepa.solve.solver import ENGINES, solve, warm_up
from arc_jepa.solve.windows import worth_saying

CURRICULUM = load_config(GenerateConfig, 'pilot_curriculum')


def searched(task, programs=20_000, **settings):
    search = Search(task.hide_test_outputs(), **settings)
    search.run(programs)
    return search


def full_of_objects(n):
    "Grids 9×10 with a few cells in three colours."
    rng = np.random.default_rng(0)
    return [np.where(rng.random((9, 10)) < 0.3, rng.integers(1, 4, (9, 10)), 0) for _ in range(n)]


def of_rule(text, *inputs):
    "A task whose outputs a program makes; the last input is the test."
    pairs = [Pair(np.array(x, np.uint8), run_program(text, np.array(x, np.uint8))) for x in inputs]
    return Task(text, tuple(pairs[:-1]), (pairs[-1],))


@pytest.fixture(scope='module')
def generated():
    "Searches on generated tasks with a condition and with a repetition (others than the pilot's)."
    return [(task, searched(task)) for phase in ('phase_iv', 'phase_v') for task in tasks_of(CURRICULUM, phase, 30_000, 25)]


def test_candidates_do_by_the_executor_what_they_say(generated):
    "Text that parses back, all demonstrations, the answers, one candidate an answer, cheapest first."
    seen = {'if': 0, 'repeat': 0}
    for task, search in generated:
        for found in (branches(search), one_step_more(search)[0], repeats(search)[0]):
            assert len(found) <= MAX_ANSWERS and [c.bits for c in found] == sorted(c.bits for c in found)
            assert len({tuple((a.shape, a.tobytes()) for a in c.answers) for c in found}) == len(found)
            for c in found:
                assert parse(str(c.program)) == c.program and reproduces(c.program, task.hide_test_outputs()) and not c.wrong, str(c.program)
                assert c.missed or worth_saying(c.bits, task)
                for answer, test in zip(c.answers, task.tests): assert np.array_equal(answer, run_program(c.program, test.input))
                assert c.engine == {'if': 'branches', 'repeat': 'repeats'}[c.program.steps[-1].op.name]
            for c in found: seen[c.program.steps[-1].op.name] += 1
    assert seen['if'] > 40 and seen['repeat'] > 5, seen


def test_what_is_joined_is_the_cheapest(generated):
    "However late the search came by it: it goes on from what is nearly the output first."
    unordered = 0
    for _, search in generated:
        (right_on, grids, _, conditions), bits = room._collected(search), search.state_bits()
        for states in (grids, conditions): assert (np.diff(bits[states]) >= 0).all()
        unordered += (np.diff(grids) < 0).any()
        found = repeats(search)[0]
        assert [c.bits for c in found] == sorted(c.bits for c in found)
    assert unordered > 1, 'states are not made in the order of their cost'


def test_what_is_stood_by_is_right(generated):
    "Of what no left-out demonstration speaks against."
    sure = [(task, c) for task, search in generated if not search.candidates for c in (branches(search) + repeats(search)[0])[:1] if not c.missed]
    assert len(sure) >= 4
    for task, c in sure: assert all(np.array_equal(a, pair.output) for a, pair in zip(c.answers, task.tests)), (task.id, str(c.program))


def test_steps_that_a_condition_and_both_branches_share_are_said_once():
    "Up to the last grid that all three come through, and what is left of each leads on from there."
    search, rng = searched(of_rule('trim', *full_of_objects(4)), weight=0), np.random.default_rng(0)         # by cost alone, so that chains begin with anything
    chains, deep = [search.program(s).steps for s in range(search.states)], 0
    for first in rng.choice([c[0] for c in chains if len(c) > 1], 60):
        alike = [s for s, c in enumerate(chains) if c[:1] == (first,)]
        triple = tuple(rng.choice(alike, 3).tolist())
        start = room._shared(search, triple)
        n, common = len(chains[start]), 0
        while all(len(chains[s]) > common for s in triple) and len({chains[s][common] for s in triple}) == 1: common += 1
        assert n == max([k for k in range(1, common + 1) if chains[triple[0]][k - 1].op.gives.name == 'grid'], default=0)
        for s in triple:
            body = room._body(search, s, start)
            assert chains[start] + body.steps == chains[s] and (body.start == 'here') == (s == start)
        deep += n > 0
    assert 10 < deep < 60


def plain(rng, *colours): return rng.choice(colours, (6, 6))


def test_a_branch_that_one_demonstration_speaks_for_is_a_guess_and_one_that_three_speak_for_is_none():
    "What is red is turned, what is not is mirrored: without the only red one there would be no sign of turning."
    rng = np.random.default_rng(3)
    red, other = [[plain(rng, 1, c, 0) for _ in range(4)] for c in (2, 3)]
    rule = 'if(has_colour(red), rotate_90, mirror(down))'
    for reds, missed in ((1, False), (3, True)):
        task = of_rule(rule, *red[:reds], *other[:3], red[3])
        best = min(branches(searched(task)), key=lambda c: c.bits)
        assert (best.missed == 0) == missed and np.array_equal(best.answers[0], task.tests[0].output), (reds, best.missed)


def test_the_cheapest_program_for_the_rest_is_asked_for_what_is_left_out():
    "Against a slow, plain count: every condition, every pair of grids, for each demonstration that is left out."
    rng = np.random.default_rng(5)
    for _ in range(300):
        n = int(rng.integers(2, 6))
        right_on, truths = rng.integers(1, (1 << n) - 1, int(rng.integers(1, 6))), rng.integers(0, 1 << n, int(rng.integers(1, 6)))
        bits, condition_bits = np.sort(rng.random(len(right_on)) * 10), rng.random(len(truths)) * 10
        wrong = 0
        for k in range(n):
            rest = [j for j in range(n) if j != k]
            def gives(i, j): return bool(right_on[i] >> j & 1)
            def yes(c, j): return bool(truths[c] >> j & 1)
            ways = [(bits[i], gives(i, k)) for i in range(len(bits)) if all(gives(i, j) for j in rest)]
            ways += [(condition_bits[c] + bits[a] + bits[b] + room.IF_BITS, gives(a if yes(c, k) else b, k)) for c in range(len(truths)) if len({yes(c, j) for j in rest}) == 2
                     for a in range(len(bits)) for b in range(len(bits)) if all(gives(a if yes(c, j) else b, j) for j in rest)]
            wrong += not (ways and min(ways, key=lambda way: way[0])[1])
        assert room._count_missed(right_on, bits, truths, condition_bits, room.IF_BITS, n) == wrong


def test_a_repetition_that_one_demonstration_alone_shows_is_a_guess():
    "Where one round is enough in all others."
    def dots(*places):
        grid = np.zeros((7, 7), int)
        for row, column in places: grid[row, column] = 3
        return grid
    rng = np.random.default_rng(1)
    drawn = [dots(*rng.integers(0, 7, (6, 2)).tolist()) for _ in range(60)]
    rule = 'repeat(connect(both))'
    rounds = [sum(not np.array_equal(*pair) for pair in ((g, run_program('connect(both)', g)), (run_program('connect(both)', g), run_program(rule, g)))) for g in drawn]
    once, changed = ([g for g, n in zip(drawn, rounds) if n == wanted] for wanted in (1, 2))
    for shown, missed in ((changed[:1], 1), (changed[:2], 0)):
        found = repeats(searched(of_rule(rule, *once[:2], *shown, changed[-1])))[0]
        assert found and found[0].missed == missed


def test_programs_of_repeats_are_a_limit_and_the_next_look_goes_on():
    search = searched(tasks_of(CURRICULUM, 'phase_v', 20_038, 1)[0])
    for programs in (0, 1, 3, 4, 50): assert repeats(search, 1, programs)[1] <= programs
    assert repeats(search, 1, 0)[0] == [] and repeats(search, 1, 0)[2] == 1
    whole, state, tested, found = repeats(search, 1, 4_000), 1, 0, []
    while True:
        some, n, state = repeats(search, state, 100)
        tested, found = tested + n, found + some
        if state == search.states or tested >= whole[1] + 100: break
    assert tested >= whole[1] and {str(c.program) for c in whole[0]} <= {str(c.program) for c in found} != set()


def test_one_step_more_than_the_search_puts_right_what_is_wrong_elsewhere():
    "d406998b: what is one step from right on half of the demonstrations. Each step that is tested counts, and there is a limit to them."
    task = load_task('arc1/training/d406998b')
    search = searched(task)
    found, tested = one_step_more(search, 5_000)
    assert not branches(search) and np.array_equal(found[0].answers[0], task.tests[0].output) and found[0].missed
    assert parse(str(found[0].program)) == found[0].program and reproduces(found[0].program, task)
    for programs in (0, 1, 7, 100): assert one_step_more(search, programs)[1] == programs
    assert one_step_more(search, 0) == ([], 0) and 100 < tested <= 5_000
    task, ways = load_task('arc1/training/794b24be'), dict(budget=None, max_nodes=30_000, views=['plain'])
    solution = solve(task, engines=['search', 'branches'], **ways)
    assert solution.solves(task) and solution.engine == 'branches' and not solution.guess and 20_000 < solution.programs_tested <= 21_000
    assert not solve(task, engines=['search'], **ways).solves(task)


def test_a_step_on_top_of_a_grid_goes_to_the_side_that_needs_it():
    "Either way round, and only where both are right on what the condition gives them."
    truths, conditions = np.array([0b0011, 0b0101]), np.array([7, 8])
    assert list(room._ways(0b0011, 0b1100, truths, conditions, 4)) == [(7, False)]
    assert list(room._ways(0b1100, 0b0011, truths, conditions, 4)) == [(7, True)]
    assert list(room._ways(0b0111, 0b1100, truths, conditions, 4)) == [(7, False)]
    assert list(room._ways(0b0001, 0b1110, truths, conditions, 4)) == []


def full(seed, colours): return np.random.default_rng(seed).integers(0, colours, (30, 30))


LARGE = {
    'noise': [(full(s, 10), full(s + 50, 10)) for s in range(6)],
    'what is right on one': [(full(s, 3), full(s, 3) if s == 0 else full(s + 50, 3)) for s in range(6)],
    'objects': [(np.where(full(s, 4) == 0, full(s + 9, 10), 0),) * 2 for s in range(5)] + [(full(7, 10), full(8, 10))],
}


@pytest.mark.parametrize('name', LARGE)
def test_a_look_at_large_grids_is_short(name):
    "Less than what the search before it took, and never half a second."
    warm_up()
    task = Task(name, tuple(Pair(*p) for p in LARGE[name]), (Pair(full(99, 10)),))
    search = Search(task)
    start = time.thread_time()
    search.run(20_000)
    before = time.thread_time()
    branches(search)
    assert one_step_more(search, 1_000_000)[1] < 100_000
    _, tested, next_one = repeats(search, 1, 1_000_000)
    used = time.thread_time() - before
    assert used < 0.5 and used < before - start and 0 < tested, (used, before - start)
    assert next_one < search.states, 'there was more to do than there was time for'


def test_more_pairs_than_a_word_has_bits(generated, monkeypatch):
    "No branch, and no error."
    assert branches(searched(of_rule('flip_up_down', *[[[k % 9, 1], [0, k % 7]] for k in range(MAX_PAIRS + 10)]), 2_000)) == []
    search = next(search for _, search in generated if branches(search))
    monkeypatch.setattr(room, 'MAX_PAIRS', search._goal.n_pairs - 1)
    assert branches(search) == []


def test_what_does_not_give_the_demonstrations_or_no_answer_is_no_candidate():
    search = searched(of_rule('flip_up_down', [[1, 2], [3, 3]], [[0, 4], [5, 5]], [[1, 1], [2, 0]]), 10)
    for text, right in (('flip_up_down', True), ('flip_left_right', False), ('if(has_colour(blue), flip_up_down, half(up))', False), ('if(same_as(input), flip_up_down, here)', True), ('where(blue) | crop | flip_up_down', False)):
        assert bool(room._candidate(search, 'branches', parse(text), 10.0, 0)) == right, text
    cells = 8 * np.log2(10)
    assert [room._candidate(search, 'branches', parse('flip_up_down'), bits, 1).missed for bits in (cells - 1, cells + 1)] == [1, 2], 'dearer than its cells'


def test_objects_are_of_two_kinds():
    "In 868de0fa squares are filled by their side; the search alone finds no body."
    task = load_task('arc1/training/868de0fa')
    alone, looked = (objectwise(task.hide_test_outputs(), programs=20_000, looks=looks)[0] for looks in ([], [branches]))
    assert not alone and looked and not looked[0].missed and 'map(if(' in str(looked[0].program) and np.array_equal(looked[0].answers[0], task.tests[0].output)
    solution = solve(task, budget=None, max_nodes=60_000, guidance='frequency')
    assert solution.solves(task) and solution.engine == 'objectwise'
    assert not solve(task, budget=None, max_nodes=60_000, guidance='frequency', engines=[e for e in ENGINES if e != 'branches']).solves(task)


def all_that_a_search_knows(search):
    "Its arrays by name; of the values only what is written, since behind it lies what was tried last."
    parts = {'menu': search._menu._asdict(), 'goal': search._goal._asdict(), 'memory': search._memory._asdict(), 'search': {'costs': search._costs}}
    arrays = {f'{part}.{name}': array for part, named in parts.items() for name, array in named.items() if isinstance(array, np.ndarray) and name != 'words'}
    return arrays | {'memory.arena': arrays['memory.arena'][:search.bytes_used]}


def test_a_search_is_read_and_left_as_it_is():
    "Repetitions and steps are run on the arrays of the search itself."
    for task, look, least in ((tasks_of(CURRICULUM, 'phase_v', 20_038, 1)[0], repeats, 500), (load_task('arc1/training/d406998b'), one_step_more, 200)):
        search = searched(task, 5_000)
        before = {name: array.copy() for name, array in all_that_a_search_knows(search).items()}
        assert look(search)[1] > least and len(before) == 19
        assert [name for name, array in all_that_a_search_knows(search).items() if not np.array_equal(array, before[name])] == []
        search.run(5_000)
        assert search.state_bits().tolist() == searched(task, 10_000).state_bits().tolist(), 'it goes on as if nobody had looked'


def test_the_solver_repeats_a_share_of_what_it_has_searched_and_counts_it():
    task = tasks_of(CURRICULUM, 'phase_v', 20_038, 1)[0]
    solution = solve(task, budget=None, max_nodes=30_000, views=['plain'])
    assert solution.engine == 'repeats' and not solution.guess and solution.solves(task) and 20_000 < solution.found_after <= solution.programs_tested
    alone = solve(task, budget=None, max_nodes=30_000, views=['plain'], engines=['search', 'stacking', 'windows', 'branches'])
    assert alone.engine != 'repeats' and 20_000 < solution.programs_tested <= 21_000
