"""`arc-jepa evaluate`: its figures are those of its rows, its submission has an answer for everything and nothing from a test output, and after a kill it goes on in another process with what it has found."""
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given, strategies as st
from scipy.stats import t
from typer.testing import CliRunner

from arc_jepa.commands import app
from arc_jepa.datasets import load_task, load_tasks
from arc_jepa.evaluate import evaluation
from arc_jepa.evaluate.evaluation import evaluate, guessed_answers, likely_size, solve_tasks, submission
from arc_jepa.grid import Pair, Task, as_grid
from arc_jepa.statistics import geometric_ratio

EVALUATE = """
import sys
from arc_jepa.datasets import load_tasks
from arc_jepa.evaluate.evaluation import evaluate
evaluate(load_tasks('arc1/training')[:24], {sys.argv[2]: None if sys.argv[2] == 'uniform' else sys.argv[2]}, max_nodes=5_000, progress=False, workers=1, journal=sys.argv[1])
"""


def evaluating(journal, variant):
    return subprocess.Popen([sys.executable, '-c', EVALUATE, str(journal), variant])


@pytest.mark.parametrize('variant', ['uniform', 'frequency'])
def test_another_process_goes_on_after_a_kill(tmp_path, variant):
    journal = tmp_path/'journal.jsonl'
    first = evaluating(journal, variant)
    end = time.monotonic() + 300
    while not journal.is_file() or journal.read_bytes().count(b'\n') < 5:
        assert first.poll() is None and time.monotonic() < end
        time.sleep(0.01)
    first.kill()
    assert first.wait() == -signal.SIGKILL
    found = journal.read_text().splitlines()
    assert len(found) < 24
    whole = [json.loads(line) for line in found[:5]]
    second = evaluating(journal, variant)
    assert second.wait(300) == 0
    rows = [json.loads(line) for line in journal.read_text().splitlines()]
    assert rows[:5] == whole
    assert len(rows) == len({row['key'] for row in rows}) == 24, 'nothing is searched twice'


# ---- the command's figures

TASKS = load_tasks('arc1/training')


def command(*words): return CliRunner().invoke(app, ['evaluate', *map(str, words)])


def test_the_flat_figures_are_those_of_the_rows(tmp_path):
    done = command('--tasks', 'arc1/training', '--limit', 24, '--max-nodes', 2_000, '--output', tmp_path/'report.json', '--json')
    assert done.exit_code == 0, done.output
    flat, rows, tasks = json.loads(done.stdout), json.loads((tmp_path/'report.json').read_text())['results'], TASKS[:24]
    def answered(row, task, right): return all(any(right(np.array(a), pair.output) for a in tried) for tried, pair in zip(row['attempts'], task.tests)) and bool(row['attempts'])
    rows = [row['dsl_only'] for row in rows]
    solved, sized = ([answered(row, task, right) for row, task in zip(rows, tasks)] for right in (np.array_equal, lambda a, b: a.shape == b.shape))
    first = [bool(row['attempts']) and all(np.array_equal(tried[0], pair.output) for tried, pair in zip(row['attempts'], task.tests)) for row, task in zip(rows, tasks)]
    sure = [not row['guess'] for row in rows]
    assert flat['tasks'] == 24 and flat['solved_tasks'] == sum(solved) and flat['solved_one_attempt'] == sum(first)
    assert flat['solved_by_one'] == flat['programs_to_first_fit'] == {}, 'one variant has nobody beside it'
    assert flat['size_accuracy'] == pytest.approx(np.mean(sized)) and flat['full_fit_precision'] == pytest.approx(sum(np.logical_and(first, sure)) / sum(sure))
    assert flat['programs_tested'] == pytest.approx(np.mean([row['programs_tested'] for row in rows]))
    assert flat['cpu_s_per_item'] == pytest.approx(sum(row['seconds'] for row in rows) / sum(len(t.tests) for t in tasks), abs=2e-3)
    assert 0 < sum(solved) < sum(sized) < 24 and sum(first) and sum(sure), 'figures that can be told apart'


