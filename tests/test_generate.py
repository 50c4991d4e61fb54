"""Generated tasks: the same seed gives the same bytes, labels tell the truth, nothing simpler explains them, bad configs say what is wrong, a killed run goes on."""
import json
import os
import resource
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from arc_jepa.config import ConfigError, config_names, load_config
from arc_jepa.content import content_key, task_keys
from arc_jepa.datasets import DatasetError, load_tasks
from arc_jepa.dsl.ops import OPS, Body, Operand
from arc_jepa.dsl.program import ARRAY_SHAPE, Failure, Program, check, from_array, n_steps, parse, reproduces, run_program, to_array
from arc_jepa.dsl.types import Type
from arc_jepa.generate import corpus
from arc_jepa.generate.corpus import generate, tasks_of
from arc_jepa.generate.generator import ColourConfig, GenerateConfig, GeneratorConfig, GridConfig, PhaseConfig, ProgramConfig, check_curriculum, counterfactuals_of, sample_batch, sample_phase
from arc_jepa.generate.rules import KINDS, MAX_LENGTH, SHORTEST, Choice, draw_rule, rule_table, workshop
from arc_jepa.generate.scenes import seed_state
from arc_jepa.grid import Task, pack

KIND_PHASES = {kind: PhaseConfig(count=40) for kind in KINDS}
CONFIG = GenerateConfig(name='small', seed=7, tests=(1, 2), task_schedule={'phase_i': PhaseConfig(count=700), 'conditional': PhaseConfig(count=25), 'meta_rule': PhaseConfig(count=35)},
                        program=ProgramConfig(length_schedule={'phase_i': {1: 0.5, 2: 0.4, 3: 0.1}}), held_out=9)
FILES = ('manifest.jsonl', 'heldout.jsonl')


def changed(**changes): return CONFIG.model_copy(update=changes)


@pytest.fixture(scope='module')
def written(tmp_path_factory):
    directory = tmp_path_factory.mktemp('written')
    return directory, generate(CONFIG, directory, progress=False)


def same_bytes(first, second, names=FILES): return all((first/name).read_bytes() == (second/name).read_bytes() for name in names)


RUN = ('import sys; from arc_jepa.config import load_config; from arc_jepa.generate.generator import GenerateConfig; from arc_jepa.generate.corpus import generate;'
       'generate(load_config(GenerateConfig, sys.argv[1]), sys.argv[2], workers=int(sys.argv[3]), resume=len(sys.argv) > 4, progress=False)')


def process(config_path, directory, workers, *resume, **settings):
    return subprocess.Popen([sys.executable, '-c', RUN, str(config_path), str(directory), str(workers), *resume], stderr=subprocess.PIPE, text=True, **settings)


# ---------------------------------------------------------------------------------------------------------------------------------------
# The same bytes

@pytest.mark.parametrize('workers', [1, 2])
def test_same_seed_same_bytes_in_another_process(written, tmp_path, workers):
    directory, _ = written
    other = process(directory/'config.yaml', tmp_path/'again', workers, env={**os.environ, 'PYTHONHASHSEED': '5'})
    assert other.wait() == 0 and same_bytes(directory, tmp_path/'again')


def test_another_seed_other_tasks(written, tmp_path):
    generate(changed(seed=8), tmp_path, progress=False)
    assert not same_bytes(written[0], tmp_path)
    keys = [{content_key(task) for task in load_tasks(directory/'manifest.jsonl')} for directory in (written[0], tmp_path)]
    assert not keys[0] & keys[1]


@pytest.mark.parametrize('start, count', [(0, 3), (505, 10), (690, 20), (755, 5)])
def test_a_slice_is_that_part_of_the_manifest(written, tmp_path, start, count):
    summary = generate(CONFIG, tmp_path, start, count, progress=False)
    assert (tmp_path/'manifest.jsonl').read_bytes().splitlines() == (written[0]/'manifest.jsonl').read_bytes().splitlines()[start:start + count]
    assert summary['total_tasks'] == sum(summary['phases'].values()) == count and summary['slice'] == [start, count] and not (tmp_path/'heldout.jsonl').exists()


def test_a_slice_outside_the_manifest_is_refused(tmp_path):
    for start, count in ((760, 1), (-1, 5), (0, 761), (700, 61)):
        with pytest.raises(ValueError, match='the manifest has positions 0 to 759'): generate(CONFIG, tmp_path/'none', start, count, progress=False)
    assert not (tmp_path/'none').exists()


@pytest.mark.parametrize('kind', KINDS)
def test_a_task_depends_on_its_index_alone(kind):
    config = GenerateConfig(task_schedule=KIND_PHASES)
    whole = sample_phase(config, kind, 0, 40)
    for first, n in ((0, 1), (7, 5), (39, 1), (13, 20)):
        some = sample_phase(config, kind, first, n)
        assert (some.programs == whole.programs[first:first + n]).all() and (some.n_pairs == whole.n_pairs[first:first + n]).all()
        assert all(some.pairs(k) == whole.pairs(first + k) for k in range(n))


