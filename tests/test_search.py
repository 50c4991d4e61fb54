"""The search: nothing leaks from test outputs, the same search every time, bounds hold, and every answer can be run again."""
from inspect import signature

import numpy as np
import pytest

from arc_jepa.datasets import load_task, load_tasks
from arc_jepa.dsl.ops import N_OPS, OP_BY_NAME
from arc_jepa.dsl.program import Failure, Program, parse, run_on_task, run_program, run_value
from arc_jepa.generate.corpus import tasks_of
from arc_jepa.generate.generator import GenerateConfig, PhaseConfig, ProgramConfig
from arc_jepa.grid import Pair, Task
from arc_jepa.solve import search as search_module
from arc_jepa.solve.search import FLOOR, MAX_COST, MAX_LEVEL, MAX_WEIGHT, OPERANDS, UNITS_PER_BIT, WEIGHT, Search, instruction_costs, instructions_for
from arc_jepa.dsl.types import Type, VALUE_BYTES, from_grid, to_python, value_bytes

PROGRAMS = 6_000
SOLVED = ['1f85a75f', '67a3c6ac', '0d3d703e', 'a416b8f3', '007bbfb7', '1cf80156']          # by one to three steps, `map_colours` and `beside` among them


@pytest.fixture(scope='module')
def tasks():
    generated = tasks_of(GenerateConfig(task_schedule={'p': PhaseConfig()}, program=ProgramConfig(length_schedule={'p': {1: .3, 2: .4, 3: .3}})), 'p', 0, 8)
    return [load_task(f'arc1/training/{name}') for name in SOLVED] + list(load_tasks('arc1/training')[::50]) + generated


def outcome(task, programs=PROGRAMS, pieces=None, **settings):
    "Everything that a search says about a task."
    search = Search(task, **settings)
    while search.tested < programs and search.run(min(pieces or programs, programs - search.tested)): pass
    found = [(str(c.program), c.bits, c.tested, [(a.shape, a.tobytes()) for a in c.answers]) for c in search.candidates]
    return found, search.tested, search.states, search.bytes_used, search.exhausted, search.full


def with_test_outputs(task, output):
    return Task(task.id, task.demonstrations, tuple(Pair(pair.input, output(pair)) for pair in task.tests), task.metadata)


def corruptions(task, seed=0):
    "The task with test outputs that are noise, of other sizes and colours, the input itself, or not there."
    rng = np.random.default_rng(seed)
    yield task.hide_test_outputs()
    yield with_test_outputs(task, lambda pair: rng.integers(0, 10, rng.integers(1, 31, 2)).astype(np.uint8))
    yield with_test_outputs(task, lambda pair: pair.input)
    if all(pair.output is not None for pair in task.tests): yield with_test_outputs(task, lambda pair: (np.asarray(pair.output) + 1) % 10)


def leaks(tasks):
    "Which of the tasks are searched differently when only their test outputs change?"
    return [task.id for task in tasks if any(outcome(other) != outcome(task) for other in corruptions(task))]


def test_test_outputs_change_nothing(tasks):
    assert not leaks(tasks)


def test_the_leak_test_finds_a_leak(tasks, monkeypatch):
    "The test of the test: a search that takes its colours from the test outputs too, as a careless one would."
    honest = search_module._task_colours
    def careless(task):
        readable, writable = honest(task)
        return readable, writable.union(*(set(np.unique(pair.output).tolist()) for pair in task.tests if pair.output is not None))
    monkeypatch.setattr(search_module, '_task_colours', careless)
    assert len(leaks(tasks)) > len(tasks) // 2


def test_solver_answers_the_same_whatever_the_test_outputs(tasks):
    solve = pytest.importorskip('arc_jepa.solve.solver').solve
    def said(task):
        return solve(task, budget=None, max_nodes=PROGRAMS).to_json() | dict(seconds=0)
    for task in tasks[:8]:
        expected = said(task.hide_test_outputs())
        for other in corruptions(task): assert said(other) == expected, task.id