def test_a_second_attempt_does_not_make_an_answer_right_that_the_solver_stands_by():
    found = evaluate([load_task('arc1/training/c3f564a4')], max_nodes=6_000, progress=False).json['variants']['dsl_only']
    assert (found['solved_count'], found['solved_one_attempt'], found['full_fits'], found['full_fit_precision']) == (1, 0, 1, 0)

def test_guidance_gives_one_variant_of_its_name():
    for words, name, prior in ((['--guidance', 'frequency'], 'frequency', 'frequency'), (['--guidance', 'uniform'], 'dsl_only', 'uniform'), ([], 'dsl_only', 'uniform')):
        done = command('--tasks', 'arc1/training', '--limit', 2, '--max-nodes', 300, '--json', *words)
        assert done.exit_code == 0 and {n: v['prior'] for n, v in json.loads(done.stdout)['variants'].items()} == {name: prior}
        one = CliRunner().invoke(app, ['solve', 'arc1/training/0d3d703e', '--max-nodes', '300', '--json', *words])
        assert one.exit_code == 0 and json.loads(one.stdout)['prior'] == prior


@pytest.mark.parametrize('words', [['evaluate', '--tasks', 'arc1/training'], ['solve', 'arc1/training/0d3d703e']], ids=['evaluate', 'solve'])
def test_what_only_a_jepa_gives_needs_one(words):
    for name in ('statistics', 'jepa', 'recognition'):
        done = CliRunner().invoke(app, [*words, '--guidance', name])
        assert done.exit_code == 1 and f'--guidance {name} needs the run directory of a JEPA' in done.stderr
    assert CliRunner().invoke(app, [*words, '--guidance', 'frequencies']).exit_code == 2


# ---- submissions

def published(path, tasks):
    path.write_text(json.dumps({t.id: t.to_json() for t in tasks}))
    return path


def hidden(tasks): return [t.hide_test_outputs() for t in tasks]


def test_a_submission_answers_every_test_input_of_every_task(tmp_path):
    done = command('--tasks', 'arc1/training', '--max-nodes', 300, '--output', tmp_path/'report.json', '--submission', tmp_path/'new'/'submission.json')
    assert done.exit_code == 0 and str(tmp_path/'new'/'submission.json') in done.stdout, done.output
    written, rows = json.loads((tmp_path/'new'/'submission.json').read_text()), json.loads((tmp_path/'report.json').read_text())['results']
    assert list(written) == [t.id for t in TASKS] and sorted(p.name for p in tmp_path.rglob('*.json*')) == ['report.json', 'submission.json']
    filled = 0
    for task, row in zip(TASKS, rows):
        assert len(written[task.id]) == len(task.tests)
        for i, answers in enumerate(written[task.id]):
            assert list(answers) == ['attempt_1', 'attempt_2']
            for grid in answers.values(): assert max(as_grid(grid).shape) <= 30
            tried = row['dsl_only']['attempts'][i] if row['dsl_only']['attempts'] else []
            if all(max(len(a), len(a[0])) <= 30 for a in tried): assert list(answers.values())[:len(tried)] == tried
            filled += len(tried) < 2
    assert filled > 100, 'attempts that the solver does not have'


def test_test_outputs_have_no_part_in_a_submission(tmp_path):
    "Hidden, or noise: the same file."
    rng, tasks, written = np.random.default_rng(0), TASKS[::10], {}
    noise = [Task(t.id, t.demonstrations, tuple(Pair(p.input, rng.integers(0, 10, rng.integers(1, 31, 2))) for p in t.tests), {}) for t in tasks]
    for name, some in (('true', tasks), ('noise', noise), ('hidden', hidden(tasks)), ('half', [*hidden(tasks[:20]), *tasks[20:]])):
        done = command('--tasks', published(tmp_path/f'{name}.json', some), '--max-nodes', 300, '--submission', tmp_path/f'{name}.submission.json', '--json')
        assert done.exit_code == 0, done.output
        plain, written[name] = json.loads(done.stdout), (tmp_path/f'{name}.submission.json').read_bytes()
        if name in ('hidden', 'half'): assert plain['solved_tasks'] is None and plain['tasks'] == len(tasks) and 'nothing is judged' in plain['not_judged']
        else: assert plain['solved_tasks'] is not None
    assert len(set(written.values())) == 1 and not list(tmp_path.glob('*.jsonl'))


