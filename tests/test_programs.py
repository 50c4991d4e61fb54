"""Whole programs: the compiled machine against a second executor that walks through them, control by hand, loops that end, a million at random."""
import time

import numpy as np
import pytest
from grids import random_grid
from numba import njit
from programs import random_program
from test_twins import equal, for_twin
from twins.control import Walk, walk_program
from twins.objects import picked

from arc_jepa.compiled import call_kernel, pointer
from arc_jepa.dsl.ops import OPS, op_addresses
from arc_jepa.dsl.program import MAX_ROUNDS, Failure, parse, run_program, run_value
from arc_jepa.dsl.types import (BOOLEAN, COLOUR, DIRECTION, GRID, HEADER, MASK, NUMBER, OBJECT, OBJECTS, OK, POSITION, SIZE, Status, TOO_LONG, Type, VALUE_BYTES, WORK_BYTES, from_grid, value_bytes)
from arc_jepa.generate.rules import Choice, draw_rule, rule_table, workshop
from arc_jepa.generate.scenes import FAMILIES, draw_scene, seed_state


def grid_of(text): return np.array([[int(c) for c in row] for row in text.split()], np.uint8)
def text_of(grid): return ' '.join(''.join(map(str, row)) for row in np.asarray(grid).tolist())


# ---------------------------------------------------------------------------------------------------------------------------------------
# The machine and the walk

WALKED = 3_000                                             # operations after which the walk gives up: the machine may or may not


def compare(program, grid):
    "The machine and the walk agree on whether `program` applies, why not, and what it gives. True if it applies, None if the walk gave up."
    value = run_value(program, from_grid(grid))
    status, result, _ = walk_program(program, grid, WALKED)
    if status is None: return None
    reached = value.status if isinstance(value, Failure) else Status.ok
    where = f'{program} on\n{text_of(grid)}'
    assert reached is status, f'{where}\nmachine: {reached.name}, walk: {status.name}'
    if status is not Status.ok: return False
    assert Type(int(value[0])) is program.gives, where
    assert equal(for_twin(value), result), f'{where}\nmachine:\n{for_twin(value)}\nwalk:\n{result}'
    return True


def random_case(seed):
    rng = np.random.default_rng(seed)
    program = random_program(rng)
    return program, random_grid(rng, *rng.integers(1, (8, 12, 25)[seed % 3], 2), rng.integers(1, 6))


def depth_of(program): return 1 + max((depth_of(p) for s in program.steps for p in s.programs), default=-1)


def test_machine_and_walk_agree_on_random_programs():
    "12,000 programs, most of them with programs inside; each prints, and parses back to itself."
    applied = given_up = nested = deepest = 0
    for seed in range(12_000):
        program, grid = random_case(seed)
        assert parse(str(program)) == program and str(parse(str(program))) == str(program)
        agreed = compare(program, grid)
        applied, given_up, nested, deepest = applied + bool(agreed), given_up + (agreed is None), nested + (depth_of(program) > 0), max(deepest, depth_of(program))
    print(f'{applied} of 12,000 applied, {nested} have programs in them (down to depth {deepest}), {given_up} too long to walk through')
    assert applied > 4_000 and nested > 6_000 and deepest >= 4 and given_up < 12


class Wrong:
    "Executors that do not do what the documentation says."
    def if_(self, grid, names, predicate, then, otherwise): return self.body(then if self.body(predicate, grid, names) else otherwise, grid, names)        # no answer is a failure
    def repeat_(self, grid, names, transform): return self.body(transform, grid, names)
    def map_(self, value, names, transform): return np.where(value[1] > 0, 0, value[0])
    def largest_by_(self, value, names, measurement, sign=1): return picked(value, 0)
    def fold_(self, value, names, combination): return self.crops(value)[0]
    def body(self, program, here, names): return self.chain(program, here, names | {'here': names['input']})
    def yes(self, predicate, grid, names): return not self.body(predicate, grid, names)


@pytest.mark.parametrize('name', [name for name in vars(Wrong) if name[0] != '_'])
def test_a_wrong_walk_is_seen(name, monkeypatch):
    monkeypatch.setattr(Walk, name, getattr(Wrong, name))
    with pytest.raises(AssertionError, match='machine'):
        for seed in range(5_000): compare(*random_case(seed))


