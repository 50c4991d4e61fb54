"""The compiled operations against their twins in plain Python: does each do what its documentation says?"""
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from twins import TWINS
from values import APPLIED, canvas, draw_call

from arc_jepa.compiled import call_kernel, jit, pointer
from arc_jepa.dsl.ops import OP_BY_NAME, PackedPair, op_addresses
from arc_jepa.dsl.program import Program, parse, run_value
from arc_jepa.dsl.types import DIRECTIONS, MAX_OBJECTS, Status, Type, VALUE_BYTES, WORK_BYTES, from_grid, to_python
from arc_jepa.grid import MAX_SIDE

WORK, MAX_EXAMPLES = np.empty(WORK_BYTES, np.uint8), 50


@jit
def call(address, value, other, target, work, a, b): return call_kernel(address, pointer(value, 0), pointer(other, 0), pointer(target, 0), pointer(work, 0), a, b)


def run(op, value, other, arguments):
    "The compiled kernel's status and the flat value that it writes."
    target = np.empty(VALUE_BYTES, np.uint8)
    a, b = (*arguments, 0, 0)[:2]
    return Status(call(op_addresses()[op.number], value, other, target, WORK, a, b)), target


def for_twin(value):
    "A flat value in the form that twins take: as `to_python` gives it, but a mask with its canvas and a direction as a number."
    kind, plain = Type(int(value[0])), to_python(value)
    if kind is Type.mask: return canvas(value).copy(), plain
    return DIRECTIONS.index(plain) if kind is Type.direction else plain


def as_twin_takes(parameter, argument):
    "A scalar argument as twins take it."
    if isinstance(parameter, PackedPair): return divmod(argument, 64)
    return bool(argument) if parameter.type is Type.boolean else argument


def expected(op, value, other, arguments):
    "Status and result of the twin; what a value cannot hold fails like in a kernel."
    result = TWINS[op.name](for_twin(value), *map(as_twin_takes, op.scalars, arguments), *([for_twin(other)] if op.operand else []))
    if result is None or isinstance(result, Status): return Status.not_applicable if result is None else result, None
    if op.gives in (Type.number, Type.colour, Type.boolean, Type.direction): return (Status.ok, result) if 0 <= result <= 65_535 else (Status.not_applicable, None)
    if op.gives in (Type.size, Type.position): return (Status.ok, tuple(result)) if all(0 <= n <= 63 for n in result) else (Status.not_applicable, None)
    cells, labels = result if isinstance(result, tuple) else (result, None)
    if not cells.size or (labels is not None and not labels.any()): return Status.not_applicable, None
    if max(cells.shape) > MAX_SIDE: return Status.too_large, None
    if labels is not None and labels.max() > MAX_OBJECTS: return Status.too_many_objects, None
    return Status.ok, result


def equal(one, two):
    if isinstance(one, tuple): return isinstance(two, tuple) and all(map(equal, one, two))
    return np.array_equal(one, two)


def check(op, value, other, arguments):
    "Compiled kernel and twin agree on whether the operation applies and on its result."
    status, target = run(op, value, other, arguments)
    should, result = expected(op, value, other, arguments)
    where = f'{op.name}({", ".join(p.text(a) for p, a in zip(op.scalars, arguments))}) of\n{for_twin(value)}' + f'\nwith\n{for_twin(other)}' * bool(op.operand)
    assert status is should, f'{where}\ncompiled: {status.name}, twin: {should.name}'
    assert status is not Status.ok or equal(for_twin(target), result), f'{where}\ncompiled:\n{for_twin(target)}\ntwin:\n{result}'


# ---------------------------------------------------------------------------------------------------------------------------------------
# Random examples

def made(op, value, other, arguments):
    "The value that the compiled operation makes, or None."
    status, target = run(op, value, other, arguments)
    return target if status is Status.ok else None


def calls(op, seed, height, width, n_colours): return draw_call(op, np.random.default_rng(seed), height, width, n_colours, made)


SIDES = st.one_of(st.integers(1, 8), st.integers(1, 30), st.sampled_from([1, 30, 40]))