def test_same_search_every_time(tasks):
    for task in tasks: assert outcome(task) == outcome(task)


def test_the_determinism_test_finds_a_difference(tasks):
    "The test of the test: another prior is another search."
    prior = np.random.default_rng(0).random(N_OPS)
    assert sum(outcome(task) != outcome(task, prior=prior) for task in tasks) > len(tasks) // 2


@pytest.mark.parametrize('pieces', [1, 17, 777])
def test_pieces_are_the_whole(tasks, pieces):
    for task in tasks[:2 if pieces == 1 else 8]:
        programs = 600 if pieces == 1 else PROGRAMS
        assert outcome(task, programs, pieces) == outcome(task, programs)


def test_tasks_are_solved_and_candidates_can_be_run_again(tasks):
    solved = 0
    for task in tasks:
        search = Search(task)
        search.run(3 * PROGRAMS)
        for candidate in search.candidates:
            assert parse(str(candidate.program)) == candidate.program and len(candidate.answers) == len(task.tests)
            assert 0 <= candidate.tested <= search.tested
            for pair in task.demonstrations: assert np.array_equal(run_program(candidate.program, pair.input), pair.output), (task.id, str(candidate.program))
            for pair, answer in zip(task.tests, candidate.answers): assert np.array_equal(run_program(candidate.program, pair.input), answer), (task.id, str(candidate.program))
        solved += any(all(np.array_equal(a, p.output) for a, p in zip(c.answers, task.tests)) for c in search.candidates)
    assert solved >= len(SOLVED) + 4


def same_value(a, b): return all(map(np.array_equal, a, b)) if isinstance(a, tuple) else np.array_equal(a, b)


def test_states_are_what_their_programs_give(tasks):
    "Of every type, on all pairs, tests too."
    seen = set()
    for task in tasks:
        search = Search(task)
        search.run(PROGRAMS)
        for state in range(0, search.states, 37):
            program = search.program(state)
            for value, again in zip(search.values(state), run_on_task(program, task), strict=True): assert same_value(value, again), (task.id, str(program))
            assert Type(int(search.kinds[state])) is program.gives
            seen.add(program.gives)
    assert len(seen) >= 8


def test_without_a_weight_programs_come_in_the_order_of_their_cost(tasks):
    "States too; the bits of a colour map are added afterwards."
    for task in tasks:
        search = Search(task, weight=0.0)
        search.run(PROGRAMS)
        assert (np.diff(search.state_bits()) >= 0).all(), task.id
        bits = [c.bits for c in search.candidates if not str(c.program.steps[-1] if c.program.steps else '').startswith('map_colours')]
        assert bits == sorted(bits), task.id
        assert [c.tested for c in search.candidates] == sorted(c.tested for c in search.candidates)


def wait_of(grids, task, weight):
    "In units, by the definition."
    wrong = [(g != p.output).sum() if g.shape == p.output.shape else p.output.size for g, p in zip(grids, task.demonstrations)]
    return int(np.round(UNITS_PER_BIT * weight * np.log2(np.add(1.0, wrong)).mean()))


def searched_by_definition(task, prior, weight, programs):
    "Programs and costs of the states in their order: with lists, and the executor that knows nothing of the search."
    search = Search(task, prior, weight=weight)                         # for its instructions and what they cost; it is not run
    menu, there = search._menu, search._memory.operand_offset
    pairs = task.demonstrations + task.tests
    inputs = [from_grid(p.input) for p in pairs]
    chains, costs, kinds, seen, tested, filed = [()], [0], [Type.grid], {tuple(v.tobytes() for v in inputs)}, 0, {wait_of([p.input for p in pairs], task, weight): [0]}
    for level in range(1, MAX_LEVEL):
        for k in range(1, min(level, MAX_COST) + 1):
            for state in filed.get(level - k, ()):
                first = menu.first[kinds[state]]
                for i in menu.by_cost[kinds[state], first[k]:first[k + 1]]:
                    if menu.operand[i] >= 0 and there[menu.operand[i]] < 0 or menu.arguments[i, 0] < 0 and there[-1 - menu.arguments[i, 0]] < 0: continue
                    if tested == programs: return [str(Program(c)) for c in chains], [c / UNITS_PER_BIT for c in costs]
                    tested += 1
                    program = Program(chains[state] + (search.step(i),))
                    values = [run_value(program, grid) for grid in inputs]
                    if any(isinstance(v, Failure) for v in values) or (found := tuple(v[:value_bytes(v)].tobytes() for v in values)) in seen: continue
                    seen.add(found)
                    chains.append(program.steps), costs.append(costs[state] + k), kinds.append(program.gives)
                    asked = costs[-1] + wait_of(map(to_python, values), task, weight) if program.gives is Type.grid else level
                    filed.setdefault(max(level, asked), []).append(len(costs) - 1)