# ---------------------------------------------------------------------------------------------------------------------------------------
# Control by hand

NA, LONG = 'not applicable', 'too long'
FOUR_WAYS = 'if(has_colour(red), if(has_colour(blue), input, rotate_180), if(has_colour(blue), flip_left_right, input))'
CASES = [
    # if
    ('if(is_square, transpose, rotate_180)', '12 30', '13 20'),
    ('if(is_square, transpose, rotate_180)', '120', '021'),
    ('if(colour_at(0:5) | is_colour(red), input, flip_left_right)', '120', '021'),              # a predicate that does not apply counts as no
    ('if(is_square, half(left), input)', '1', NA),                                               # a transform that does not apply is a failure
    ('if(half(left) | is_uniform, half(left), half(right))', '1123', '11'),                      # each of the three starts from the grid at hand
    (FOUR_WAYS, '021', '021'), (FOUR_WAYS, '023', '320'), (FOUR_WAYS, '013', '310'), (FOUR_WAYS, '034', '034'),
    ('drop(left, 1) | if(is_square, rotate_180, input)', '123', '123'),                          # `input` is the program's input, not what is at hand
    ('if(is_square | both(input | has_colour(red)), trim, rotate_180)', '02 00', '2'),
    ('if(is_square | both(input | has_colour(red)), trim, rotate_180)', '01 00', '00 10'),
    # repeat
    ('repeat(drop(left, 1))', '0123', '3'),
    ('repeat(drop(left, 1))', '3', '3'),                                                         # the first round does not apply
    ('repeat(gravity(down))', '01 00', '00 01'),
    ('repeat(gravity(down))', '00 01', '00 01'),                                                 # the first round changes nothing
    ('repeat(shift(right, wrap))', '12', LONG),
    ('repeat(shift(right, wrap))', '11', '11'),
    ('repeat(drop(up, 1) | drop(left, 1))', '123 456 789 123', '9 3'),                           # a round that fails half-way leaves nothing behind
    ('repeat(if(is_square, rotate_180 | rotate_180, drop(right, 1)))', '1234 5678', '12 56'),
    ('repeat(input | flip_left_right)', '12', '21'),
    ('repeat(repeat(drop(left, 1)) | drop(up, 1))', '12 34 56', '6'),                            # from the second round on the inner one changes nothing
    ('repeat(repeat(shift(right, wrap)))', '12', '12'),                                          # too long inside ends the outer loop, like all that does not apply
    ('if(repeat(shift(right, wrap)) | is_square, trim, flip_left_right)', '12', '21'),
    # map
    ('objects4 | map(flip_left_right)', '1100 1003 0033', '1100 0130 0033'),
    ('objects4 | map(flip_up_down)', '1100 1003 0033', '1000 1133 0003'),
    ('objects4 | map(recolour_all(red))', '1100 1003 0033', '2200 2002 0022'),
    ('objects8 | map(half(left))', '1122 3333', '1020 3300'),
    ('objects8 | map(half(left))', '12', NA),                                                    # all objects have to be transformed
    ('objects4 | map(if(is_uniform, recolour_all(red), flip_left_right))', '110300 100300', '110200 010200'),
    ('objects4 | map(scale(2))', '100 000 002', '110 110 002'),                                  # beyond the box, up to the border
    ('objects4 | map(scale(2))', '120', '122'),                                                  # later objects on top
    ('where(red) | parts4 | map(recolour_all(blue))', '1202', '1101'),
    ('where(red) | parts4 | map(replace(red, black))', '1202', '1000'),
    ('objects4 | pick_only | crop | regions | map(recolour_all(green))', '110 100', '33 30'),
    ('objects4 | map(objects4 | map(recolour_all(red)))', '1103', '2202'),
    ('objects4 | map(replace(blue, input | rarest_colour))', '1103', '3303'),
    ('shapes8 | map(gravity(down))', '120 002 000', '000 122 000'),
    ('shapes8 | map(rotate_180 | under(here))', '110 100', '110 110'),                            # `here` is the crop
    ('if(is_square, here, trim)', '12 30', '12 30'),
    ('repeat(shift(down) | under(here))', '100 000 000', '100 100 100'),                         # what the round began with
    ('objects4 | filter(flip_left_right | same_as(here)) | isolate', '1101 1003', '0001 0003'),
    ('each_line(rows) | fold(beside(here))', '12 30', '1212'),
    # filter
    ('objects4 | filter(is_square) | recolour(red)', '1103 1103', '2203 2203'),
    ('objects4 | filter(is_square) | recolour(red)', '1103', '1102'),
    ('objects4 | filter(is_square) | count', '1003', 2),                                         # all
    ('objects4 | filter(has_colour(red))', '1003', NA),                                          # none
    ('objects4 | filter(half(left) | is_square) | count', '1103333', 1),
    ('objects8 | filter(colour_at(0:2) | is_colour(green)) | recolour(red)', '110333', '110222'),           # no answer is no
    ('objects4 | filter(same_as(input | objects4 | pick_nth(1) | crop)) | erase', '11020 00000 11000', '00020 00000 00000'),
    # largest_by, smallest_by
    ('objects4 | largest_by(count_where(green)) | crop', '110333', '333'),
    ('objects4 | smallest_by(count_where(green)) | crop', '110333', '11'),
    ('objects4 | largest_by(count_where(red)) | crop', '110333', '11'),                          # the first on a tie
    ('objects4 | smallest_by(size_of | width) | recolour(red)', '110330', '220330'),
    ('objects4 | largest_by(count_colours) | crop', '1', '1'),                                   # one object is enough
    ('objects4 | largest_by(half(left) | count_colours)', '1103', NA),                           # all objects have to be measured
    # fold
    ('objects4 | fold(beside(next))', '1103', '113'),
    ('objects4 | fold(beside(next))', '5', '5'),
    ('objects4 | fold(next | beside(flip_left_right))', '1103', '33'),
    ('objects4 | fold(above(next))', '1103', NA),
    ('each_line(rows) | fold(above(next | flip_left_right))', '12 34 56', '12 43 65'),
    ('each_line(rows) | fold(under(next))', '100 020 003', '123'),
    ('each_line(columns) | fold(beside(next | flip_up_down))', '12 34', '14 32'),
    ('each_line(rows) | fold(if(next | has_colour(red), next, input))', '10 20 30', '10 20 30'),
    ('each_line(rows) | fold(if(next | has_colour(red), next, flip_left_right))', '10 20 30', '02'),
    ('each_line(rows) | fold(beside(next | each_line(columns) | fold(next)))', '12 34', '124'),             # the inner fold has its own `next`
    ('each_line(rows) | fold(above(next | each_line(columns) | map(recolour_all(next | commonest_colour))))', '12 34', '12 33'),       # `map` has none
    # computed scalars
    ('recolour_all(input | commonest_colour)', '1123', '1111'),
    ('objects4 | recolour(input | rarest_colour)', '11103', '33303'),
    ('scale(count_colours)', '12', '1122 1122'),
    ('scale(colour_at(0:0) | as_number)', '30', '333000 333000 333000'),
    ('scale(input | count_where(red))', '01', NA),
    ('scale(count_where(red))', text_of(np.full((7, 6), 2)), NA),                                # 42: a number from 0 to 40 is wanted
    ('pad(red, count_colours)', '1', '222 212 222'),
    ('objects4 | having(area, input | colour_at(0:0) | as_number) | recolour(blue)', '20033', '20011'),
    ('resize(size_of | turned)', '12', '1 0'),
    ('size_of | scaled(2) | filled(red)', '12', '2222 2222'),
    ('crop_at(first_where(red), 1x2)', '0023', '23'),
    ('objects4 | pick_nth(1) | move_to(input | first_where(black))', '1101', '0011'),
    ('shift(objects4 | pick_nth(1) | side_of, cut)', '000 010 000', '010 000 000'),
    ('ray(first_where(red) | direction_to(2:2))', '200 000 000', '200 020 002'),
    ('half(first_where(red) | direction_to(2:2))', '200 000 000', NA),                           # a half lies in one of four directions
    ('objects8 | pick_max(area) | surround(input | rarest_colour, 8)', '000 020 100', '111 121 111'),
    ('objects8 | surround(input | colour_at(0:0), 8)', '000 020 000', NA),                       # nobody surrounds in black
    ('outline(colour_at(0:1), 4)', '002 000', '002 000'), ('fill_holes(input | commonest_colour)', '111 101 111', '111 111 111'),
]


