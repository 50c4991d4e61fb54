"""Generated tasks: the same seed gives the same bytes, labels tell the truth, bad configs say what is wrong, a killed run destroys nothing."""
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from arc_jepa.config import ConfigError, load_config
from arc_jepa.content import content_key
from arc_jepa.datasets import load_tasks
from arc_jepa.dsl.ops import OP_BY_NAME
from arc_jepa.dsl.program import Failure, from_array, parse, run_program
from arc_jepa.generate.generator import GenerateConfig, GridConfig, PhaseConfig, generate, iterate_tasks, sample_arrays, sample_batch

PHASES = {'phase_i': PhaseConfig(count=40), 'phase_ii': PhaseConfig(count=25, lengths={2: 0.7, 3: 0.3}), 'phase_iii': PhaseConfig(count=15, lengths={4: 0.5, 5: 0.3, 6: 0.2})}
CONFIG = GenerateConfig(name='small', seed=7, phases=PHASES, held_out=9)


def changed(**changes): return CONFIG.model_copy(update=changes)


@pytest.fixture(scope='module')
def written(tmp_path_factory):
    directory = tmp_path_factory.mktemp('written')
    return directory, generate(CONFIG, directory, progress=False)


def same_bytes(first, second, names=('manifest.jsonl', 'heldout.jsonl')):
    return all((first/name).read_bytes() == (second/name).read_bytes() for name in names)


def test_same_seed_same_bytes_in_another_process(written, tmp_path):
    directory, _ = written
    code = ('import sys; from arc_jepa.config import load_config; from arc_jepa.generate.generator import GenerateConfig, generate;'
            'generate(load_config(GenerateConfig, sys.argv[1]), sys.argv[2], progress=False)')
    subprocess.run([sys.executable, '-c', code, str(directory/'config.yaml'), str(tmp_path/'again')], check=True, env={**os.environ, 'PYTHONHASHSEED': '5'})
    assert same_bytes(directory, tmp_path/'again')


def test_another_seed_other_tasks(written, tmp_path):
    generate(changed(seed=8), tmp_path, progress=False)
    assert not same_bytes(written[0], tmp_path)
    keys = [{content_key(task) for task in load_tasks(directory/'manifest.jsonl')} for directory in (written[0], tmp_path)]
    assert not keys[0] & keys[1]


def test_phases_do_not_share_their_random_numbers(written):
    programs = {phase: [task.metadata['program'] for task in iterate_tasks(changed(phases={'a': PHASES['phase_i'], 'b': PHASES['phase_i']}), phase, 40)] for phase in 'ab'}
    assert programs['a'] != programs['b']


@pytest.mark.parametrize('phase', PHASES)
def test_a_slice_is_the_slice_of_the_whole(phase):
    "Task number i depends on seed and i alone: workers may take any range."
    grids, programs, n_pairs, _ = sample_arrays(CONFIG, phase, 0, 40)
    starts = np.concatenate([[0], np.cumsum(2 * n_pairs)])
    for first, n in ((0, 1), (7, 5), (39, 1), (13, 20)):
        some, their_programs, their_pairs, _ = sample_arrays(CONFIG, phase, first, n)
        assert (their_programs == programs[first:first + n]).all() and (their_pairs == n_pairs[first:first + n]).all()
        assert len(some) == starts[first + n] - starts[first]
        assert all(np.array_equal(some[i], grids[starts[first] + i]) for i in range(len(some)))


def test_batches_are_a_function_of_their_number():
    first, again, other = (sample_batch(CONFIG, 3, index, 8, counterfactuals=2) for index in (4, 4, 5))
    assert (first.programs == again.programs).all() and (first.grids.cells == again.grids.cells).all() and (first.counterfactuals.cells == again.counterfactuals.cells).all()
    assert not (first.programs == other.programs).all()
    both = sample_batch(CONFIG, 3, 2, 16, counterfactuals=2)
    assert (both.programs[:8] == first.programs).all(), 'batch 2 of 16 begins where batch 4 of 8 does'