def test_batches_are_a_function_of_their_number():
    first, again, other = (sample_batch(CONFIG, 3, index, 8, counterfactuals=2) for index in (4, 4, 5))
    assert (first.programs == again.programs).all() and (first.grids.cells == again.grids.cells).all() and (first.counterfactuals.cells == again.counterfactuals.cells).all()
    both = sample_batch(CONFIG, 3, 2, 16, counterfactuals=2)
    assert (both.programs[:8] == first.programs).all() and (both.programs[8:] == other.programs).all()


# ---------------------------------------------------------------------------------------------------------------------------------------
# Tasks that are worth solving

@pytest.fixture(scope='module', params=KINDS)
def of_kind(request): return request.param, tasks_of(GenerateConfig(task_schedule=KIND_PHASES, tests=(1, 2)), request.param, 0, 60)


def inner_programs(program):
    "The program and all those in its arguments."
    yield program
    for step in program.steps:
        for inner in step.programs: yield from inner_programs(inner)


def steps_of(program):
    "All steps, from left to right."
    return [found for step in program.steps for found in [step, *(inner for argument in step.programs for inner in steps_of(argument))]]


def test_labels_tell_the_truth(of_kind):
    kind, tasks = of_kind
    for task in tasks:
        program = parse(task.metadata['program'])
        assert reproduces(program, task) and 3 <= len(task.demonstrations) <= 5 and 1 <= len(task.tests) <= 2
        assert [s['name'] for s in task.metadata['rule_trace']] == [s.op.name for s in steps_of(program)] and task.metadata['kind'] == kind
        names = {step.op.name for step in program.steps}
        structured = any(step.programs for step in program.steps)
        assert {'atomic': len(program) == 1, 'sequential': len(program) > 1 and not structured, 'conditional': 'if' in names, 'recursive': 'repeat' in names, 'meta_rule': structured and not {'if', 'repeat'} & names}[kind]


def without(program, path):
    "The program without the step at `path`: its index, or (index of a step, argument) in front of the path inside."
    steps = list(program.steps)
    if len(path) == 1: del steps[path[0]]
    else:
        step, (i, k) = steps[path[0][0]], path[0]
        arguments = list(step.arguments)
        arguments[k] = without(arguments[k], path[1:])
        if not arguments[k].steps and isinstance(step.op.parameters[k], Body): arguments[k] = Program((), 'here')
        steps[i] = type(step)(step.op, tuple(arguments))
    return Program(tuple(steps), program.start)


def paths(program):
    for i, step in enumerate(program.steps):
        yield (i,)
        for k, argument in enumerate(step.arguments):
            if isinstance(argument, Program):
                for rest in paths(argument): yield ((i, k), *rest)


def test_every_step_matters(of_kind):
    "Told by code that shares nothing with the generator's: leave a step out, check the types, run it on the demonstrations."
    _, tasks = of_kind
    tried = 0
    for task in tasks:
        program, demonstrations = parse(task.metadata['program']), Task('', task.demonstrations, task.tests[:0])
        for path in paths(program):
            try:
                shorter = without(program, path)
                if check(shorter) is not Type.grid: continue
            except ValueError: continue
            if any(not inner.steps and not inner.start for inner in list(inner_programs(shorter))[1:]): continue
            tried += 1
            assert not reproduces(shorter, demonstrations) if len(path) > 1 or program.steps[path[0]].op.name == 'if' else not any(np.array_equal(run_program(shorter, p.input), p.output) for p in task.demonstrations + task.tests), (str(program), str(shorter))
    assert tried >= 60


def test_both_ways_of_a_condition_are_shown():
    for task in tasks_of(GenerateConfig(task_schedule=KIND_PHASES), 'conditional', 0, 60):
        program, demonstrations = parse(task.metadata['program']), Task('', task.demonstrations, ())
        i = next(i for i, step in enumerate(program.steps) if step.op.name == 'if')
        for branch in program.steps[i].arguments[1:]: assert not reproduces(Program(program.steps[:i] + branch.steps + program.steps[i + 1:]), demonstrations), str(program)


def test_repetition_goes_beyond_one_round():
    for task in tasks_of(GenerateConfig(task_schedule=KIND_PHASES), 'recursive', 0, 60):
        program = parse(task.metadata['program'])
        i = next(i for i, step in enumerate(program.steps) if step.op.name == 'repeat')
        assert not reproduces(Program(program.steps[:i] + program.steps[i].arguments[0].steps + program.steps[i + 1:]), Task('', task.demonstrations, ())), str(program)


