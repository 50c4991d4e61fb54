"""Random well-typed programs with programs in them, for the tests of the language: control, second values, computed scalars."""
from functools import lru_cache

from arc_jepa.dsl.ops import Body, ColourMap, OPS, Operand, PackedPair
from arc_jepa.dsl.program import Program, Step
from arc_jepa.dsl.types import Type

MAX_DEPTH, COMPUTED, CONTROL = 4, 0.25, 0.25        # programs in programs; chance of a computed scalar, and of control where it fits


@lru_cache(maxsize=None)
def reaching(goal, steps):
    "Types from which a chain of so many steps can give one of the types `goal`."
    return frozenset(goal) if steps == 0 else frozenset(t for op in OPS if op.gives in reaching(goal, steps - 1) for t in op.takes)


@lru_cache(maxsize=None)
def fitting(kind, goal, steps, control):
    "Operations that take `kind` and after which `steps` more can give `goal`."
    return [op for op in OPS if op.is_control == control and kind in op.takes and op.gives in reaching(goal, steps)]


def random_literal(parameter, rng):
    "Any value that a person may write, those that the solver would try more often than others."
    if isinstance(parameter, ColourMap): return sum((9 - c if c < 2 else int(rng.integers(10))) << 4 * c for c in range(10))         # some colour changes
    if isinstance(parameter, PackedPair):
        last = 8 if rng.random() < 0.8 else parameter.last
        return 64 * int(rng.integers(parameter.first, last + 1)) + int(rng.integers(parameter.first, last + 1))
    return int(rng.choice(parameter.searched if parameter.searched and rng.random() < 0.8 else [v for v, name in enumerate(parameter.names) if name]))


def random_argument(parameter, kind, rng, depth, starts):
    if isinstance(parameter, Operand): return random_program(rng, kind, parameter.accepts, depth + 1, starts)
    if isinstance(parameter, Body): return random_program(rng, Type.grid, (parameter.gives,), depth + 1, starts + ('here', 'next')[:1 + parameter.has_next])
    if parameter.type and depth < MAX_DEPTH and rng.random() < COMPUTED: return random_program(rng, kind, (parameter.type,), depth + 1, starts)
    return random_literal(parameter, rng)


def random_program(rng, kind=Type.grid, goal=tuple(Type), depth=0, starts=('input',)):
    "A chain of up to four steps (fewer inside of others) from `kind` to one of the types `goal`; below depth `MAX_DEPTH` only programs whose arguments need no program."
    start, longest = '', 4 if depth == 0 else 2
    if depth and rng.random() < 0.45: start, kind = starts[-1 - int(rng.integers(min(len(starts), 3)))], Type.grid       # the innermost ones more often
    lengths = [n for n in range(0 if start else 1, longest + 1) if kind in reaching(goal, n)]
    while not lengths:                                                         # a mask from a number takes a detour
        longest += 1
        lengths = [n for n in range(longest + 1) if n and kind in reaching(goal, n)]
    steps = []
    for left in reversed(range(int(rng.choice(lengths)))):
        plain, control = fitting(kind, goal, left, False), fitting(kind, goal, left, True)
        if depth >= MAX_DEPTH: plain, control = [op for op in plain if not op.operand], []
        choices = control if control and (not plain or rng.random() < CONTROL) else plain
        op = choices[rng.integers(len(choices))]
        steps.append(Step(op, tuple(random_argument(p, kind, rng, depth, starts) for p in op.parameters)))
        kind = op.gives
    return Program(tuple(steps), start)