def test_programs_reproduce_their_outputs_and_every_step_matters(written):
    tasks = [*load_tasks(written[0]/'manifest.jsonl'), *load_tasks(written[0]/'heldout.jsonl')]
    for task in tasks:
        program = parse(task.metadata['program'])
        assert [s['name'] for s in task.metadata['rule_trace']] == [s.op.name for s in program.steps] and str(program) == task.metadata['program']
        pairs = task.demonstrations + task.tests
        assert 3 <= len(task.demonstrations) <= 5 and len(task.tests) == 1
        for pair in pairs:
            assert np.array_equal(run_program(program, pair.input), pair.output), task.id
            assert not np.array_equal(pair.input, pair.output), task.id
        assert len({pair.input.tobytes() for pair in pairs}) == len(pairs) and len({pair.output.tobytes() for pair in pairs}) > 1
    assert len({content_key(task) for task in tasks}) == len(tasks), 'no two are the same up to symmetry and colours'


def test_summary_counts_what_is_there(written):
    directory, summary = written
    tasks = load_tasks(directory/'manifest.jsonl')
    assert json.loads((directory/'summary.json').read_text()) == summary
    assert summary['total_tasks'] == len(tasks) == 80 and len(load_tasks(directory/'heldout.jsonl')) == 9
    assert summary['phases'] == {'phase_i': 40, 'phase_ii': 25, 'phase_iii': 15} and sum(summary['program_length_histogram'].values()) == 80
    lengths = [len(task.metadata['rule_trace']) for task in tasks]
    assert {int(k): v for k, v in summary['program_length_histogram'].items()} == {n: lengths.count(n) for n in set(lengths)}


def test_counterfactuals_are_other_outputs_of_the_same_input():
    batch = sample_batch(None, seed=11, index=0, n_tasks=24, counterfactuals=4)
    for task in range(24):
        given, truth = batch.grids[task * 8 + 6], batch.grids[task * 8 + 7]
        others = [batch.counterfactuals[task * 4 + k] for k in range(4)]
        assert np.array_equal(run_program(batch.programs[task], given), truth)
        for k, other in enumerate(others): assert np.array_equal(run_program(batch.counterfactual_programs[task, k], given), other)
        assert len({(g.shape, g.tobytes()) for g in [truth, *others]}) == 5


def test_hold_out_holds_out():
    "An operation with weight 0 occurs in no program, not even in a counterfactual; without the weight it does."
    weights = {'flip_left_right': 0.0, 'objects8': 0.0, 'recolour': 0.0}
    held_out, numbers = changed(op_weights=weights), [OP_BY_NAME[name].number for name in weights]
    for phase in PHASES:
        assert not np.isin(sample_arrays(held_out, phase, 0, 400)[1][:, :, 0], numbers).any()
    batch = sample_batch(held_out, 0, 0, 200, counterfactuals=4)
    assert not np.isin(batch.programs[:, :, 0], numbers).any() and not np.isin(batch.counterfactual_programs[..., 0], numbers).any()
    seen = np.concatenate([sample_arrays(CONFIG, phase, 0, 400)[1][:, :, 0].ravel() for phase in PHASES])
    assert set(numbers) <= set(seen.tolist())


def test_only_named_primitives_occur():
    config = changed(phases={'p': PhaseConfig(lengths={1: .5, 3: .5}, primitives=['objects8', 'pick_max', 'crop', 'rotate_90'])})
    names = {step.op.name for program in sample_arrays(config, 'p', 0, 200)[1] for step in from_array(program).steps}
    assert names == {'objects8', 'pick_max', 'crop', 'rotate_90'}


BAD_CONFIGS = {
    'primitive': ({'phases': {'phase_i': {'count': 5}, 'late': {'count': 5, 'primitives': ['trim', 'flip_leftright']}}}, r"no operation 'flip_leftright', did you mean 'flip_left_right'\?"),
    'weight': ({'op_weights': {'objets8': 0.0}}, r"no operation 'objets8', did you mean 'objects8'\?"),
    'length': ({'phases': {'p': {'lengths': {7: 1.0}}}}, r'phases\.p\.lengths: 7: 1\.0 is not a length from 1 to 6'),
    'no weight': ({'phases': {'p': {'lengths': {2: 0.0}}}}, r'phases\.p\.lengths: all weights are zero'),
    'nan': ({'phases': {'p': {'lengths': {2: float('nan')}}}}, r'lengths: 2: nan is not a length'),
    'unreachable': ({'phases': {'p': {'lengths': {1: 1.0}, 'primitives': ['objects8', 'crop']}}}, r'phases\.p: the operations allowed make no program of 1 step'),
    'without effect': ({'phases': {'p': {'lengths': {2: 1.0}, 'primitives': ['flip_up_down']}}}, r'phases\.p: no scene was found'),
}