@pytest.mark.parametrize('text, grid, wanted', CASES, ids=[f'{i} {text}' for i, (text, *_) in enumerate(CASES)])
def test_control_by_hand(text, grid, wanted):
    result = run_program(text, grid_of(grid))
    found = result.status.name.replace('_', ' ') if isinstance(result, Failure) else text_of(result) if isinstance(result, np.ndarray) else result
    assert found == wanted
    assert compare(parse(text), grid_of(grid)) is not None


def test_a_failure_names_the_step_inside():
    for text, step in {'objects8 | map(half(left))': 'half(left)', 'recolour_all(colour_at(9:9))': 'colour_at(9:9)', 'if(is_square, half(left), input)': 'half(left)', 'repeat(half(left)) | half(up)': 'half(up)'}.items():
        failure = run_program(text, grid_of('1'))
        assert isinstance(failure, Failure) and str(failure.step) == step


# ---------------------------------------------------------------------------------------------------------------------------------------
# Loops in loops

def many_objects():
    "30×30 with 225 objects of one cell, of many colours."
    grid = np.zeros((30, 30), np.uint8)
    grid[::2, ::2] = 1 + np.arange(225).reshape(15, 15) * 7 % 9
    return grid


LOOPS = {'repeat(repeat(shift(right, wrap)))': Status.ok,
         'repeat(if(repeat(shift(up, wrap)) | is_square, input, shift(left, wrap)))': Status.too_long,
         'objects4 | map(repeat(objects4 | map(repeat(if(has_colour(red), replace(red, blue), replace(blue, red))))))': Status.too_long,
         'repeat(objects4 | map(repeat(input | objects4 | map(flip_up_down) | shift(up, wrap))) | shift(right, wrap))': Status.too_long,
         'objects4 | map(input | objects4 | map(input | objects4 | map(recolour_all(red))))': Status.too_long,
         'objects4 | filter(input | objects4 | filter(input | objects4 | sort_objects(alike) | count | more_than(3)) | count | is_even) | isolate': Status.too_long,
         'objects4 | fold(input | objects4 | fold(input | objects4 | fold(under(next))))': Status.too_long,
         'objects4 | largest_by(input | objects4 | smallest_by(input | objects4 | largest_by(count_colours) | value_of(top)) | value_of(top)) | crop': Status.too_long,
         'each_line(rows) | map(repeat(if(input | objects4 | keep_max(alike) | count | is_even, shift(left, wrap), shift(left, wrap))))': Status.too_long,
         'repeat(objects4 | map(if(has_colour(red), replace(red, blue), input | objects4 | pick_nth(1) | crop)))': Status.ok,
         'each_line(rows) | map(each_line(columns) | fold(beside(next)))': Status.ok}