@pytest.mark.parametrize('weight', [0.0, 1.0, WEIGHT])
@pytest.mark.parametrize('name', ['67a3c6ac', '1b60fb0c'])
def test_the_order_is_that_of_its_definition(name, weight):
    "State by state, searched in pieces: without a weight that of cost alone, with one what is nearly the output is gone on from sooner."
    task = load_task(f'arc1/training/{name}')
    prior = np.random.default_rng(0).random(N_OPS) ** 20                # few operations, so that steps are many
    search = Search(task, prior, weight=weight)
    while search.tested < 2_000: search.run(min(333, 2_000 - search.tested))
    programs, bits = searched_by_definition(task, prior, weight, 2_000)
    assert [str(search.program(s)) for s in range(search.states)] == programs
    assert search.state_bits().tolist() == bits
    assert (bits == sorted(bits)) == (weight == 0)


def test_bits_are_what_a_program_costs_whenever_it_comes(tasks):
    "Sums over its steps, and `cheapest_first` goes by them."
    for task in tasks[:8]:
        search = Search(task)
        search.run(PROGRAMS)
        costs = [0]
        for s in range(1, search.states): costs.append(costs[search._memory.parent[s]] + search._costs[search.kinds[search._memory.parent[s]], search._memory.made_by[s]])
        assert (search.state_bits() * UNITS_PER_BIT == costs).all()
        order = search.cheapest_first().numbers
        assert sorted(order) == list(range(search.states)) and order.tolist() == sorted(order.tolist(), key=lambda s: (costs[s], s))
        for c in search.candidates:
            if c.program.steps and c.program.steps[-1].op.name != 'map_colours': assert c.bits in search.state_bits()


def canvas_of(value):
    "Height and width of a grid, mask or objects; None for what has no cells."
    value = value[0] if isinstance(value, tuple) and isinstance(value[0], np.ndarray) else value
    return value.shape if isinstance(value, np.ndarray) else None


def test_what_is_handed_out_is_what_the_executor_gives(tasks):
    "Of all types or some: the cheapest first, those on canvases of the output's size on all demonstrations, and the cells that a grid has wrong."
    sized = grids = 0
    for task in tasks:
        search = Search(task)
        search.run(1_500)
        outputs, everything = [p.output for p in task.demonstrations], search.cheapest_first()
        assert everything.kinds.tolist() == search.kinds[everything.numbers].tolist() and everything.bits.tolist() == search.state_bits()[everything.numbers].tolist()
        for kinds in ([Type.grid], [Type.mask, Type.objects], [Type.boolean]):
            assert search.cheapest_first(*kinds).numbers.tolist() == [s for s in everything.numbers.tolist() if search.kinds[s] in kinds]
        values = {s: run_on_task(search.program(s), task)[:len(outputs)] for s in everything.numbers.tolist()}
        same = [s for s, made in values.items() if [canvas_of(v) for v in made] == [o.shape for o in outputs]]
        assert everything.of_output_size(len(everything)).numbers.tolist() == same and everything.of_output_size(2).numbers.tolist() == same[:2]
        some = search.cheapest_first(Type.grid)
        assert some.wrong().tolist() == [[int((v != o).sum()) if v.shape == o.shape else o.size for v, o in zip(values[s], outputs)] for s in some.numbers.tolist()]
        sized, grids = sized + len(same), grids + len(some)
    assert sized > 100 and grids > 1_000