def test_hidden_outputs_are_an_error_without_a_submission_and_no_report_with_one(tmp_path):
    tasks = published(tmp_path/'tasks.json', hidden(TASKS[:2]))
    refused = command('--tasks', tasks, '--output', tmp_path/'report.json')
    assert refused.exit_code == 1 and 'no test outputs to judge by' in refused.stderr and '--submission' in refused.stderr
    done = command('--tasks', tasks, '--max-nodes', 100, '--output', tmp_path/'report.json', '--submission', tmp_path/'submission.json')
    assert done.exit_code == 0 and 'nothing is judged: 2 of 2 tasks' in done.stdout and 'report.json is not written' in done.stdout
    assert (tmp_path/'submission.json').is_file() and not (tmp_path/'report.json').exists()


@pytest.mark.parametrize('option', ['--output', '--submission'])
def test_the_tasks_themselves_are_no_place_to_write_to(option, tmp_path):
    folder = tmp_path/'tasks'
    folder.mkdir()
    file = published(folder/'one.json', TASKS[:1])
    for tasks in (file, folder):
        done = command('--tasks', tasks, '--max-nodes', 50, option, file)
        assert done.exit_code == 1 and 'tasks are read from there' in done.stderr and len(load_tasks(str(file))) == 1

def test_a_pipe_is_no_place_to_write_to(tmp_path):
    os.mkfifo(tmp_path/'pipe')
    done = command('--tasks', 'arc1/training', '--limit', 1, '--max-nodes', 50, '--output', tmp_path/'pipe')
    assert done.exit_code == 1 and 'a device or a pipe' in done.stderr and (tmp_path/'pipe').is_fifo()

def test_a_place_that_cannot_be_written_is_refused_before_the_search(tmp_path, monkeypatch):
    def never(*words, **more): raise AssertionError('searched before the refusal')
    monkeypatch.setattr(evaluation, 'solve', never)
    (tmp_path/'file').touch()
    twice = tmp_path/'twice.jsonl'
    twice.write_text(2 * (json.dumps(TASKS[0].to_json() | dict(id='twin')) + '\n'))
    for words, says in ((['--submission', tmp_path], '--submission takes a JSON file'), (['--submission', tmp_path/'file'/'s.json'], '--submission takes a JSON file'), (['--submission', '.'], '--submission takes a JSON file'),
                        (['--output', '.'], '--output takes a JSON file'), (['--output', tmp_path/'s.json', '--submission', tmp_path/'s.json'], 'two files'), (['--submission', tmp_path/'s.json', '--tasks', twice], 'several tasks are called twin')):
        done = command(*([] if '--tasks' in words else ['--tasks', 'arc1/training']), *words)
        assert done.exit_code == 1 and says in done.stderr, done.output
    assert not list(tmp_path.glob('s.*')), 'neither a file nor a journal'


@pytest.mark.parametrize('outputs', ['shown', 'hidden'])
def test_a_submission_goes_on_with_its_journal(outputs, tmp_path, monkeypatch):
    "A journal that has everything: nothing is searched, the file is the same, and the journal goes when that is there."
    tasks, place = TASKS[:6] if outputs == 'shown' else hidden(TASKS[:6]), tmp_path/'submission.json'
    solutions, _ = solve_tasks(tasks, max_nodes=500, progress=False, journal=tmp_path/'submission.journal.jsonl')
    def never(*words, **more): raise AssertionError('searched again')
    monkeypatch.setattr(evaluation, 'solve', never)
    done = command('--tasks', published(tmp_path/'tasks.json', tasks), '--max-nodes', 500, '--submission', place)
    assert done.exit_code == 0, done.output
    assert json.loads(place.read_text()) == submission(tasks, solutions) and not (tmp_path/'submission.journal.jsonl').exists()


SIDES = st.lists(st.integers(1, 30), min_size=1, max_size=5)