@pytest.mark.parametrize('text', LOOPS)
def test_loops_in_loops_end(text):
    "Within a second of computing, with a value or because it takes too long."
    program, value = parse(text), from_grid(many_objects())
    run_value(parse('objects4 | map(input)'), value)                                                    # compiled by now
    started = time.process_time()
    result = run_value(program, value)
    assert time.process_time() - started < 1
    assert (result.status if isinstance(result, Failure) else Status.ok) is LOOPS[text]


def test_bounds_of_loops():
    "40 rounds that change something are allowed, 41 are not; 900 objects in objects are not too many."
    assert MAX_ROUNDS == 40
    for width, rounds in ((39, 40), (40, 41)):
        result = run_program('repeat(if(size_of | width | more_than(1), drop(left, 1), drop(up, 1)))', np.ones((3, width), int))
        assert text_of(result) == '1' if rounds <= MAX_ROUNDS else result.status is Status.too_long
    assert (run_program('each_line(rows) | map(each_line(columns) | map(recolour_all(red)))', np.ones((30, 30), int)) == 2).all()


# ---------------------------------------------------------------------------------------------------------------------------------------
# A million

EDGE, CANARY = 64, 0xA5
GENERATED = [op for op in OPS if all(p.searched for p in op.scalars) and not op.operand and not op.is_control]      # what a flat chain of literals is made of