def test_states_can_be_read_and_not_written(tasks):
    "And a search that was looked at goes on as if it had not been."
    search = Search(tasks[0])
    search.run(2_000)
    states = search.cheapest_first()
    with pytest.raises(ValueError, match='read-only'): states.arena[0] = 1
    states.numbers[:], states.bits[:], states.offsets[:] = 0, 0, 0
    search.run(PROGRAMS - 2_000)
    assert [str(c.program) for c in search.candidates] == [program for program, *_ in outcome(tasks[0])[0]] and len(states) < search.states


@pytest.mark.parametrize('weight', [-1.0, np.nan, np.inf, MAX_WEIGHT + 1])
def test_a_weight_that_is_none_is_an_error(weight):
    with pytest.raises(ValueError, match='weight: bits for each doubling'): Search(load_task('arc1/training/1f85a75f'), weight=weight)


def test_a_prior_changes_the_order_and_nothing_else():
    task = load_task('arc1/training/1f85a75f')
    sure = np.zeros(N_OPS)
    for name in ('objects8', 'pick_max', 'crop'): sure[OP_BY_NAME[name].number] = 1
    uniform, guided, misled = (Search(task, prior=p) for p in (None, sure, np.where(sure, 0, 1.0)))
    for search in (uniform, guided, misled): search.run(60_000)
    assert guided.candidates[0].tested < uniform.candidates[0].tested < 60_000
    assert misled.candidates, 'the floor keeps what a wrong prior thinks impossible'
    with pytest.raises(ValueError, match=f'{N_OPS}'): Search(task, prior=np.ones(3))


def test_costs_are_code_lengths():
    "Kraft: a set of programs is charged at least what a prefix code needs, up to the rounding to half bits and the clip of the dearest."
    instructions = instructions_for(load_task('arc1/training/1f85a75f'))
    for prior in (None, np.random.default_rng(1).random(N_OPS) ** 4):
        costs = instruction_costs(instructions, prior)
        for row in costs[1:6]: assert (2.0 ** (-row[row >= 0] / UNITS_PER_BIT)).sum() < 2 ** (0.5 / UNITS_PER_BIT) * 1.01
    assert 0 < FLOOR < 1


@pytest.mark.parametrize('settings', [{'max_bytes': 0}, {'max_bytes': 10_000}, {'max_bytes': 100_000}, {'max_states': 1}, {'max_states': 2}, {'max_states': 9}, {'max_states': 100}, {'max_candidates': 1}, {'max_candidates': 3}], ids=str)
def test_bounds_hold_and_keep_what_was_found(tasks, settings):
    for task in tasks[:6]:
        search, free = Search(task, **settings), Search(task)
        while search.run(500) and search.tested < 50_000: pass
        free.run(search.tested)
        bounds = {name: parameter.default for name, parameter in signature(Search).parameters.items()} | settings
        room = (len(OPERANDS) + 2) * len(task.demonstrations + task.tests) * VALUE_BYTES                       # for the inputs and what `OPERANDS` make of them, always
        assert search.bytes_used <= max(bounds['max_bytes'], room)
        assert search.states <= bounds['max_states']
        if 'max_candidates' in settings: assert len(search.candidates) <= settings['max_candidates'] + 1         # the input itself is looked at before
        else: assert search.full and search.exhausted
        if search.exhausted: assert not search.run(100), 'a search that met a bound is over'
        expected = [str(c.program) for c in free.candidates]
        assert [str(c.program) for c in search.candidates] == expected[:len(search.candidates)]
        for candidate in search.candidates:
            for pair, answer in zip(task.tests, candidate.answers): assert np.array_equal(run_program(candidate.program, pair.input), answer)


def noise(seed, height, width, colours=10): return np.random.default_rng(seed).integers(0, colours, (height, width)).astype(np.uint8)