ONE_STEP = [text for op in OPS if op.gives.name == 'grid' and any(t.name == 'grid' for t in op.takes) and not op.is_control and not op.operand and all(p.searched for p in op.scalars)
            for text in ([op.name] if not op.scalars else [f'{op.name}({op.scalars[0].text(a)})' for a in op.scalars[0].searched] if len(op.scalars) == 1 else
                         [f'{op.name}({op.scalars[0].text(a)}, {op.scalars[1].text(b)})' for a in op.scalars[0].searched for b in op.scalars[1].searched])]


def test_no_program_of_one_step_explains_the_demonstrations_and_not_the_test():
    "Without the check some of these atomic tasks have one: painting what is black is also exchanging two colours, until black is painted on."
    tasks = [task for kind in KINDS for task in tasks_of(GenerateConfig(task_schedule=KIND_PHASES), kind, 0, 300 if kind == 'atomic' else 25)]
    programs = [parse(text) for text in ONE_STEP]
    assert len(programs) > 300
    for task in tasks:
        first, demonstrations = task.demonstrations[0], Task('', task.demonstrations, ())
        for program in programs:
            if not np.array_equal(run_program(program, first.input), first.output) or not reproduces(program, demonstrations): continue
            assert task.metadata['kind'] == 'atomic' and reproduces(program, task), (task.metadata['program'], str(program))


def test_no_other_argument_explains_the_demonstrations_and_not_the_test():
    changed_arguments = 0
    for kind in KINDS:
        for task in tasks_of(GenerateConfig(task_schedule=KIND_PHASES), kind, 0, 25):
            program = parse(task.metadata['program'])
            for i, step in enumerate(program.steps):
                for k, parameter in enumerate(step.op.parameters):
                    if isinstance(parameter, (Operand, Body)) or not parameter.searched: continue
                    for value in parameter.searched:
                        if value == step.arguments[k]: continue
                        other = Program((*program.steps[:i], type(step)(step.op, (*step.arguments[:k], value, *step.arguments[k + 1:])), *program.steps[i + 1:]))
                        changed_arguments += 1
                        if not reproduces(other, Task('', task.demonstrations, ())): continue
                        assert reproduces(other, task) and not isinstance(step.arguments[k], Program), (str(program), str(other))
    assert changed_arguments > 400


def test_counterfactuals_are_other_outputs_of_the_same_input():
    batch = sample_batch(None, seed=11, index=0, n_tasks=24, counterfactuals=4)
    for task in range(24):
        given, truth = batch.grids[task * 8 + 6], batch.grids[task * 8 + 7]
        others = [batch.counterfactuals[task * 4 + k] for k in range(4)]
        assert np.array_equal(run_program(batch.programs[task], given), truth)
        for k, other in enumerate(others): assert np.array_equal(run_program(batch.counterfactual_programs[task, k], given), other)
        assert len({(g.shape, g.tobytes()) for g in [truth, *others]}) == 5


def test_too_few_counterfactuals_are_said():
    grid, program = np.array([[1]], np.uint8), sample_phase(CONFIG, 'phase_i', 0, 1).programs
    with pytest.raises(ValueError, match='input 0: fewer than 5000 other programs'): counterfactuals_of(program, pack([grid]), pack([grid]), 5000)


# ---------------------------------------------------------------------------------------------------------------------------------------
# Different tasks

def test_no_two_tasks_are_the_same_and_none_is_published(written, monkeypatch, tmp_path):
    "Two operations on small grids give duplicates, and a task that is taken for a published one is drawn again."
    few = GenerateConfig(task_schedule={'atomic': PhaseConfig(count=600, primitives=['flip_left_right', 'transpose'])}, grid=GridConfig(max_size=3), demonstrations=(1, 1), colours=ColourConfig(most=2), held_out=20)
    summary = generate(few, tmp_path/'few', progress=False)
    tasks = [*load_tasks(tmp_path/'few/manifest.jsonl'), *load_tasks(tmp_path/'few/heldout.jsonl')]
    assert summary['rejections']['duplicate'] > 20 and len({content_key(task) for task in tasks}) == 620 and [t.metadata['index'] for t in tasks] == list(range(620))
    first = load_tasks(written[0]/'manifest.jsonl')[:700:100]
    monkeypatch.setattr(corpus, 'published_keys', lambda: task_keys(list(first)))
    again = generate(CONFIG, tmp_path/'again', progress=False)
    kept = [a == b for a, b in zip(load_tasks(written[0]/'manifest.jsonl'), load_tasks(tmp_path/'again/manifest.jsonl'))]
    assert again['rejections']['published'] == 7 and [i for i, same in enumerate(kept) if not same] == list(range(0, 700, 100))