@njit
def whole(value, kind):
    "Is this a whole value of type `kind`: header, sizes, colours, labels, zeros behind the end? (0: yes, else which check failed)"
    if value[0] != kind: return 1
    height, width, n = np.int64(value[1]), np.int64(value[2]), np.int64(value[3])
    if kind == COLOUR or kind == NUMBER or kind == BOOLEAN or kind == SIZE or kind == POSITION or kind == DIRECTION:
        if height or width or n or value[6] or value[7]: return 2
        number = value[4] + 256 * np.int64(value[5])
        if (kind == COLOUR and number > 9) or (kind == BOOLEAN and number > 1) or (kind == DIRECTION and number > 7): return 3
        if (kind == SIZE or kind == POSITION) and number >= 64 * 64: return 3
        return 3 if kind == SIZE and (number < 64 or number % 64 == 0) else 0
    if height < 1 or width < 1 or height > 40 or width > 40 or value[4] or value[5] or value[6] or value[7]: return 4
    cells, end = height * width, HEADER + height * width
    for i in range(HEADER, end):
        if value[i] > 9: return 5
    if kind == GRID:
        if n: return 6
    else:
        seen, end = np.zeros(256, np.uint8), end + cells
        if n == 0 or (kind != OBJECTS and n != 1): return 6
        for i in range(HEADER + cells, end): seen[value[i]] = 1
        for label in range(1, 256):
            if seen[label] != (label <= n): return 7
    for i in range(end, value_bytes(value)):
        if value[i]: return 8
    return 0


@njit
def intact(buffer):
    for i in range(EDGE):
        if buffer[i] != CANARY or buffer[len(buffer) - 1 - i] != CANARY: return False
    return True


@njit
def run_many(seed, first, last, table, frames, addresses, grids, buffers, work, tried, applied, at_fault):
    """Sample rules number `first` … `last` and run each on one of `grids` (N, EDGE + VALUE_BYTES + EDGE); counts by operation go to `tried` and `applied`.

    Returns how many rules applied, or −1 with (rule, step, operation, check) in `at_fault`: 9 a status that is none, 10 bytes changed outside."""
    state, rule, finished = np.zeros(1, np.uint64), np.zeros((12, 4), np.int64), 0
    for index in range(first, last):
        seed_state(state, seed, index)
        if not draw_rule(state, 1 + index % 6, table, frames, rule): return -1
        source, kind, step = grids[index % len(grids)], GRID, 0
        while step < 6 and rule[step, 0]:
            op, target = rule[step, 0], buffers[step % 2]
            tried[op] += 1
            status = call_kernel(addresses[op], pointer(source, EDGE), pointer(source, EDGE), pointer(target, EDGE), pointer(work, EDGE), max(rule[step, 1], 0), max(rule[step, 2], 0))
            fault = 0 if 0 <= status <= TOO_LONG else 9
            if not (intact(source) and intact(target) and intact(work)): fault = 10
            if fault == 0 and status == OK: fault = whole(target[EDGE:len(target) - EDGE], np.int64(table.gives[op]))
            if fault:
                at_fault[0], at_fault[1], at_fault[2], at_fault[3] = index, step, op, fault
                return -1
            if status != OK: break
            applied[op] += 1
            source = target
            step += 1
        else: finished += 1
    return finished


def guarded(value=None, size=VALUE_BYTES):
    buffer = np.full(EDGE + size + EDGE, CANARY, np.uint8)
    if value is not None: buffer[EDGE:EDGE + len(value)] = value
    return buffer


