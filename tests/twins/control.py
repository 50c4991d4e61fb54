"""A second executor: it walks through a program step by step as its documentation reads, with the twins of the operations and without code, registers or jumps.

Values are as the twins take them. What does not apply is raised as `Fails`, and each operation of control says who catches it."""
from dataclasses import dataclass, field

import numpy as np

from arc_jepa.dsl.ops import Operand, PackedPair
from arc_jepa.dsl.program import MAX_ROUNDS, Program, Step
from arc_jepa.dsl.types import DIRECTIONS, MAX_OBJECTS, Status, Type
from arc_jepa.grid import MAX_SIDE

from .objects import kept, picked
from .shared import TWINS, box_of, crop_of, masks_of


class Fails(Exception):
    "A step that does not apply, with its status."
    def __init__(self, status): self.status = Status.not_applicable if status is None else status


class Exhausted(Exception):
    "More operations than `Walk.budget`. Nothing catches it."


def held(kind, result):
    "`result`, if a value of this type can hold it."
    if result is None or isinstance(result, Status): raise Fails(result)
    if kind in (Type.size, Type.position): largest, smallest = max(result), min(result)
    elif kind in (Type.number, Type.colour, Type.boolean, Type.direction): largest = smallest = result
    else:
        cells = result if kind is Type.grid else result[0]
        if not cells.size or (kind is not Type.grid and not result[1].any()): raise Fails(Status.not_applicable)
        if max(cells.shape) > MAX_SIDE: raise Fails(Status.too_large)
        if kind is Type.objects and result[1].max() > MAX_OBJECTS: raise Fails(Status.too_many_objects)
        return result
    if smallest < 0 or largest > {Type.size: 63, Type.position: 63, Type.colour: 9, Type.direction: len(DIRECTIONS) - 1}.get(kind, 65_535): raise Fails(Status.not_applicable)
    return result


def admitted(parameter, value):
    "A computed scalar, if the parameter admits it."
    number = 64 * value[0] + value[1] if isinstance(value, tuple) else value
    if not parameter.lowest <= number <= parameter.highest: raise Fails(Status.not_applicable)
    return value


def literal(parameter, value):
    "A scalar argument as twins take it."
    if isinstance(parameter, PackedPair): return divmod(value, 64)
    return bool(value) if parameter.type is Type.boolean else value


@dataclass
class Walk:
    "One run of a program: values of chains, steps and arguments."
    budget: int = 100_000
    operations: int = field(default=0, init=False)

    def chain(self, program: Program, value, names):
        "What `program` makes of `value`; `names` says what `input`, `here` and `next` stand for."
        value = names[program.start] if program.start else value
        for step in program.steps:
            value = getattr(self, step.op.name + '_')(value, names, *step.arguments) if step.op.is_control else self.step(step, value, names)
        return value

    def body(self, program: Program, here, names):
        "What a program inside a control operation makes of the grid that it begins with."
        return self.chain(program, here, names | {'here': here})

    def step(self, step: Step, value, names):
        "An operation on `value`, after its arguments have been computed from left to right."
        arguments = [self.chain(a, value, names) if isinstance(a, Program) else literal(p, a) for p, a in zip(step.op.parameters, step.arguments)]
        for p, a, given in zip(step.op.parameters, arguments, step.arguments):
            if isinstance(given, Program) and not isinstance(p, Operand): admitted(p, a)
        self.operations += 1
        if self.operations > self.budget: raise Exhausted
        return held(step.op.gives, TWINS[step.op.name](value, *arguments))

    def yes(self, predicate, grid, names):
        "Does the predicate give yes? One that does not apply gives none."
        try: return self.body(predicate, grid, names)
        except Fails: return False

    def if_(self, grid, names, predicate, then, otherwise): return self.body(then if self.yes(predicate, grid, names) else otherwise, grid, names)

    def repeat_(self, grid, names, transform):
        "Up to the first round that changes nothing or does not apply; no more than `MAX_ROUNDS` may change something."
        for _ in range(MAX_ROUNDS + 1):
            try: result = self.body(transform, grid, names)
            except Fails: result = grid
            if np.array_equal(result, grid): return grid
            grid = result
        raise Fails(Status.too_long)

    def crops(self, value): return [crop_of(value[0], mask) for mask in masks_of(value)]

    def map_(self, value, names, transform):
        "All objects are taken off the canvas first, then drawn in order, later ones on top. What is larger than its box goes on beyond it, up to the border."
        result = np.where(value[1] > 0, 0, value[0])
        pictures = [self.body(transform, crop, names) for crop in self.crops(value)]
        for mask, picture in zip(masks_of(value), pictures):
            r, c = (side.start for side in box_of(mask))
            part = result[r:r + picture.shape[0], c:c + picture.shape[1]]
            fitting = picture[:part.shape[0], :part.shape[1]]
            part[fitting > 0] = fitting[fitting > 0]
        return result

    def filter_(self, value, names, predicate): return held(Type.objects, kept(value, [self.yes(predicate, crop, names) for crop in self.crops(value)]))

    def largest_by_(self, value, names, measurement, sign=1):
        "The first on a tie; every crop has to be measured."
        measures = [sign * self.body(measurement, crop, names) for crop in self.crops(value)]
        return picked(value, measures.index(max(measures)))

    def smallest_by_(self, value, names, measurement): return self.largest_by_(value, names, measurement, -1)

    def fold_(self, value, names, combination):
        result, *others = self.crops(value)
        for crop in others: result = self.body(combination, result, names | {'next': crop})
        return result


def walk_program(program: Program, grid: np.ndarray, budget: int = 100_000):
    "(status, value or None, number of operations) of a program on a grid; the status is None if it went on beyond `budget` operations."
    walk = Walk(budget)
    try: return Status.ok, walk.chain(program, grid, {'input': grid}), walk.operations
    except Fails as failure: return failure.status, None, walk.operations
    except Exhausted: return None, None, walk.operations