def test_an_exhausted_curriculum_says_so(tmp_path):
    none_left = GenerateConfig(task_schedule={'atomic': PhaseConfig(count=400, primitives=['flip_left_right'])}, grid=GridConfig(min_size=2, max_size=3), demonstrations=(1, 1), colours=ColourConfig(fewest=1, most=1))
    with pytest.raises(ValueError, match=r'task_schedule\.atomic: no different task any more at index'): generate(none_left.model_copy(update={'task_schedule': {'atomic': PhaseConfig(count=100_000, primitives=['flip_left_right'])}}), tmp_path, progress=False)


def test_summary_tells_what_is_there(written):
    directory, summary = written
    tasks = load_tasks(directory/'manifest.jsonl')
    assert json.loads((directory/'summary.json').read_text()) == summary
    assert summary['total_tasks'] == len(tasks) == 760 and len(load_tasks(directory/'heldout.jsonl')) == summary['held_out_tasks'] == 9
    assert summary['phases'] == {'phase_i': 700, 'conditional': 25, 'meta_rule': 35}
    lengths = [len(task.metadata['rule_trace']) for task in tasks]
    assert {int(k): v for k, v in summary['program_length_histogram'].items()} == {n: lengths.count(n) for n in set(lengths)}
    names = [step['name'] for task in tasks for step in task.metadata['rule_trace']]
    assert summary['op_histogram'] == {name: names.count(name) for name in set(names)}
    assert all(summary['rejections'][name] > 0 for name in ('no_effect', 'superfluous_step', 'trivial', 'another_argument')) and summary['manifest_bytes'] == (directory/'manifest.jsonl').stat().st_size


# ---------------------------------------------------------------------------------------------------------------------------------------
# What a curriculum asks for

def names_in(programs): return [{step.op.name for step in steps_of(from_array(program))} for program in programs]


def test_hold_out_holds_out():
    "An operation that is held out, by name or with weight 0, occurs in no program, not even in a counterfactual; otherwise it does."
    names = {'flip_left_right', 'objects8', 'recolour', 'map'}
    for rules in (GeneratorConfig(held_out_primitives=sorted(names)), GeneratorConfig(op_weights={name: 0.0 for name in names})):
        batch = sample_batch(GenerateConfig(task_schedule=KIND_PHASES, generator=rules), 0, 0, 400, counterfactuals=4)
        for found in names_in([*batch.programs, *batch.counterfactual_programs.reshape(-1, *batch.programs.shape[1:])]): assert not found & names
    assert names <= set().union(*names_in(sample_batch(GenerateConfig(task_schedule=KIND_PHASES), 0, 0, 1500).programs))


def test_a_structure_that_is_held_out_is_missed():
    for kind, name in (('conditional', 'if'), ('recursive', 'repeat')):
        for rules in (GeneratorConfig(held_out_primitives=[name]), GeneratorConfig(op_weights={name: 0.0})):
            with pytest.raises(ValueError, match=f'make no {kind} program of'): check_curriculum(GenerateConfig(task_schedule={kind: PhaseConfig()}, generator=rules))
    without = GenerateConfig(task_schedule={'meta_rule': PhaseConfig()}, generator=GeneratorConfig(held_out_primitives=['if', 'filter']))
    assert not any(found & {'if', 'filter', 'repeat', 'fold'} for found in names_in(sample_phase(without, 'meta_rule', 0, 300).programs))


@pytest.mark.parametrize('kind', KINDS[1:])
def test_every_rule_is_well_typed(kind):
    "Of all lengths, by the types that the parser checks."
    table, shop, state, rule, found = rule_table(Choice(kind)), workshop(), np.zeros(1, np.uint64), np.zeros(ARRAY_SHAPE, np.int64), 0
    for index in range(8_000):
        seed_state(state, 3, index)
        if not draw_rule(state, SHORTEST[kind] + index % (MAX_LENGTH + 1 - SHORTEST[kind]), table, shop.drawn, rule): continue
        program, found = from_array(rule), found + 1
        assert check(program) is Type.grid and (to_array(program) == rule).all()
    assert found > 500


def test_counterfactuals_keep_out_what_training_holds_out():
    curriculum, (held_out, pairs) = load_config(GenerateConfig, 'pilot_curriculum'), (set(TRAINING.generator.held_out_primitives), set(TRAINING.generator.held_out_compositions))
    batch = sample_batch(curriculum, 4, 0, 250, counterfactuals=4)
    given, truth = (pack([batch.grids[task * 8 + i] for task in range(250)]) for i in (6, 7))
    for programs in (batch.counterfactual_programs, counterfactuals_of(batch.programs, given, truth, 4)[1]):
        programs = programs.reshape(-1, *ARRAY_SHAPE)
        assert not any(found & held_out for found in names_in(programs)) and not any(compositions(p) & pairs for p in programs) and all((to_array(from_array(p)) == p).all() for p in programs)
    with pytest.raises(ValueError, match='input 0: its program has no step'): counterfactuals_of(to_array(parse('input'))[None], pack([given[0]]), pack([given[0]]), 1)