def made_up(inputs, program, n_tests):
    pairs = [Pair(grid, output if program is None else run_program(program, grid)) for grid, output in inputs]
    return Task('made-up', tuple(pairs[:-n_tests]), tuple(pairs[-n_tests:]), {})


ADVERSARIAL = {
    '1×1': made_up([(noise(i, 1, 1), noise(i + 9, 1, 1)) for i in range(4)], None, 1),
    '1×1 of one colour': made_up([(np.zeros((1, 1), np.uint8), np.zeros((1, 1), np.uint8))] * 3, None, 1),
    '30×30 noise': made_up([(noise(i, 30, 30), noise(i + 9, 30, 30)) for i in range(5)], None, 1),
    '40×40 noise': made_up([(noise(i, 40, 40), noise(i + 9, 40, 40, 2)) for i in range(6)], None, 2),
    'chessboard of objects': made_up([(np.indices((40, 40)).sum(0).astype(np.uint8) % 2, noise(i, 40, 40)) for i in range(3)], None, 1),
    'one row, one column': made_up([(noise(0, 1, 40), noise(3, 40, 1)), (noise(1, 40, 1), noise(4, 1, 40)), (noise(2, 1, 40), noise(5, 1, 1))], None, 1),
    'one demonstration': made_up([(noise(i, 5, 6), None) for i in range(2)], 'rotate_90 | flip_up_down', 1),
    'ten test inputs': made_up([(noise(i, 3 + i, 4, 3), None) for i in range(12)], 'mirror(right)', 10),
    'other size in the test': made_up([(noise(i, 3, 3), None) for i in range(3)] + [(noise(9, 20, 20), None)], 'tile(2, 2)', 1),
    'contradiction': Task('contradiction', (Pair(noise(0, 3, 3), noise(1, 3, 3)), Pair(noise(0, 3, 3), noise(2, 3, 3))), (Pair(noise(0, 3, 3), None),), {}),
}


@pytest.mark.parametrize('task', ADVERSARIAL.values(), ids=ADVERSARIAL)
def test_adversarial_tasks(task):
    search = Search(task)
    while search.tested < 4_000 and search.run(1_000): pass
    assert search.tested <= 4_000 and search.states <= search.tested + 1
    for candidate in search.candidates:
        for pair in task.demonstrations: assert np.array_equal(run_program(candidate.program, pair.input), pair.output)
        for pair, answer in zip(task.tests, candidate.answers): assert np.array_equal(run_program(candidate.program, pair.input), answer)
    assert outcome(task, 2_000) == outcome(task.hide_test_outputs(), 2_000)


@pytest.mark.parametrize('name', ['one demonstration', 'ten test inputs', 'other size in the test'])
def test_adversarial_tasks_that_have_a_rule_are_solved(name):
    task = ADVERSARIAL[name]
    search = Search(task)
    search.run(20_000)
    assert any(all(np.array_equal(a, p.output) for a, p in zip(c.answers, task.tests)) for c in search.candidates)


def test_contradictory_demonstrations_have_no_program():
    search = Search(ADVERSARIAL['contradiction'])
    search.run(20_000)
    assert not search.candidates


@pytest.mark.parametrize('prior', [np.full(N_OPS, np.nan), np.where(np.arange(N_OPS) == 5, np.nan, 1.0), np.full(N_OPS, -1.0), np.full(N_OPS, np.inf), np.zeros(N_OPS)])
def test_a_prior_that_is_none_is_an_error_and_no_empty_search(prior):
    with pytest.raises(ValueError, match='finite, nowhere negative'): Search(load_task('arc1/training/1f85a75f'), prior)


def test_a_prior_may_say_nothing_of_a_type():
    "Where it has no share for the operations that accept a type, these are equally likely."
    prior = np.zeros(N_OPS)
    prior[OP_BY_NAME['trim'].number] = 1
    search = Search(load_task('arc1/training/1f85a75f'), prior)
    search.run(5_000)
    assert search.tested == 5_000
