"""Libraries: each program that comes with the package gives every output of its task; what `arc-jepa solve --library` finds is verified, kept whole through kills, and never learned from an evaluation split."""
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from arc_jepa.commands import app
from arc_jepa.compiled import PACKAGE
from arc_jepa.config import DirectoryInUse, only_one
from arc_jepa.content import content_key
from arc_jepa.datasets import load_tasks, write_manifest
from arc_jepa.dsl.program import parse, reproduces, run_on_task
from arc_jepa.dsl.types import to_python
from arc_jepa.evaluate import evaluation
from arc_jepa.grid import COLOUR_NAMES, Pair, Task
from arc_jepa.solve import library as room, solver
from arc_jepa.solve.library import PROGRAMS, UNSOLVED, Library, LibraryError, Solved, distinct, grow_library

LIBRARY, TASKS = Library('arc1_training'), load_tasks('arc1/training')


# ---- the one that comes with the package

@pytest.mark.parametrize('solved', LIBRARY.solved, ids=lambda solved: solved.task.id)
def test_program_gives_every_output(solved):
    task = TASKS[solved.task.id]                                # a task of another split has no place here
    for pair, result in zip(task.demonstrations + task.tests, run_on_task(solved.program, task), strict=True): assert np.array_equal(result, pair.output), str(solved.program)


def test_it_is_as_large_and_its_programs_are_as_short_as_the_first_page_says():
    said = re.findall(r'(\d+) of the 400 training tasks', (Path(__file__).parents[1]/'README.md').read_text(encoding='utf8'))
    assert len(said) == 2 and set(map(int, said)) == {len(LIBRARY.solved)} and np.median([len(solved.program) for solved in LIBRARY.solved]) <= 3
    lines = [line for line in (PACKAGE/'library/arc1_training.txt').read_text(encoding='utf8').splitlines() if not line.startswith('#')]
    assert [line.split(None, 1)[0] for line in lines] == [solved.task.id for solved in LIBRARY.solved] and len(set(lines)) == len(lines), 'no line is passed over'
    assert all(parse(str(program)) == program for program in LIBRARY.programs)


def test_a_wrong_program_is_seen():
    binary = Task('binary', (Pair([[0, 2]], [[0, 1]]),), (Pair([[2, 0]]),))
    assert not reproduces('where(red)', binary) and reproduces('where(red) | stencil(blue)', binary), 'a mask is no answer, even where it looks like one'
    assert not reproduces('flip_left_right', TASKS['68b16354']) and reproduces('flip_up_down', TASKS['68b16354'])


@pytest.mark.parametrize('text, says', [('68b16354 flip_up_dwn', ':1: column 1: no operation'), ('a1 trim\n\n# no more\na1 peel', ':4: a1 occurs twice'), ('68b16354', ':1: no program after the name 68b16354'), ('  a1 trim\n\t b2 bogus', ':2: column 1: no operation'),
                                        ('68b16354 trim | objects8 | trim', ':1: column 19'), ('68b16354 flip_up_down\na1 trim', ':2: no task a1 in arc1/training'), ('# mine\n68b16354 trim', ':2: trim does not give the outputs of 68b16354'),
                                        ('# mine\n68b16354 flip_up_down # me', ':2: # me does not say who found the program of 68b16354; right would be # search or # hand'), ('68b16354 flip_up_down #', ':1: #  does not say'), ('68b16354 # hand', ':1: no program after')])
def test_a_broken_text_is_refused_with_its_line(text, says, tmp_path):
    (tmp_path / 'mine.txt').write_text(text)
    with pytest.raises(LibraryError, match=says): Library(tmp_path / 'mine.txt')


def test_each_line_says_who_found_it(tmp_path, grown):
    assert Counter(solved.origin for solved in LIBRARY.solved) == {'search': 142, 'hand': 140} and 'found by: search 142, hand 140' in str(LIBRARY)
    (tmp_path/'mine.txt').write_text('68b16354 flip_up_down # hand\n67a3c6ac flip_left_right  #search\n74dd1130 transpose\n')
    assert [solved.origin for solved in Library(tmp_path/'mine.txt').solved] == ['hand', 'search', 'not known']
    assert {solved.origin for solved in Library(grown[0]).solved} == {'search'} and {solved.engine for solved in Library(grown[0]).solved} <= set(solver.ENGINES)