@pytest.mark.parametrize('wrong, expected', BAD_CONFIGS.values(), ids=BAD_CONFIGS)
def test_bad_curriculum_is_named_and_leaves_the_earlier_manifest(tmp_path, wrong, expected):
    generate(changed(phases={'phase_i': PhaseConfig(count=3)}, held_out=0), tmp_path, progress=False)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match=expected): generate(GenerateConfig.model_validate(wrong), tmp_path, progress=False)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize('override, expected', [
    ('demonstrations=[3, 40]', 'demonstrations is 3, 40: fewest and most, between 1 and 6'), ('demonstrations=[0, 2]', 'between 1 and 6'), ('demonstrations=[5, 3]', 'between 1 and 6'), ('tests=3', 'tests'),
    ('grid.min_size=20', 'min_size is 20, more than max_size, 16'), ('op_weights.trim=-1', 'op_weights.trim'), ('op_wieghts.trim=0', 'op_weights'), ('phases.phase_i.count=-1', 'count')])
def test_bad_value_is_refused_before_compiled_code_sees_it(override, expected):
    with pytest.raises(ConfigError, match=expected): load_config(GenerateConfig, 'pilot_curriculum', [override])


@pytest.mark.parametrize('pairs', [0, 1, 9, 1000])
def test_pairs_beyond_what_the_compiled_loops_hold_are_refused(pairs):
    with pytest.raises(ValueError, match=f'pairs is {pairs}; a task has 2 to 8'): sample_batch(None, 0, 0, 4, pairs=pairs)
    with pytest.raises(ValueError, match=f'pairs is {pairs}; a task has 2 to 8'): sample_arrays(CONFIG, 'phase_i', 0, 4, pairs=pairs)


def test_killed_generation_leaves_the_earlier_files(tmp_path):
    "SIGKILL while the new manifest is being written: no handler can run, the old files are untouched."
    generate(changed(phases={'phase_i': PhaseConfig(count=5)}, held_out=2), tmp_path, progress=False)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    code = ('import sys; from arc_jepa.generate.generator import *;'
            'generate(GenerateConfig(seed=99, phases={"phase_i": PhaseConfig(count=1_000_000)}), sys.argv[1], progress=False)')
    process = subprocess.Popen([sys.executable, '-c', code, str(tmp_path)])
    try:
        deadline = time.monotonic() + 120
        def growing(): return [path for path in tmp_path.iterdir() if path.name not in before and path.stat().st_size > 20_000]
        while not growing():
            assert process.poll() is None and time.monotonic() < deadline, 'it never began to write'
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
    finally:
        process.kill()
        assert process.wait() == -signal.SIGKILL
    assert growing(), 'killed in the middle'
    assert {name: (tmp_path/name).read_bytes() for name in before} == before
    again = generate(changed(phases={'phase_i': PhaseConfig(count=5)}, held_out=2), tmp_path, progress=False)
    assert again['total_tasks'] == 5 and (tmp_path/'manifest.jsonl').read_bytes() == before['manifest.jsonl']


def test_larger_grids_and_two_tests():
    config = changed(tests=2, demonstrations=(6, 6), grid=GridConfig(min_size=25, max_size=30))
    grids, programs, n_pairs, _ = sample_arrays(config, 'phase_ii', 0, 60)
    assert set(n_pairs.tolist()) == {8} and max(grids[i].shape[0] for i in range(len(grids))) > 20
    for i in range(0, len(grids), 2):
        result = run_program(programs[i // 16], grids[i])
        assert not isinstance(result, Failure) and np.array_equal(result, grids[i + 1])