@given(SIDES, SIDES, st.integers(1, 30), st.integers(1, 30))
def test_a_likely_size_is_one_that_a_grid_can_have(heights, widths, height, width):
    n, here = min(len(heights), len(widths)), np.zeros((height, width), int)
    def demonstrations(rule): return [Pair(np.zeros((h, w), int), np.zeros(rule(h, w), int)) for h, w in zip(heights[:n], widths[:n])]
    assert likely_size(demonstrations(lambda h, w: (h, w)), here) == (height, width)
    for rule in (lambda h, w: (w, h), lambda h, w: (1 + h * w % 30, 31 - w)):
        assert all(1 <= side <= 30 for side in likely_size(demonstrations(rule), here))
    if len(set(heights[:n])) > 1: assert likely_size(demonstrations(lambda h, w: (h + 3, 7)), here) == (min(height + 3, 30), 7)
    if len(set(widths[:n])) > 1 and max(widths[:n]) <= 20: assert likely_size(demonstrations(lambda h, w: (h, 2 * w)), here) == (height, min(2 * width, 30))


def test_guesses_stand_in_for_attempts_that_are_missing_or_too_large():
    class Found:
        def __init__(self, *tried): self.attempts = (tried,) if tried else ()
    demonstrations = (Pair(np.zeros((2, 2), int), np.full((2, 2), 4)), Pair(np.zeros((3, 3), int), np.full((3, 3), 4)))
    task, given = Task('t', demonstrations, (Pair([[1, 2]]),)), np.array([[1, 2]])
    guess = np.full((1, 2), 4)
    assert [g.tolist() for g in guessed_answers(demonstrations, given)] == [given.tolist(), guess.tolist()]
    def answers(*tried): return list(submission([task], [Found(*tried)])['t'][0].values())
    one, two, large = np.array([[7]]), np.array([[8]]), np.zeros((31, 2), int)
    for tried, expected in (((), [given, guess]), ((one,), [one, given]), ((given,), [given, guess]), ((one, two), [one, two]), ((large, two), [two, given]), ((guess, given), [guess, given])):
        assert answers(*tried) == [grid.tolist() for grid in expected]


def test_another_solver_does_not_answer_from_the_journal(tmp_path, monkeypatch):
    tasks, journal = load_tasks('arc1/training')[:3], tmp_path/'journal.jsonl'
    for stamp, lines in (('one', 3), ('one', 3), ('another', 6)):
        monkeypatch.setattr(evaluation, 'solver_stamp', lambda stamp=stamp: stamp)
        evaluation.evaluate(tasks, max_nodes=300, progress=False, journal=journal)
        assert len(journal.read_text().splitlines()) == lines

def test_phases_of_a_curriculum_are_counted_each():
    tasks = [Task(t.id, t.demonstrations, t.tests, {'phase': phase}) for t, phase in zip(load_tasks('arc1/training')[:9], ('phase_i', 'phase_ii', 'phase_ii') * 3)]
    report = evaluate(tasks, max_nodes=2_000, progress=False)
    solved = [row['dsl_only']['solved'] for row in report.json['results']]
    assert report.json['variants']['dsl_only']['by_phase'] == {phase: {'solved': sum(s for s, t in zip(solved, tasks) if t.metadata['phase'] == phase), 'tasks': n} for phase, n in (('phase_i', 3), ('phase_ii', 6))}
    assert 'phase_ii' in str(report) and 0 < sum(solved) < 9
    assert evaluate(load_tasks('arc1/training')[:1], max_nodes=100, progress=False).json['variants']['dsl_only']['by_phase'] == {}

@pytest.mark.parametrize('n', [2, 3, 5, 9])
def test_the_interval_of_a_ratio_keeps_its_promise_with_few_tasks(n):
    "In some 95 % of 600 repetitions the true ratio, 8, is inside; and the interval is that of t on the logarithms."
    rng, held = np.random.default_rng(n), 0
    for _ in range(600):
        logs = np.log(8) + rng.normal(size=n)
        ratio, (low, high) = geometric_ratio(np.stack([np.exp(logs) * 50, np.full(n, 50.0)], 1))
        half = t.ppf(.975, n - 1) * logs.std(ddof=1) / n ** .5
        assert ratio == pytest.approx(np.exp(logs.mean())) and (low, high) == pytest.approx((np.exp(logs.mean() - half), np.exp(logs.mean() + half)))
        held += low <= 8 <= high
    assert .92 < held / 600 < .98