def test_a_library_that_does_not_exist(tmp_path):
    for place in ('no_such_library', tmp_path / 'no_such_library'):
        with pytest.raises(LibraryError, match='no_such_library: not found; .*arc1_training'): Library(place)
    with pytest.raises(LibraryError, match=r'programs.jsonl: not found; `arc-jepa solve --library'): Library(tmp_path)


# ---- what is one program

def solved(id, text, *pairs): return Solved(Task(id, tuple(Pair(*pair) for pair in pairs), (Pair(pairs[0][0]),)), parse(text), id, 'made up')


def test_two_names_of_one_rule_are_one_entry_with_the_shorter_name():
    short, long = solved('a', 'flip_left_right', ([[1, 2]], [[2, 1]])), solved('b', 'rotate_180 | flip_up_down', ([[3, 4]], [[4, 3]]))
    for order in ([short, long], [long, short]):
        entry, = distinct(order)
        assert str(entry.program) == 'flip_left_right' and [s.task.id for s in entry.solved] == ['a', 'b']


def test_a_program_stands_for_another_only_if_it_solves_its_task(monkeypatch):
    "On scenes without a colour, it does not show what becomes of that."
    scene = room._fresh_scenes()[0].copy()
    monkeypatch.setattr(room, '_fresh_scenes', lambda: (scene, scene))
    missing = next(name for name, colour in ((name, COLOUR_NAMES.index(name)) for name in COLOUR_NAMES[1:]) if colour not in to_python(scene))
    colour = COLOUR_NAMES.index(missing)
    left, right = solved('a', f'replace({missing}, black)', ([[colour]], [[0]])), solved('b', f'replace({missing}, {COLOUR_NAMES[colour % 9 + 1]})', ([[colour]], [[colour % 9 + 1]]))
    assert room.behaviour(left.program) == room.behaviour(right.program) and len(distinct([left, right])) == 2


def test_what_applies_to_no_scene_is_compared_by_its_text():
    ones = [[1]], np.ones((25, 25), int)
    one, same, other = solved('a', 'scale(5) | scale(5)', ones), solved('b', 'scale(5) | scale(5)', ones), solved('c', 'scale(5) | scale(5) | flip_up_down', ones)
    assert room.behaviour(one.program) is None is room.behaviour(other.program) and reproduces(one.program, other.task)
    assert [len(entry.solved) for entry in distinct([one, same, other])] == [2, 1]
    assert room.rule_key(one.program) == room.rule_key(str(same.program)) != room.rule_key(other.program)


def test_examples_have_every_task_with_a_program_that_solves_it():
    examples = LIBRARY.examples()
    assert {task.id for _, task, _ in examples} == {s.task.id for s in LIBRARY.solved} and len(LIBRARY.programs) < len(examples) == len(LIBRARY.solved)
    assert all(reproduces(program, task) for _, task, program in examples)
    key, task, _ = examples[7]
    assert key == content_key(task)


# ---- growing

def command(*words): return CliRunner().invoke(app, ['solve', *map(str, words)])


def lines(directory, name=PROGRAMS): return [json.loads(line) for line in (directory/name).read_text().splitlines()]


@pytest.fixture(scope='module')
def some(tmp_path_factory):
    "Thirty tasks in a file, about half of them solved with few programs."
    path = tmp_path_factory.mktemp('sets')/'some.jsonl'
    write_manifest(path, TASKS[40:70])
    return path


@pytest.fixture(scope='module')
def grown(some, tmp_path_factory):
    directory = tmp_path_factory.mktemp('grown')/'library'
    done = command('--library', directory, '--tasks', some, '--max-nodes', 1_000, '--json')
    assert done.exit_code == 0, done.output
    return directory, json.loads(done.stdout)