def test_only_named_primitives_occur():
    allowed = ['objects8', 'pick_max', 'crop', 'rotate_90']
    config = GenerateConfig(task_schedule={'p': PhaseConfig(primitives=allowed)}, program=ProgramConfig(length_schedule={'p': {1: .5, 3: .5}}))
    assert set().union(*names_in(sample_phase(config, 'p', 0, 200).programs)) == set(allowed)
    config = GenerateConfig(task_schedule={'p': PhaseConfig()}, generator=GeneratorConfig(allowed_primitives=allowed), program=ProgramConfig(length_schedule={'all': {1: .5, 3: .5}}))
    assert set().union(*names_in(sample_phase(config, 'p', 0, 200).programs)) == set(allowed)


def compositions(program): return {f'{a.op.name} | {b.op.name}' for inner in inner_programs(from_array(program)) for a, b in zip(inner.steps, inner.steps[1:])}


def test_compositions_are_held_out_and_asked_for():
    pairs = ['trim | mirror', 'flip_left_right | transpose']
    few = PhaseConfig(primitives=['trim', 'mirror', 'flip_left_right', 'transpose', 'half'])
    sample = partial(sample_phase, phase='sequential', first=0, n_tasks=150)
    held_out = GenerateConfig(task_schedule={'sequential': few}, generator=GeneratorConfig(held_out_compositions=pairs))
    assert not any(compositions(p) & set(pairs) for p in sample(held_out).programs)
    assert any(compositions(p) & set(pairs) for p in sample(held_out.model_copy(update={'generator': GeneratorConfig()})).programs)
    assert all(compositions(p) & set(pairs) for p in sample(held_out.model_copy(update={'generator': GeneratorConfig(required_compositions=pairs)})).programs)


def test_lengths_and_depth_are_those_of_the_schedule():
    for kind, length in (('sequential', 5), ('conditional', 6), ('recursive', 4), ('meta_rule', 5)):
        config = GenerateConfig(task_schedule={'p': PhaseConfig(kind=kind)}, program=ProgramConfig(length_schedule={kind: {length: 3.0}}))
        assert (n_steps(sample_phase(config, 'p', 0, 40).programs) == length).all()
    shallow = GenerateConfig(task_schedule={'conditional': PhaseConfig()}, program=ProgramConfig(length_schedule={'all': {6: 1}}, max_depth=3))
    def depth(program): return sum(1 + max((depth(inner) for inner in step.programs), default=0) for step in program.steps)
    assert max(depth(from_array(p)) for p in sample_phase(shallow, 'conditional', 0, 60).programs) == 3
    assert max(depth(from_array(p)) for p in sample_phase(shallow.model_copy(update={'program': ProgramConfig(length_schedule={'all': {6: 1}})}), 'conditional', 0, 60).programs) > 3


def test_larger_grids_and_two_tests():
    config = GenerateConfig(tests=(2, 2), demonstrations=(6, 6), grid=GridConfig(min_size=25, max_size=40), task_schedule=KIND_PHASES)
    sample = sample_phase(config, 'sequential', 0, 60)
    assert set(sample.n_pairs.tolist()) == {8} and set(sample.n_tests.tolist()) == {2} and sample.grids.height.max() > 35
    for task in range(60):
        for pair in sample.pairs(task):
            assert min(pair.input.shape) >= 25
            result = run_program(sample.programs[task], pair.input)
            assert not isinstance(result, Failure) and np.array_equal(result, pair.output)


TRAINING = load_config(GenerateConfig, 'pilot_curriculum')
CURRICULA = [name for name in config_names() if name.endswith('curriculum') or 'ood' in name or name == 'jepa_50k']


@pytest.mark.parametrize('name', CURRICULA)
def test_packaged_curricula_keep_their_promise(name):
    config, rules = load_config(GenerateConfig, name), TRAINING.generator
    check_curriculum(config)
    counts = {'pilot_curriculum': [2200, 3200, 2000, 600, 600, 1400], 'multi_phase_curriculum': [2000, 3000, 5000]}
    if name in counts: assert [p.count for p in config.task_schedule.values()] == counts[name]
    if name == 'jepa_50k': assert config.total == 50_000
    axes = {'ood_colours': {'colours'}, 'ood_size': {'grid'}, 'ood_primitives': {'generator'}, 'ood_structural': {'generator', 'task_schedule', 'program'}, 'ood_length': {'task_schedule', 'program'}}
    if name in axes:
        same = lambda c: {key: value for key, value in c.model_dump().items() if key not in {'name', 'seed', 'held_out'} | axes[name] | ({'task_schedule'} if name != 'ood_length' else set())}
        assert same(config) == same(TRAINING) and config.generator.op_weights == TRAINING.generator.op_weights, 'everything but the axis is as in training'
    batch = sample_batch(config, 1, 0, 60)
    held_out, compositions_held_out = set(rules.held_out_primitives), set(rules.held_out_compositions)
    found = names_in(batch.programs)
    inputs = [batch.grids[i] for i in range(0, len(batch.grids), 2)]
    if 'primitives' in name or name == 'pilot_ood': assert all(names & held_out for names in found)
    elif name not in ('multi_phase_curriculum', 'tiny_curriculum'): assert not any(names & held_out for names in found)
    if 'structural' in name: assert all(compositions(p) & compositions_held_out for p in batch.programs)
    elif name in ('pilot_curriculum', 'jepa_50k', 'ood_size', 'ood_colours', 'ood_length', 'ood_primitives'): assert not any(compositions(p) & compositions_held_out for p in batch.programs)
    if 'colours' in name: assert config.colours.fewest > TRAINING.colours.most
    if name in ('ood_size', 'pilot_ood'): assert min(min(grid.shape) for grid in inputs) >= config.grid.min_size >= TRAINING.grid.max_size and max(max(grid.shape) for grid in inputs) > 36
    if name in ('ood_length', 'pilot_ood'): assert n_steps(batch.programs).min() >= 4


