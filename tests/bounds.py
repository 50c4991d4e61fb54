"""One million random programs with numba's bounds checks: `make bounds`, after a change of a kernel (about two minutes, most of them to compile).

The kernels work on raw pointers, which nothing checks. Here the same source is compiled for arrays instead, with bounds checks, in a cache of its own: every value that a kernel reads ends where its
array ends, so reading one byte behind it is an IndexError, and so is a byte behind the target or the scratch memory.
"""
import os
import tempfile

os.environ['NUMBA_BOUNDSCHECK'] = '1'
os.environ['NUMBA_CACHE_DIR'] = CACHE = tempfile.mkdtemp(prefix='bounds-')

import shutil
import time

import numba
import numpy as np
from tqdm import tqdm

from arc_jepa.dsl.ops import OP_BY_NAME, OPS
from arc_jepa.dsl.program import ARRAY_SHAPE
from arc_jepa.dsl.types import OK, Type, VALUE_BYTES, WORK_BYTES, from_grid, value_bytes
from arc_jepa.generate.rules import Choice, draw_rule, rule_table, workshop
from arc_jepa.generate.scenes import seed_state
from grids import random_grid

PROGRAMS = 1_000_000


def checked():
    "Every kernel, compiled for arrays with bounds checks, by operation number."
    assert numba.config.BOUNDSCHECK == 1
    return {op.number: numba.njit(op.kernel) for op in OPS if not op.is_control}


def main():
    kernels, table, frames, state, rule, rng = checked(), rule_table(Choice()), workshop().drawn, np.zeros(1, np.uint64), np.zeros(ARRAY_SHAPE, np.int64), np.random.default_rng(0)
    grids = [from_grid(random_grid(rng, *rng.integers(1, 31 if i % 10 else 41, 2), rng.integers(1, 11))) for i in range(2_000)]
    target, work, calls = np.empty(VALUE_BYTES, np.uint8), np.empty(WORK_BYTES, np.uint8), np.zeros(len(OPS) + 1, np.int64)
    met = np.zeros(len(OPS) + 1, np.int64)                 # second values on a canvas of another size
    by_type = {kind: [op for op in OPS if kind in op.takes and not op.is_control] for kind in Type}

    def call(op, value, other, a, b):
        "The result as an array that ends where the value ends, or None."
        calls[op.number] += 1
        return target[:value_bytes(target)].copy() if kernels[op.number](value, other, target, work, a, b) == OK else None

    def second(operand, value, grid):
        "A second value: the first one where its type fits (one time in three), else one that an operation makes of another grid, which is often of another size."
        if int(value[0]) in operand.accepts and rng.random() < 1 / 3: return value
        if operand.type is Type.grid: return grid
        return call(OP_BY_NAME['objects8' if operand.type is Type.objects else 'where_not'], grid, grid, 0, 0)

    def call_any(value, grid):
        "Any operation that takes the value, with any scalars that a computed argument may have, and a second value that a program may have made."
        ops = by_type[Type(int(value[0]))]
        op = ops[rng.integers(len(ops))]
        other = value if op.operand is None else second(op.operand, value, grid)
        if other is None: return None
        met[op.number] += op.operand is not None and (other[1] != value[1] or other[2] != value[2])
        a, b = ([int(rng.integers(p.lowest, min(p.highest, 64 * 64 - 1) + 1)) for p in op.scalars] + [0, 0])[:2]
        return call(op, value, other, a, b)

    for index in tqdm(range(PROGRAMS), desc='programs', mininterval=1):
        seed_state(state, 11, index)
        assert draw_rule(state, 1 + index % 6, table, frames, rule)
        value = grids[index % len(grids)]
        for number, a, b, _ in rule.tolist():
            if number == 0: break
            if index % 4 == 0:                                  # a side way of a few steps
                side = value
                for _ in range(3):
                    side = call_any(side, grids[(index * 7 + 3) % len(grids)])
                    if side is None: break
            value = call(OPS[number - 1], value, value, max(a, 0), max(b, 0))
            if value is None: break
    never = [op.name for op in OPS if not op.is_control and not calls[op.number]]
    assert not never, f'never called: {", ".join(never)}'
    alone = [op.name for op in OPS if op.operand and not op.is_control and not met[op.number]]
    assert not alone, f'never met a second value of another size: {", ".join(alone)}'
    print(f'{PROGRAMS:,} programs, {calls.sum():,} kernel calls inside their bounds, in {time.process_time():.0f} CPU-s')


if __name__ == '__main__':
    try: main()
    finally: shutil.rmtree(CACHE, ignore_errors=True)