def test_all_that_is_kept_gives_all_outputs_and_the_rest_is_remembered(grown, some):
    directory, done = grown
    kept, vain = lines(directory), lines(directory, UNSOLVED)
    assert len(kept) == done['newly_solved'] == done['solved_tasks'] >= 8 and len(kept) + len(vain) == done['tasks'] == done['tried'] == 30 and done['known'] == 0
    assert {row['key'] for row in kept + vain} == {content_key(task) for task in load_tasks(some)}
    for row in kept:
        assert reproduces(row['program'], TASKS[row['id']]) and row['tasks'] == str(some) and row['engine'] in solver.ENGINES and row['bits'] > 0 and 0 < row['programs_tested'] <= 1_000 and row['seconds'] > 0
    assert {'nothing fits', 'a guess'} <= {row['why'] for row in vain} <= {'nothing fits', 'a guess', 'wrong on the tests'} and all(row['max_nodes'] == 1_000 and row['prior'] == 'uniform' for row in vain)
    library = Library(directory)
    assert {s.task.id: str(s.program) for s in library.solved} == {row['id']: row['program'] for row in kept} and str(some) in str(library)


def test_a_second_run_changes_no_byte_and_says_so(grown, some, monkeypatch):
    directory, _ = grown
    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    def never(*words, **more): raise AssertionError('searched again')
    monkeypatch.setattr(room, 'solve', never)
    for limit in (1_000, 300):
        again = command('--library', directory, '--tasks', some, '--max-nodes', limit)
        assert again.exit_code == 0 and again.stdout.startswith('nothing to do: '), again.output
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == before


def test_more_programs_or_other_guidance_try_what_was_not_solved(grown, some, tmp_path):
    directory, done = grown
    for path in directory.iterdir(): (tmp_path/path.name).write_bytes(path.read_bytes())
    before = (tmp_path/PROGRAMS).read_text()
    more = json.loads(command('--library', tmp_path, '--tasks', some, '--max-nodes', 20_000, '--json').stdout)
    assert more['tried'] == 30 - done['newly_solved'] and more['newly_solved'] > 0 and more['known'] == done['newly_solved']
    assert (tmp_path/PROGRAMS).read_text().startswith(before), 'what was there stays as it is'
    other = json.loads(command('--library', tmp_path, '--tasks', some, '--max-nodes', 100, '--guidance', 'frequency', '--json').stdout)
    assert other['tried'] == 30 - more['solved_tasks'] and other['tried_before'] == 0


def test_another_solver_tries_again_what_was_not_solved(grown, some, tmp_path, monkeypatch):
    directory, done = grown
    for path in directory.iterdir(): (tmp_path/path.name).write_bytes(path.read_bytes())
    for stamp, tried in (('another', 30 - done['newly_solved']), ('another', 0)):
        monkeypatch.setattr(room, 'solver_stamp', lambda stamp=stamp: stamp)
        assert grow_library(tmp_path, [some], 300, progress=False)[1]['tried'] == tried


def test_a_network_goes_on_where_it_was_and_another_one_begins_anew(some, tmp_path):
    from arc_jepa.jepa.models import Jepa
    jepa = [Jepa.untrained(seed=seed) for seed in (0, 1)]
    jepa[0].save(tmp_path/'run')
    tried = [grow_library(tmp_path/'library', [some], 50, guidance=network, progress=False)[1]['tried'] for network in (jepa[0], Jepa.load(tmp_path/'run'), jepa[1])]
    assert tried[0] == 30 and tried[1] == 0 and tried[2] > 20
    prior = {row['prior'] for row in lines(tmp_path/'library', UNSOLVED)}
    assert len(prior) == 2 and all(name.startswith('jepa (untrained) ') for name in prior)


