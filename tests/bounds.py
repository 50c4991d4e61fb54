"""One million random programs with numba's bounds checks: `make bounds`, after a change of a kernel (about five minutes, most of them to compile).

The kernels work on raw pointers, which nothing checks. Here the same source is compiled for arrays instead, with bounds checks, in a cache of its own: every value that a kernel reads ends where its
array ends, so reading one byte behind it is an IndexError, and so is a byte behind the target or the scratch memory.
"""
import os
import sys
import tempfile

os.environ['NUMBA_BOUNDSCHECK'] = '1'
os.environ['NUMBA_CACHE_DIR'] = CACHE = tempfile.mkdtemp(prefix='bounds-')

import shutil
import time

import numba
import numpy as np
from tqdm import tqdm

from arc_jepa.dsl.ops import OPS
from arc_jepa.dsl.types import OK, VALUE_BYTES, WORK_BYTES, from_grid, value_bytes
from arc_jepa.generate.generator import rule_table, sample_rule
from arc_jepa.generate.scenes import seed_state
from grids import random_grid

PROGRAMS = 1_000_000


def checked():
    "Every kernel, compiled for arrays with bounds checks, by operation number."
    assert numba.config.BOUNDSCHECK == 1
    return {op.number: numba.njit(op.kernel) for op in OPS if not op.is_control}


def second_values(grids):
    "For each grid a second one, sometimes of another size, for the operations that take two."
    return [grids[(i * 7 + 3) % len(grids)] if i % 3 == 0 else from_grid(np.ascontiguousarray(np.rot90(g[8:8 + int(g[1]) * int(g[2])].reshape(g[1], g[2]), 2))) for i, g in enumerate(grids)]


def main():
    kernels, table, state, rule, rng = checked(), rule_table(None), np.zeros(1, np.uint64), np.zeros((6, 3), np.int64), np.random.default_rng(0)
    grids = [from_grid(random_grid(rng, *rng.integers(1, 31 if i % 10 else 41, 2), rng.integers(1, 11))) for i in range(2_000)]
    seconds, target, work = second_values(grids), np.empty(VALUE_BYTES, np.uint8), np.empty(WORK_BYTES, np.uint8)
    with_second = [op for op in OPS if op.operand and not op.is_control]
    calls = np.zeros(len(OPS) + 1, np.int64)
    for index in tqdm(range(PROGRAMS), desc='programs', mininterval=1):
        seed_state(state, 11, index)
        sample_rule(state, 1 + index % 6, table, rule)
        value, number = grids[index % len(grids)], 0
        for number, a, b in rule.tolist():
            if number == 0: break
            if index % 8 == 0:                                  # in between: an operation of two values on what there is, and scalars out of the usual range
                op = with_second[index // 8 % len(with_second)]
                other = seconds[index % len(grids)] if op.operand.type.name == 'grid' else value
                if int(value[0]) in op.takes and (op.operand.type.name == 'grid' or int(value[0]) in op.operand.accepts):
                    kernels[op.number](value, other, target, work, int(rng.integers(10)), 0)
                    calls[op.number] += 1
            scalars = OPS[number - 1].scalars
            if index % 5 == 0: a, b = ([int(rng.integers(p.lowest, min(p.highest, 4095) + 1)) for p in scalars] + [0, 0])[:2]
            status = kernels[number](value, value, target, work, max(a, 0), max(b, 0))
            calls[number] += 1
            if status != OK: break
            value = target[:value_bytes(target)].copy()
    never = [op.name for op in OPS if not op.is_control and not calls[op.number]]
    print(f'{PROGRAMS:,} programs, {calls.sum():,} kernel calls inside their bounds, in {time.process_time():.0f} CPU-s' + (f'; never called: {", ".join(never)}' if never else ''))


if __name__ == '__main__':
    try: main()
    finally: shutil.rmtree(CACHE, ignore_errors=True)