@pytest.mark.parametrize('op', [op for op in APPLIED if op.name in TWINS], ids=lambda op: op.name)
@settings(max_examples=MAX_EXAMPLES, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2 ** 32), height=SIDES, width=SIDES, n_colours=st.integers(1, 10))
def test_compiled_operation_and_twin_agree(op, seed, height, width, n_colours):
    for value, other, arguments in calls(op, seed, height, width, n_colours): check(op, value, other, arguments)


def test_every_operation_has_a_twin(): assert [op.name for op in APPLIED if op.name not in TWINS] == []


def test_every_twin_has_an_operation(): assert set(TWINS) <= {op.name for op in APPLIED}


def test_every_operation_applies_to_some_examples():
    def applies(op, seed): return any(run(op, *call)[0] is Status.ok for call in calls(op, seed, 1 + seed % 9, 1 + seed % 7, 1 + seed % 4))
    assert [op.name for op in APPLIED if not any(applies(op, seed) for seed in range(200))] == []


# ---------------------------------------------------------------------------------------------------------------------------------------
# The test of the test

RIGHT = dict(TWINS)
WRONG = {'rotate_90': RIGHT['flip_up_down'], 'shift': lambda g, direction, wrap: RIGHT['shift'](g, direction, 1), 'trim': lambda g, common: RIGHT['trim'](g, 0), 'scale': lambda g, k: g,
         'objects4': RIGHT['objects8'], 'pick_max': RIGHT['pick_min'], 'keep_min': lambda v, number: v, 'commonest_colour': RIGHT['rarest_colour'], 'count': lambda v: RIGHT['count'](v) + 1,
         'under': lambda g, other: other, 'where_alone': RIGHT['where_open'], 'rim_of': RIGHT['cells_of'], 'grow': lambda v, connectivity: RIGHT['grow'](v, 8), 'subtract': RIGHT['intersect'], 'parts4': RIGHT['parts8'],
         'size_of': lambda v: RIGHT['size_of'](v)[::-1], 'crop_at': lambda g, position, size: RIGHT['crop_at'](g, (0, 0), size), 'go': lambda position, direction, k: RIGHT['go'](position, direction, 1),
         'direction_to': lambda position, other: RIGHT['opposite'](RIGHT['direction_to'](position, other) or 0), 'both': RIGHT['either'], 'minus': lambda n, k: abs(n - k), 'fill_holes': lambda g, colour: None, 'tile': lambda g, down, right: None if g.size > 50 else RIGHT['tile'](g, down, right)}


@pytest.mark.parametrize('name', WRONG)
def test_a_wrong_twin_is_seen(name, monkeypatch):
    op, examples = OP_BY_NAME[name], [call for seed in range(40) for call in calls(OP_BY_NAME[name], seed, 1 + seed % 9, 1 + seed % 7, 3)]
    for call in examples: check(op, *call)
    monkeypatch.setitem(TWINS, name, WRONG[name])
    with pytest.raises(AssertionError, match='compiled'):
        for call in examples: check(op, *call)


# ---------------------------------------------------------------------------------------------------------------------------------------
# Where kernel and documentation once differed

def step(text, grid):
    "The last operation of a program with what comes before it done: operation, value, other, arguments."
    *before, last = parse(text).steps
    value = run_value(Program(tuple(before)), from_grid(grid))
    return last.op, value, value, last.arguments


SETTLED = {'split(rows, 0)': [[4]], 'objects8 | pick_nth(0)': [[1]], 'cells': [[7, 2, 0, 2]], 'objects8 | one_cell_each(all)': [[7, 4, 4], [7, 7, 4], [7, 4, 7], [4, 7, 4]], 'objects8 | one_cell_each': [[0, 4]], 'flood(black)': [[0, 1]], 'drop_lines': [[1], [2]],
           'objects8 | overlay': [[0, 4]], 'blocks(2)': [[1, 2], [3, 4]], 'repair_symmetry(black)': [[0, 1], [0, 0]]}


@pytest.mark.parametrize('text', SETTLED)
def test_settled_disagreement(text): check(*step(text, np.array(SETTLED[text], np.uint8)))