def test_two_sets_share_a_library_and_a_task_that_both_have_is_solved_once(tmp_path):
    "Also where it is turned and has other colours."
    first, second = tmp_path/'first.json', tmp_path/'second.jsonl'
    def turned(pair): return Pair(np.rot90((pair.input + 1) % 10).copy(), np.rot90((pair.output + 1) % 10).copy())
    easy = [TASKS['67a3c6ac'], TASKS['68b16354']]
    first.write_text(json.dumps({task.id: task.to_json() for task in easy}))
    write_manifest(second, [Task('turned', tuple(map(turned, easy[0].demonstrations)), tuple(map(turned, easy[0].tests))), TASKS['74dd1130']])
    ran = command('--library', tmp_path/'library', '--tasks', first, '--tasks', second, '--max-nodes', 1_000, '--json')
    done = json.loads(ran.stdout)
    assert 'library: 100%' in ran.stderr and done['tasks'] == done['newly_solved'] == 3 and done['by_set'] == {str(first): 2, str(second): 1}
    assert {row['id'] for row in lines(tmp_path/'library')} == {'67a3c6ac', '68b16354', '74dd1130'}


def made_up(task, program, **changes):
    "What a solver might say of `program`."
    plain = solver.solve(task, max_nodes=200).to_json() | dict(program=program, programs=[program], engines=['search'], guess=False, pairs_fitted=len(task.demonstrations))
    return solver.Solution.from_json(plain | changes)


@pytest.mark.parametrize('program, changes, why', [('flip_left_right', {}, None), ('identity_of_demonstrations', {}, 'wrong on the tests'), ('flip_left_right', dict(guess=True), 'a guess'), ('flip_left_right', dict(pairs_fitted=0, guess=True), 'nothing fits')])
def test_the_program_itself_is_run_on_every_pair(program, changes, why, tmp_path, monkeypatch):
    "One that gives the demonstrations alone is not kept, whatever the solver thinks of it and of the attempts."
    task = Task('t', (Pair([[1, 2, 1]], [[1, 2, 1]]),), (Pair([[1, 2, 3]], [[3, 2, 1]]),))
    program = 'flip_up_down' if program == 'identity_of_demonstrations' else program
    assert all(np.array_equal(result, pair.output) for pair, result in zip(task.demonstrations, run_on_task(program, task)))
    monkeypatch.setattr(room, 'solve', lambda task, *words: made_up(task, program, **changes))
    write_manifest(tmp_path/'set.jsonl', [task])
    grow_library(tmp_path/'library', [tmp_path/'set.jsonl'], 100, progress=False)
    assert [row['program'] for row in lines(tmp_path/'library')] == ([] if why else [program]) and [row['why'] for row in lines(tmp_path/'library', UNSOLVED)] == ([why] if why else [])


def test_where_test_outputs_are_hidden_the_demonstrations_say_it_all(tmp_path):
    write_manifest(tmp_path/'set.jsonl', [TASKS['67a3c6ac'].hide_test_outputs()])
    assert grow_library(tmp_path/'library', [tmp_path/'set.jsonl'], 1_000, progress=False)[1]['newly_solved'] == 1
    assert Library(tmp_path/'library').solved[0].task.tests[0].output is None


# ---- what may be learned from

@pytest.mark.parametrize('name', ['arc1/evaluation', 'arc2/evaluation', '/arc1/evaluation/'])
def test_an_evaluation_split_is_refused_before_anything_is_written(name, tmp_path, monkeypatch):
    def never(*words): raise AssertionError('read')
    monkeypatch.setattr(room, 'load_tasks', never)
    done = command('--library', tmp_path/'library', '--tasks', 'arc1/training', '--tasks', name)
    assert done.exit_code == 1 and f'{name.rstrip("/")}: a library is learned from, and evaluation tasks are for reporting; right would be' in done.stderr and not (tmp_path/'library').exists()