BAD_CONFIGS = {
    'primitive': ({'task_schedule': {'phase_i': {'count': 5}, 'late': {'count': 5, 'primitives': ['trim', 'flip_leftright']}}}, r"task_schedule\.late\.primitives: no operation 'flip_leftright', did you mean 'flip_left_right'\?"),
    'elsewhere': ({'task_schedule': {'phase_i': {'primitives': ['flip_horizontal']}}}, r"no operation 'flip_horizontal', here it is 'flip_left_right'"),
    'weight': ({'generator': {'op_weights': {'objets8': 0.0}}}, r"generator: no operation 'objets8', did you mean 'objects8'\?"),
    'held out': ({'generator': {'held_out_primitives': ['objets8']}}, r"generator: no operation 'objets8'"),
    'composition': ({'generator': {'required_compositions': ['trim | pick_max']}}, r"'trim \| pick_max': pick_max takes objects, and trim gives grid"),
    'length': ({'task_schedule': {'p': {}}, 'program': {'length_schedule': {'p': {9: 1.0}}}}, r'program\.length_schedule\.p: 9 is no length of sequential rules \(phase p\); they have 1 to 8 steps'),
    'kind and length': ({'task_schedule': {'conditional': {}}, 'program': {'length_schedule': {'2': 1.0}}}, r'program\.length_schedule: 2 is no length of conditional rules \(phase conditional\); they have 4 to 8 steps'),
    'no weight': ({'task_schedule': {'p': {}}, 'program': {'length_schedule': {'p': {2: 0.0}}}}, r'program\.length_schedule\.p: all weights are zero'),
    'no effect': ({'task_schedule': {'p': {'primitives': ['flip_up_down']}}, 'program': {'length_schedule': {'p': {2: 1.0}}}}, r'task_schedule\.p \(sequential, 2 steps\): no scene was found'),
    'name': ({'name': '../elsewhere'}, 'should match pattern'),
    'phase': ({'task_schedule': {'a/b': {}}}, 'should match pattern'),
    'unreachable': ({'task_schedule': {'atomic': {'primitives': ['objects8', 'crop']}}}, r'task_schedule\.atomic: the operations allowed make no atomic program of 1 step'),
    'depth': ({'task_schedule': {'sequential': {}}, 'program': {'max_depth': 2}}, r'make no sequential program of 3 step\(s\) with program\.max_depth 2'),
}


@pytest.mark.parametrize('wrong, expected', BAD_CONFIGS.values(), ids=BAD_CONFIGS)
def test_bad_curriculum_is_named_and_leaves_the_earlier_manifest(tmp_path, wrong, expected):
    generate(GenerateConfig(task_schedule={'atomic': PhaseConfig(count=3)}), tmp_path, progress=False)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match=expected): generate(GenerateConfig.model_validate(wrong), tmp_path, progress=False)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize('override, expected', [
    ('demonstrations=[3, 40]', 'demonstrations is 3, 40: fewest and most, between 1 and 6'), ('demonstrations=[0, 2]', 'between 1 and 6'), ('demonstrations=[5, 3]', 'between 1 and 6'), ('tests=[1, 3]', 'tests is 1, 3'),
    ('grid.min_size=20', 'min_size is 20, more than max_size, 16'), ('colours.fewest=8', 'fewest is 8, more than most, 6'), ('generator.op_weights.trim=-1', 'op_weights.trim'), ('generator.op_wieghts.trim=0', 'op_weights'),
    ('task_schedule.atomic.count=-1', 'count'), ('task_schedule.atomic.kind=recursiv', 'recursive'), ('program.length_schedule.conditionel={3: 1.0}', "no phase and no kind of that name, did you mean 'conditional'"), ('phases.a.count=3', 'phases')])