def many_grids(n):
    "Random grids and generated scenes of all kinds, most of them small, a few as large as can be."
    rng, state, scene = np.random.default_rng(0), np.zeros(1, np.uint64), np.zeros(VALUE_BYTES, np.uint8)
    for index in range(n):
        if index % 2: yield from_grid(random_grid(rng, *(rng.integers(1, 41, 2) if index % 20 == 1 else rng.integers(1, 15, 2)), rng.integers(1, 11)))
        else:
            seed_state(state, 5, index)
            draw_scene(state, index // 2 % len(FAMILIES), 3, 14, rng.permutation(np.arange(1, 10)), 4, scene)
            yield scene[:value_bytes(scene)].copy()


@pytest.mark.slow
def test_one_million_random_programs():
    "950,000 flat programs in compiled code, with every value between canaries and checked, and 50,000 with programs in them on the machine."
    started, grids = time.perf_counter(), list(many_grids(1_000))
    sources, buffers, work = np.array([guarded(grid) for grid in grids]), np.array([guarded(), guarded()]), guarded(size=WORK_BYTES)
    tried, applied, at_fault = np.zeros(len(OPS) + 1, np.int64), np.zeros(len(OPS) + 1, np.int64), np.zeros(4, np.int64)
    table, frames, flat = rule_table(Choice()), workshop().drawn, 0
    for first, last, kinds in ((0, 500_000, table), (500_000, 950_000, table._replace(reach=np.full_like(table.reach, -1)))):           # to a grid; to a value of any type
        finished = run_many(7, first, last, kinds, frames, op_addresses(), sources, buffers, work, tried, applied, at_fault)
        index, step, op, fault = at_fault
        assert finished >= 0, f'rule {index} on grid {index % len(grids)}, step {step + 1}, {OPS[op - 1].name}: check {fault}'
        flat += finished
    assert [op.name for op in GENERATED if not applied[op.number]] == []
    between = time.perf_counter()
    nested = 0
    for index in range(50_000):
        program = random_program(np.random.default_rng(1_000_000 + index))
        result = run_value(program, grids[index % len(grids)])
        if isinstance(result, Failure): assert result.status is not Status.ok
        else:
            assert whole(result, int(program.gives)) == 0, f'{program} on grid {index % len(grids)}'
            nested += 1
    ended = time.perf_counter()
    print(f'flat: {flat:,} of 950,000 applied ({applied.sum():,} of {tried.sum():,} steps) in {between - started:.0f} s; nested: {nested:,} of 50,000 in {ended - between:.0f} s')
    assert flat > 250_000 and nested > 12_000


def test_the_checks_of_the_million_see_mistakes():
    good = np.zeros(VALUE_BYTES, np.uint8)
    good[:HEADER + 24] = run_value(parse('objects4'), from_grid(grid_of('1100 1003 0033')))[:HEADER + 24]
    assert whole(good, OBJECTS) == 0 and whole(good, MASK) == 1 and whole(good, OBJECT) == 1
    for at, byte, fault in [(1, 41, 4), (1, 0, 4), (5, 1, 4), (HEADER, 10, 5), (3, 0, 6), (3, 3, 7), (3, 1, 7), (HEADER + 12, 3, 7)]:
        bad = good.copy()
        bad[at] = byte
        assert whole(bad, OBJECTS) == fault
    grid = np.zeros(VALUE_BYTES, np.uint8)
    grid[:16] = from_grid(grid_of('123'))
    grid[15] = 1
    assert whole(grid, GRID) == 8
    for kind, number, fault in [(COLOUR, 9, 0), (COLOUR, 10, 3), (BOOLEAN, 2, 3), (DIRECTION, 8, 3), (SIZE, 64, 3), (SIZE, 65, 0), (POSITION, 64, 0), (NUMBER, 255, 0)]:
        assert whole(np.array([kind, 0, 0, 0, number, 0, 0, 0], np.uint8), kind) == fault
    assert whole(np.array([POSITION, 0, 0, 0, 0, 16, 0, 0], np.uint8), POSITION) == 3 and whole(np.array([NUMBER, 1, 0, 0, 0, 0, 0, 0], np.uint8), NUMBER) == 2
    for at in (0, EDGE - 1, -1, -EDGE):
        buffer = guarded()
        assert intact(buffer)
        buffer[at] ^= 1
        assert not intact(buffer)