def test_an_evaluation_task_under_another_name_is_left_out(tmp_path):
    "40853293 of the training split is also in the evaluation split."
    write_manifest(tmp_path/'both.jsonl', [TASKS['40853293'], TASKS['67a3c6ac']])
    write_manifest(tmp_path/'one.jsonl', [TASKS['40853293']])
    done = command('--library', tmp_path/'library', '--tasks', tmp_path/'both.jsonl', '--max-nodes', 1_000)
    assert done.exit_code == 0 and 'left out, as in an evaluation split, whole or by a pair: 1' in done.stdout and [row['id'] for row in lines(tmp_path/'library')] == ['67a3c6ac']
    refused = command('--library', tmp_path/'other', '--tasks', tmp_path/'one.jsonl')
    assert refused.exit_code == 1 and 'nothing but tasks of evaluation splits' in refused.stderr

@pytest.fixture
def reserved(monkeypatch):
    "Evaluation splits of one task that is made up."
    pairs = Pair([[1, 0, 2], [0, 0, 3]], [[0, 1, 2], [0, 0, 3]]), Pair([[0, 4, 0], [5, 5, 0]], [[0, 0, 4], [0, 5, 5]]), Pair([[6, 0], [0, 6]], [[6, 0], [0, 6]]), Pair([[7, 7]], [[7, 7, 7]])
    task = Task('reserved', pairs, (Pair([[1, 2, 0], [0, 0, 0]], [[2, 0, 1], [0, 0, 0]]),))
    monkeypatch.setattr(room, '_EVALUATION', ('reserved',))
    monkeypatch.setattr(room, 'load_tasks', lambda name: [task])
    room._evaluation_keys.cache_clear()
    yield task
    room._evaluation_keys.cache_clear()

def test_one_pair_in_common_is_enough_turned_and_in_other_colours(reserved):
    first, second, same, plain = reserved.demonstrations
    colours, mine = np.roll(np.arange(10), 3), Pair([[8, 0], [0, 9]], [[9, 0], [0, 8]])
    def turned(pair): return Pair(*(np.rot90(colours[grid]).astype(np.uint8) for grid in (pair.input, pair.output)))
    other = Pair(second.input, second.output[::-1])
    for pairs, tests, expected in [((first, mine), (), True), ((mine, turned(second)), (), True), ((mine,), (turned(first),), True), ((mine, mine), (), False), ((mine, other), (), False),
                                   ((mine, same), (), False), ((mine, plain), (), False), ((mine,), (Pair(first.input),), False), ((mine,), reserved.tests, False),
                                   (reserved.demonstrations, (Pair(reserved.tests[0].input),), True)]:
        assert room.is_reported([Task('mine', pairs, tests)]) == [expected], (pairs, tests)
    assert room.is_reported([]) == []

def test_a_whole_task_is_the_same_even_if_its_pairs_say_nothing(reserved, monkeypatch):
    idle = Task('idle', reserved.demonstrations[2:], (Pair([[1]]),))
    assert room.is_reported([idle]) == [False]
    monkeypatch.setattr(room, 'load_tasks', lambda name: [idle])
    room._evaluation_keys.cache_clear()
    assert room.is_reported([idle, Task('half', idle.demonstrations[:1], idle.tests)]) == [True, False]

def test_a_demonstration_more_or_less_is_no_other_task():
    "Two of the three demonstrations of ac0c5833 of ARC-AGI-2 training are those of an evaluation task, whose whole is another one."
    newer = load_tasks('arc2/training')
    assert room.is_reported([newer['ac0c5833']]) == [True] and sum(room.is_reported(newer)) == 377
    assert [task.id for task, out in zip(TASKS, room.is_reported(TASKS)) if out] == ['40853293', 'caa06a1f']


# ---- files that are not whole

@pytest.fixture
def copied(grown, tmp_path):
    for path in grown[0].iterdir(): (tmp_path/path.name).write_bytes(path.read_bytes())
    return tmp_path