def test_bad_value_is_refused_before_compiled_code_sees_it(override, expected):
    with pytest.raises(ConfigError, match=expected): load_config(GenerateConfig, None, ['task_schedule.atomic.count=5', override])


@pytest.mark.parametrize('pairs', [0, 1, 9, 1000])
def test_pairs_beyond_what_the_compiled_loops_hold_are_refused(pairs):
    with pytest.raises(ValueError, match=f'pairs is {pairs}; a task has 2 to 8'): sample_batch(None, 0, 0, 4, pairs=pairs)


def test_one_demonstration_is_too_few_for_a_condition():
    with pytest.raises(ValueError, match='one demonstration cannot show both ways of a conditional rule'): sample_batch(None, 0, 0, 4, pairs=2)
    with pytest.raises(ValueError, match='one demonstration'): sample_phase(GenerateConfig(task_schedule=KIND_PHASES, demonstrations=(1, 3)), 'conditional', 0, 1)


# ---------------------------------------------------------------------------------------------------------------------------------------
# Runs that end early

def wait_for(path, size, running, seconds=120):
    "Wait until the file has so many bytes."
    end = time.monotonic() + seconds
    while not (path.exists() and path.stat().st_size >= size):
        assert running.poll() is None and time.monotonic() < end, 'it never got so far'
        time.sleep(0.005)


@pytest.mark.parametrize('workers', [1, 2])
def test_killed_while_writing_and_resumed_the_bytes_are_the_same(tmp_path, workers):
    "SIGKILL twice, at different places; what stands in the manifest is whole each time."
    config = GenerateConfig(name='killed', seed=3, task_schedule={'atomic': PhaseConfig(count=9_000), 'meta_rule': PhaseConfig(count=1_000)}, held_out=200)
    generate(config, tmp_path/'whole', workers=2, progress=False)
    whole, place = (tmp_path/'whole/manifest.jsonl').read_bytes(), tmp_path/'killed'
    for share, resume in ((0.2, ()), (0.6, ('resume',))):
        running = process(tmp_path/'whole/config.yaml', place, workers, *resume)
        wait_for(place/'manifest.jsonl', share * len(whole), running)
        os.kill(running.pid, signal.SIGKILL)
        assert running.wait() == -signal.SIGKILL
        there = (place/'manifest.jsonl').read_bytes()
        assert 0 < len(there) < len(whole) and whole.startswith(there[:there.rindex(b'\n') + 1]) and not (place/'summary.json').exists()
    with open(place/'manifest.jsonl', 'ab') as file: file.write(b'{"id":"half a record')          # what a power cut may leave
    running = process(tmp_path/'whole/config.yaml', place, workers, 'resume')
    assert running.wait() == 0 and same_bytes(tmp_path/'whole', place) and sorted(p.name for p in place.iterdir() if p.name != '.lock') == ['config.yaml', 'heldout.jsonl', 'manifest.jsonl', 'summary.json']
    one, other = (json.loads((directory/'summary.json').read_text()) for directory in (tmp_path/'whole', place))
    for name in ('cpu_seconds', 'seconds'): one.pop(name), other.pop(name)
    assert one == other, 'rejections and histograms too'


def test_sigterm_is_answered_with_143_and_what_to_do(tmp_path):
    running = subprocess.Popen([Path(sys.executable).with_name('arc-jepa'), 'generate', '--config', 'jepa_50k', '--output', str(tmp_path), '--workers', '2'], stderr=subprocess.PIPE, text=True)
    wait_for(tmp_path/'manifest.jsonl', 200_000, running)
    running.send_signal(signal.SIGTERM)
    said = running.communicate(timeout=60)[1]
    assert running.returncode == 143 and 'what is written is whole; --resume goes on' in said
    assert (tmp_path/'manifest.jsonl').read_bytes().endswith(b'}\n') and (tmp_path/'progress.json').exists()


def test_what_was_there_is_kept(tmp_path, capsys):
    small = GenerateConfig(task_schedule={'atomic': PhaseConfig(count=20)})
    generate(small, tmp_path, progress=False)
    before = (tmp_path/'manifest.jsonl').read_bytes()
    load_tasks(tmp_path/'manifest.jsonl')
    generate(small.model_copy(update={'seed': 1}), tmp_path, progress=False)
    second = (tmp_path/'manifest.jsonl').read_bytes()
    with pytest.raises(ValueError, match='demonstrations: one demonstration cannot show both ways'): generate(GenerateConfig(task_schedule={'conditional': PhaseConfig()}, demonstrations=(1, 3)), tmp_path, progress=False)
    assert (tmp_path/'previous/manifest.jsonl').read_bytes() == before != second == (tmp_path/'manifest.jsonl').read_bytes() and 'is now in' in capsys.readouterr().err
    generate(small.model_copy(update={'seed': 2}), tmp_path, progress=False)
    assert (tmp_path/'previous/manifest.jsonl').read_bytes() == before and (tmp_path/'previous-2/manifest.jsonl').read_bytes() == second, 'nothing is ever deleted'