@pytest.mark.parametrize('name', [PROGRAMS, UNSOLVED])
@pytest.mark.parametrize('change, says', [(lambda row: 'half a li', 'not JSON'), (lambda row: '[1, 2]', 'list and no object'), (lambda row: json.dumps({k: v for k, v in row.items() if k != 'key'}), '"key" is missing'), (lambda row: json.dumps(row | dict(key=7)), '"key" is 7')])
def test_a_bad_line_is_named_and_nothing_is_changed(name, change, says, copied, some):
    rows = (copied/name).read_text().splitlines()
    rows[2] = change(json.loads(rows[2]))
    (copied/name).write_text('\n'.join(rows) + '\n')
    before = (copied/name).read_bytes()
    done = command('--library', copied, '--tasks', some, '--max-nodes', 1_000)
    assert done.exit_code == 1 and f'{copied/name}:3' in done.stderr and says in done.stderr and 'right would be a line as' in done.stderr, done.output
    assert (copied/name).read_bytes() == before


def test_a_bad_grid_is_named_with_its_line(copied):
    rows = lines(copied)
    rows[1]['train'][0]['input'] = [[11]]
    (copied/PROGRAMS).write_text(''.join(json.dumps(row) + '\n' for row in rows))
    with pytest.raises(LibraryError, match=rf'{PROGRAMS}:2: task {rows[1]["id"]}.*right would be a line as'): Library(copied)


def test_half_a_line_at_the_end_is_none(copied, some):
    whole = (copied/PROGRAMS).read_bytes()
    last = whole[:-1].rindex(b'\n') + 1
    (copied/PROGRAMS).write_bytes(whole[:-30])
    assert len(Library(copied).solved) == whole.count(b'\n') - 1
    done = json.loads(command('--library', copied, '--tasks', some, '--max-nodes', 1_000, '--json').stdout)
    assert done['tried'] == done['newly_solved'] == 1 and (copied/PROGRAMS).read_bytes()[:last] == whole[:last] and len(lines(copied)) == whole.count(b'\n')


@pytest.mark.parametrize('program, says', [('flip_up_and_down', 'no program of this language'), ('trim | trim | trim', 'no longer gives the outputs of its task')])
def test_a_program_that_the_language_has_lost_is_dropped_and_its_task_solved_again(program, says, copied, some, tmp_path):
    rows = lines(copied)
    rows[1]['program'] = program
    (copied/PROGRAMS).write_text(''.join(json.dumps(row) + '\n' for row in rows))
    library = Library(copied)
    said, = library.dropped
    assert f'{PROGRAMS}:2: task {rows[1]["id"]}: {program}: {says}' in said and said in str(library) and rows[1]['id'] not in {s.task.id for s in library.solved}
    empty = tmp_path/'empty.jsonl'
    write_manifest(empty, [TASKS['67a3c6ac']])
    warned = command('--library', copied, '--tasks', empty, '--max-nodes', 1_000, '--json')
    assert f'dropped: {said}' in warned.stderr and json.loads(warned.stdout)['dropped'] == [said]
    done = command('--library', copied, '--tasks', some, '--max-nodes', 1_000, '--json')
    assert json.loads(done.stdout)['newly_solved'] == 1 and 'dropped: ' not in done.stderr and not Library(copied).dropped


def test_a_full_disk_leaves_whole_lines(tmp_path, monkeypatch):
    file = room._File(tmp_path/'rows.jsonl')
    file.append({'a': 1})
    write = os.write
    monkeypatch.setattr(room.os, 'write', lambda number, line: write(number, line[:3]))
    with pytest.raises(OSError, match='No space left'): file.append({'b': 2})
    assert (tmp_path/'rows.jsonl').read_text() == '{"a":1}\n'


def test_two_at_once_do_not_write_to_one_library(some, tmp_path):
    with only_one(tmp_path), pytest.raises(DirectoryInUse, match='at work here'): grow_library(tmp_path, [some], 100, progress=False)


# ---- stopped

GROW = 'from arc_jepa.commands import app; app(prog_name="arc-jepa")'


def growing(directory, some): return subprocess.Popen([sys.executable, '-c', GROW, 'solve', '--library', str(directory), '--tasks', str(some), '--max-nodes', '1000', '--workers', '1'], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_lines(process, directory, n, limit=300):
    end, count = time.monotonic() + limit, lambda: sum((directory/name).read_bytes().count(b'\n') for name in (PROGRAMS, UNSOLVED) if (directory/name).is_file())
    while count() < n:
        assert process.poll() is None and time.monotonic() < end, process.communicate()
        time.sleep(0.002)


@pytest.mark.parametrize('number, code, says', [(signal.SIGKILL, -signal.SIGKILL, None), (signal.SIGINT, 130, 'stopped by Ctrl-C'), (signal.SIGTERM, 143, 'stopped by SIGTERM')], ids=['SIGKILL', 'SIGINT', 'SIGTERM'])
def test_stopped_it_goes_on_with_the_tasks_that_are_left(number, code, says, grown, some, tmp_path):
    directory = tmp_path/'library'
    process = growing(directory, some)
    wait_for_lines(process, directory, 4)
    process.send_signal(number)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == code and (says is None or says in said and f'what was solved is in {directory}; the same command goes on' in said), said
    kept = {name: (directory/name).read_bytes() for name in (PROGRAMS, UNSOLVED)}
    found = sum(content.count(b'\n') for content in kept.values())
    assert 4 <= found < 30
    done = json.loads(command('--library', directory, '--tasks', some, '--max-nodes', 1_000, '--json').stdout)
    assert done['tried'] == 30 - found and all((directory/name).read_bytes().startswith(content) for name, content in kept.items())
    def facts(place): return {row['key']: row['program'] for row in lines(place)}, {row['key'] for row in lines(place, UNSOLVED)}
    assert facts(directory) == facts(grown[0]) and len(lines(directory)) + len(lines(directory, UNSOLVED)) == 30, 'each task once, as in a run that was left alone'


# ---- the command line

@pytest.mark.parametrize('words, code, says', [
    ([], 2, '--library'), (['arc1/training/67a3c6ac', '--library', '{place}'], 1, 'right would be --tasks SET'), (['--library', '{place}', '--draw'], 1, '--draw'), (['arc1/training/67a3c6ac', '--tasks', 'arc1/training'], 1, '--tasks goes with --library'),
    (['arc1/training/67a3c6ac', '--workers', '2'], 1, '--workers goes with --library'), (['--library', '{file}'], 1, '--library takes a directory'), (['--library', '{place}', '--workers', '0'], 2, 'workers'), (['--library', '{place}', '--tasks', 'arc1/trainin'], 1, 'arc1/training')])
def test_what_does_not_go_together_is_refused_before_anything_is_written(words, code, says, tmp_path):
    (tmp_path/'file').touch()
    done = command(*[word.format(place=tmp_path/'library', file=tmp_path/'file') for word in words])
    assert done.exit_code == code and says in done.stderr and not (tmp_path/'library').exists(), done.output


# ---- how many at once

def test_workers_are_as_many_as_cores_and_memory_allow(monkeypatch):
    for cores, memory, expected in ((1, 1_000, 1), (2, 1_000, 2), (64, 1_000, 2), (64, 2_000, 6), (8, 500, 1)):
        monkeypatch.setattr(solver.os, 'sched_getaffinity', lambda process, cores=cores: set(range(cores)))
        monkeypatch.setattr(solver, 'MEMORY', memory)
        assert solver.default_workers() == expected


@pytest.mark.parametrize('asked', [None, 5])
@pytest.mark.parametrize('where', ['evaluate', 'library'])
def test_threads_are_those_asked_for_or_the_default(where, asked, monkeypatch, tmp_path):
    pools, module = [], evaluation if where == 'evaluate' else room
    pool = module.ThreadPoolExecutor
    monkeypatch.setattr(module, 'ThreadPoolExecutor', lambda n: pools.append(n) or pool(n))
    monkeypatch.setattr(module, 'default_workers', lambda: 7)
    write_manifest(tmp_path/'set.jsonl', TASKS[:2])
    words = ['evaluate'] if where == 'evaluate' else ['solve', '--library', str(tmp_path/'library')]
    done = CliRunner().invoke(app, [*words, '--tasks', str(tmp_path/'set.jsonl'), '--max-nodes', '50', *(['--workers', str(asked)] if asked else [])])
    assert done.exit_code == 0 and pools == [asked or 7], done.output