def test_resume_says_what_differs(tmp_path, capsys):
    small = GenerateConfig(task_schedule={'atomic': PhaseConfig(count=20)})
    summary = generate(small, tmp_path, resume=True, progress=False)
    assert 'nothing to resume, a new run starts' in capsys.readouterr().err
    assert generate(small, tmp_path, resume=True, progress=False) == summary
    with pytest.raises(DatasetError, match=r'begun with other settings \(seed: 0 → 4; grid\.max_size: 16 → 12\)'): generate(small.model_copy(update={'seed': 4, 'grid': GridConfig(max_size=12)}), tmp_path, resume=True, progress=False)
    with pytest.raises(DatasetError, match=r'slice: None → \[3, 5\]'): generate(small, tmp_path, 3, 5, resume=True, progress=False)
    (tmp_path/'summary.json').write_text('{"total')
    with pytest.raises(DatasetError, match='summary.json: not JSON; start anew without --resume'): generate(small, tmp_path, resume=True, progress=False)


def test_a_full_disk_leaves_whole_tasks_and_says_how_to_go_on(tmp_path):
    "The limit on the size of a file stands for the disk: the write that does not fit fails, as it does there, with part of a record written."
    config = GenerateConfig(name='full', task_schedule={'atomic': PhaseConfig(count=3_000)})
    generate(config, tmp_path/'whole', progress=False)
    limit = 3_000_000
    running = process(tmp_path/'whole/config.yaml', tmp_path/'full', 1, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    said = running.communicate()[1]
    there = (tmp_path/'full/manifest.jsonl').read_bytes()
    assert running.returncode == 1 and 'whole tasks are in' in said and 'with --resume' in said
    assert 0 < len(there) <= limit and (tmp_path/'whole/manifest.jsonl').read_bytes().startswith(there) and there.endswith(b'}\n')
    assert len(load_tasks(tmp_path/'full/manifest.jsonl')) == there.count(b'\n')
    assert process(tmp_path/'whole/config.yaml', tmp_path/'full', 1, 'resume').wait() == 0 and same_bytes(tmp_path/'whole', tmp_path/'full', FILES[:1])


# ---------------------------------------------------------------------------------------------------------------------------------------
# Triples

def test_triples_tell_what_programs_do(written, tmp_path):
    counted = corpus.write_triples(written[0]/'heldout.jsonl', tmp_path/'triples.jsonl', counterfactuals=3, progress=False)
    corpus.write_triples(written[0]/'heldout.jsonl', tmp_path/'again.jsonl', counterfactuals=3, progress=False)
    assert (tmp_path/'triples.jsonl').read_bytes() == (tmp_path/'again.jsonl').read_bytes()
    tasks, triples = load_tasks(written[0]/'heldout.jsonl'), [json.loads(line) for line in open(tmp_path/'triples.jsonl')]
    assert counted['triples'] == len(triples) == sum(len(task.demonstrations + task.tests) for task in tasks)
    for triple in triples:
        for record, output in [(triple['program'], triple['output'])] + [(other['program'], other['output']) for other in triple['counterfactuals']]:
            assert run_program(record['text'], np.array(triple['input'])).tolist() == output
            rows = np.array([record['op_ids'], *zip(*record['arguments']), record['places']]).T
            assert str(from_array(rows)) == record['text'] and record['mask'] == [int(n > 0) for n in record['op_ids']]
        assert triple['output'] not in [other['output'] for other in triple['counterfactuals']] and len(triple['counterfactuals']) == 3
        assert triple['metadata']['rule_family'] == parse(triple['program']['text']).steps[-1].op.group


def test_triples_do_not_overwrite_their_manifest(written, tmp_path):
    (tmp_path/'m.jsonl').write_bytes((written[0]/'heldout.jsonl').read_bytes())
    with pytest.raises(ValueError, match='is the manifest itself'): corpus.write_triples(tmp_path/'m.jsonl', tmp_path/'m.jsonl', progress=False)
    assert (tmp_path/'m.jsonl').read_bytes() == (written[0]/'heldout.jsonl').read_bytes() and load_tasks(written[0]).content_hash == load_tasks(written[0]/'manifest.jsonl').content_hash


def test_tasks_without_programs_do_not_replace_a_file_of_triples_by_an_empty_one(tmp_path):
    (tmp_path/'old.jsonl').write_text('as it was')
    with pytest.raises(DatasetError, match=r'no triples in its 400 tasks \(400 without a program'): corpus.write_triples('arc1/training', tmp_path/'old.jsonl', progress=False)
    assert (tmp_path/'old.jsonl').read_text() == 'as it was' and len(list(tmp_path.iterdir())) == 1
