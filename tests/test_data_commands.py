"""`arc-jepa data show`, `arc-jepa data check` and `arc-jepa evaluate --skip-bad`, run as from a shell, on files that are whole and on files that are not."""
import gzip
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

from arc_jepa.commands import app
from arc_jepa.datasets import load_tasks, write_manifest
from arc_jepa.generate.corpus import generate
from arc_jepa.generate.generator import GenerateConfig, PhaseConfig, ProgramConfig
from arc_jepa.grid import Pair, Task

PROGRAM = [sys.executable, '-c', 'from arc_jepa.commands import app; app(prog_name="arc-jepa")']
PHASES = {'phase_i': PhaseConfig(count=20), 'phase_ii': PhaseConfig(count=15)}
LENGTHS = ProgramConfig(length_schedule={'phase_i': {1: 1.0}, 'phase_ii': {2: 0.6, 3: 0.4}})


def run(*words): return CliRunner().invoke(app, ['data', *map(str, words)])


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    directory = tmp_path_factory.mktemp('made')
    generate(GenerateConfig(name='made', seed=3, task_schedule=PHASES, program=LENGTHS, held_out=6), directory, progress=False)
    return directory


def shown_ids(text): return re.findall(r'^made-\S+$', text, flags=re.M)


# ---- show

def test_show_draws_the_first_tasks(made):
    tasks = load_tasks(made / 'manifest.jsonl')
    for path in (made, made / 'manifest.jsonl'):
        result = run('show', path)
        assert result.exit_code == 0 and shown_ids(result.stdout) == tasks.ids[:12]
    result = run('show', path, '--n', 1)
    assert f'program: {tasks[0].metadata["program"]}' in result.stdout and 'phase=phase_i, kind=sequential, seed=3, index=0' in result.stdout and 'demonstration 1: ' in result.stdout


def test_show_takes_whatever_load_tasks_takes(made, tmp_path):
    assert run('show', 'arc1/training', '--n', 2).stdout.count('demonstration 1:') == 2
    packed, folder = tmp_path / 'm.jsonl.gz', tmp_path / 'folder'
    packed.write_bytes(gzip.compress((made / 'manifest.jsonl').read_bytes()))
    folder.mkdir()
    for task in load_tasks('arc1/training')[:3]: (folder / f'{task.id}.json').write_text(json.dumps(task.to_json()))
    assert len(shown_ids(run('show', packed).stdout)) == 12
    assert run('show', folder).stdout.count('demonstration 1:') == run('show', folder / '007bbfb7.json', '--n', 1).stdout.count('demonstration 1:') * 3 == 3


def test_filters(made):
    tasks = load_tasks(made / 'manifest.jsonl')
    op = tasks[25].metadata['rule_trace'][1]['name']
    for filters, meets in [(['phase=phase_ii'], lambda t: t.metadata['phase'] == 'phase_ii'), (['length=3'], lambda t: len(t.metadata['rule_trace']) == 3), (['index=4'], lambda t: t.metadata['index'] == 4),
                           ([f'op={op}'], lambda t: op in [s['name'] for s in t.metadata['rule_trace']]),
                           (['phase=phase_ii', 'length=2', f'op={op}'], lambda t: len(t.metadata['rule_trace']) == 2 and op in [s['name'] for s in t.metadata['rule_trace']])]:
        expected = [task.id for task in tasks if meets(task)]
        result = run('show', made, '--n', 100, *[word for f in filters for word in ('--filter', f)])
        if expected: assert result.exit_code == 0 and shown_ids(result.stdout) == expected, filters
        else: assert result.exit_code == 1 and 'together' in result.output


def test_dotted_keys_and_values_as_text(tmp_path):
    pair = Pair([[1]], [[2]])
    write_manifest(tmp_path / 'm.jsonl', [Task(f'made-{i}', [pair], [pair], {'sides': {'low': i, 'free': i == 2}, 'none': None, 'list': [1, 2]}) for i in range(4)])
    for text, ids in [('sides.low=3', ['made-3']), ('sides.free=true', ['made-2']), ('none=null', [f'made-{i}' for i in range(4)]), ('list=[1,2]', [f'made-{i}' for i in range(4)])]:
        assert shown_ids(run('show', tmp_path / 'm.jsonl', '--filter', text).stdout) == ids
    result = run('show', tmp_path / 'm.jsonl', '--filter', 'sides.lw=3')
    assert result.exit_code == 1 and "no task has 'sides.lw' in its metadata, did you mean 'sides.low'? (there are: list, none, sides.free, sides.low)" in result.output


@pytest.mark.parametrize('filters, says', [
    (['phse=phase_i'], r"no task has 'phse' in its metadata, did you mean 'phase'\? \(there are: index, kind, length, op, phase, program, seed\)"),
    (['phase=phase_x'], r"no task has phase=phase_x, did you mean 'phase_i.*\(there are: phase_i, phase_ii\)"),
    (['length=9'], r'no task has length=9.*\(there are: 1, 2, 3\)'),
    (['op=no_such_operation'], r'no task has op=no_such_operation.*\(there are: '),
    (['phase=phase_i', 'length=3'], r'no task meets all of these together: phase=phase_i \(20\), length=3 \(\d+\)'),
    (['phase'], r'--filter phase: a filter is KEY=VALUE, such as phase=phase_i'),
    (['=x'], r'--filter =x: a filter is KEY=VALUE'),
    (['length=1', 'length=2'], r'length is asked to be 1 as well'),
])
def test_a_filter_that_nothing_meets_says_what_there_is(made, filters, says):
    result = run('show', made, *[word for f in filters for word in ('--filter', f)])
    assert result.exit_code == 1 and re.search(says, result.output), result.output


@pytest.mark.parametrize('path, says', [('arc1/trainin', "did you mean 'arc1/training'"), ('nowhere.jsonl', 'neither a data set nor a file')])
def test_a_path_that_leads_nowhere(path, says):
    for command in ('show', 'check'):
        result = run(command, path)
        assert result.exit_code == 1 and says in result.output and 'Traceback' not in result.output


def test_page(made, tmp_path):
    output = tmp_path / 'new' / 'page.html'
    result = run('show', made, '--filter', 'phase=phase_ii', '--n', 5, '--output', output)
    assert result.exit_code == 0 and result.stdout.strip().endswith(f'5 of 35 tasks: {output}')
    page, tasks = output.read_text(), [task for task in load_tasks(made / 'manifest.jsonl') if task.metadata['phase'] == 'phase_ii'][:5]
    assert 'manifest.jsonl</h1><p>5 of 35 tasks shown; filter: phase=phase_ii</p>' in page
    assert re.findall(r'<h2>(\S+) <small>phase_ii', page) == [task.id for task in tasks]
    assert re.findall(r'<code>(.*?)</code>', page) == [task.metadata['program'] for task in tasks]
    assert page.count('<svg') == sum(2 * len(task.demonstrations + task.tests) for task in tasks)
    assert not re.search(r'(src|href)=|https?://(?!www\.w3\.org/2000/svg)', page), 'needs nothing else'
    before = output.read_bytes()
    assert run('show', made, '--filter', 'phase=x', '--output', output).exit_code == 1 and output.read_bytes() == before
    refused = run('show', made, '--output', tmp_path)
    assert refused.exit_code == 1 and '--output takes an HTML file' in refused.output


def test_what_is_in_a_file_cannot_write_into_the_page(tmp_path):
    pair, evil = Pair([[1]], [[2]]), '<script>alert(1)</script>'
    write_manifest(tmp_path / 'm.jsonl', [Task(evil, [pair], [pair], {'phase': evil, 'program': evil, evil: evil})])
    assert run('show', tmp_path / 'm.jsonl', '--filter', f'phase={evil}', '--output', tmp_path / 'p.html').exit_code == 0
    assert '<script' not in (tmp_path / 'p.html').read_text()


def test_show_reads_no_further_than_it_must(tmp_path):
    good = json.dumps({'id': 'made-0', 'train': [{'input': [[1]], 'output': [[2]]}], 'test': [{'input': [[1]]}], 'metadata': {'phase': 'a'}})
    (tmp_path / 'm.jsonl').write_text('\n'.join([good] * 12 + ['broken'] * 3))
    assert run('show', tmp_path / 'm.jsonl').exit_code == run('show', tmp_path / 'm.jsonl', '--filter', 'phase=a').exit_code == 0
    result = run('show', tmp_path / 'm.jsonl', '--n', 13)
    assert result.exit_code == 1 and 'm.jsonl:13: column 1: not JSON' in result.output


def test_a_pipe_that_closes_early_is_no_error(made):
    result = subprocess.run(['bash', '-c', '"$@" | head -1', 'bash', *PROGRAM, 'data', 'show', str(made), '--n', '35'], capture_output=True, text=True, timeout=120)
    assert result.stdout.startswith('made-') and result.stderr == ''


# ---- check

def test_check_of_what_generate_wrote(made):
    result = run('check', made / 'manifest.jsonl')
    assert result.exit_code == 0 and re.search(r'manifest\.jsonl: 35 good tasks \(phase_i: 20, phase_ii: 15\), 0 problems, \d+\.\d s', result.stdout)
    both = run('check', made, '--json')
    assert both.exit_code == 0 and json.loads(both.stdout)['tasks'] == 41 and json.loads(both.stdout)['bad'] == 0
    assert run('check', 'arc2/evaluation').exit_code == 0


def changed(record, **metadata): return {**record, 'metadata': {**record['metadata'], **metadata}}


def damages(line):
    "name: (bytes of a line, what the check says of it)."
    record = json.loads(line)
    wrong = json.loads(line)
    grid = wrong['test'][0]['output']
    grid[0][0] = (grid[0][0] + 1) % 10
    return {
        'cut off': (line[:200], 'column 200: not JSON|column 201: not JSON|column \\d+: not JSON'),
        'binary': (b'\x80\x00\xff\x13' * 20, 'byte 0: not UTF-8 text'),
        'zeros': (b'\0' * 300, 'column 1: not JSON'),
        'a list': (b'[1, 2]', r'list \[1, 2\]; a task is an object'),
        'no tests': (json.dumps({**record, 'test': []}).encode(), '"test" is list'),
        'colour': (json.dumps({**record, 'train': [{'input': [[10]], 'output': [[1]]}]}).encode(), r'train\[0\]\.input: row 0, column 0 holds int 10'),
        'another output': (json.dumps(wrong).encode(), r'test\[0\]\.output: is not what the program gives'),
        'no program': (json.dumps(changed(record, program='no_such(3)')).encode(), "program: column 1: no operation 'no_such'"),
        'a number': (json.dumps(changed(record, program=3)).encode(), 'program: a program is text, not int'),
        'no grid': (json.dumps(changed(record, program='size')).encode(), 'program: (gives|column)'),
        'other steps': (json.dumps(changed(record, rule_trace=[{'name': 'x'}])).encode(), r'rule_trace\[0\]: is x, and step 1 of the program'),
        'other arguments': (json.dumps(changed(record, rule_trace=[{**record['metadata']['rule_trace'][0], 'args': ['x', 'y', 'z']}])).encode(), r'rule_trace\[0\]: has arguments \["x","y","z"\]'),
        'no steps': (json.dumps(changed(record, rule_trace=[])).encode(), 'rule_trace: has 0 steps, the program 1'),
        'no trace': (json.dumps(changed(record, rule_trace='x')).encode(), 'rule_trace: is not a list of steps'),
    }


KINDS = ['cut off', 'binary', 'zeros', 'a list', 'no tests', 'colour', 'another output', 'no program', 'a number', 'no grid', 'other steps', 'other arguments', 'no steps', 'no trace']


@pytest.mark.parametrize('suffix', ['.jsonl', '.jsonl.gz'])
@pytest.mark.parametrize('kind', KINDS)
def test_a_bad_line_is_named(made, tmp_path, kind, suffix):
    lines = (made / 'manifest.jsonl').read_bytes().splitlines()[:5]
    lines[2], says = damages(lines[2])[kind]
    path = tmp_path / f'm{suffix}'
    path.write_bytes((gzip.compress if suffix.endswith('gz') else bytes)(b'\n'.join(lines) + b'\n'))
    result = run('check', path)
    problems = [line for line in result.stdout.splitlines() if re.match(r'.*m\.jsonl\S*:\d+: ', line)]
    assert result.exit_code == 1 and len(problems) == 1 and re.search(rf'm{suffix}:3: .*({says})', problems[0]), result.output
    assert f'm{suffix}: 4 good tasks (phase_i: 4), 1 problem,' in result.stdout
    as_json = run('check', path, '--json')
    assert as_json.exit_code == 1 and (found := json.loads(as_json.stdout))['problems'] == problems and (found['tasks'], found['bad'], found['phases']) == (4, 1, {'phase_i': 4})
    assert run('check', path, '--skip-bad').exit_code == 0


def test_every_kind_of_damage_is_tried(made):
    assert list(damages((made / 'manifest.jsonl').read_bytes().splitlines()[2])) == KINDS


@pytest.mark.parametrize('content, says', [
    pytest.param(lambda whole: whole[:-300], r'm\.jsonl:35: the file ends within this record, after [\d,]+ bytes of it', id='cut off'),
    pytest.param(lambda whole: b'', r'm\.jsonl: the file is empty', id='empty'),
    pytest.param(lambda whole: b'\n\r\n\n', r'm\.jsonl: there is no task in it', id='only empty lines'),
    pytest.param(lambda whole: os.urandom(3000).replace(b'\n', b'x'), r'm\.jsonl:1: ', id='rubbish'),
    pytest.param(lambda whole: b'x' * (20 << 20), r'm\.jsonl:1: longer than 16 MB, which no task is', id='no line ends'),
])
def test_a_file_that_is_not_whole(made, tmp_path, content, says):
    (tmp_path / 'm.jsonl').write_bytes(content((made / 'manifest.jsonl').read_bytes()))
    result = run('check', tmp_path / 'm.jsonl')
    assert result.exit_code == 1 and re.search(says, result.stdout) and ', 1 problem, ' in result.stdout, result.output


def test_lines_after_one_that_is_too_long_keep_their_numbers(made, tmp_path):
    good = (made / 'manifest.jsonl').read_bytes().splitlines()[0]
    for size in ((16 << 20) - 1, 16 << 20, (16 << 20) + 1, 40 << 20):
        (tmp_path / 'm.jsonl').write_bytes(b'\n'.join([good, b'x' * size, good, b'y']))
        result = run('check', tmp_path / 'm.jsonl')
        assert re.findall(r':(\d+): ', result.stdout) == ['2', '4'] and '2 good tasks' in result.stdout


def test_gz_cut_short(made, tmp_path):
    packed = gzip.compress((made / 'manifest.jsonl').read_bytes())
    (tmp_path / 'm.jsonl.gz').write_bytes(packed[:len(packed) // 2])
    result = run('check', tmp_path / 'm.jsonl.gz')
    assert result.exit_code == 1 and (broken := re.search(r'm\.jsonl\.gz:(\d+): cannot be unpacked from here on: .*not a complete gzip file', result.stdout))
    assert f'{int(broken[1]) - 1} good tasks' in result.stdout and int(broken[1]) > 5
    assert run('check', tmp_path / 'm.jsonl.gz', '--skip-bad').exit_code == 1, 'no record can be left out of what cannot be read'


def test_empty_lines_are_counted_and_no_mistake(made, tmp_path):
    lines = (made / 'manifest.jsonl').read_bytes().splitlines()[:3]
    (tmp_path / 'm.jsonl').write_bytes(lines[0] + b'\n\n\r\n' + lines[1] + b'\r\n' + lines[2])
    result = run('check', tmp_path / 'm.jsonl')
    assert result.exit_code == 0 and '2 empty lines, which reading skips' in result.stdout and '3 good tasks' in result.stdout


def test_many_bad_lines_are_counted_and_fifty_shown(made, tmp_path):
    (tmp_path / 'm.jsonl').write_text('broken\n' * 130)
    result = run('check', tmp_path / 'm.jsonl')
    assert len(re.findall(r'm\.jsonl:\d+: ', result.stdout)) == 50 and '... and 80 more' in result.stdout and '130 problems' in result.stdout
    assert run('check', tmp_path / 'm.jsonl', '--skip-bad').exit_code == 1, 'nothing is left'


@pytest.mark.parametrize('change, says', [
    (lambda summary: {**summary, 'total_tasks': 36}, r'summary\.json: total_tasks is 36, and manifest\.jsonl has 35 records'),
    (lambda summary: {**summary, 'held_out_tasks': 7}, r'summary\.json: held_out_tasks is 7, and heldout\.jsonl has 6 records'),
    (lambda summary: {}, r"summary\.json: there is no 'held_out_tasks' in it"),
    (lambda summary: 7, r"summary\.json: there is no 'held_out_tasks' in it"),
    (lambda summary: None, r'summary\.json:1: column 1: not JSON'),
])
def test_the_summary_beside_it_agrees(made, tmp_path, change, says):
    for name in ('manifest.jsonl', 'heldout.jsonl'): (tmp_path / name).write_bytes((made / name).read_bytes())
    summary = change(json.loads((made / 'summary.json').read_text()))
    (tmp_path / 'summary.json').write_text('torn' if summary is None else json.dumps(summary))
    result = run('check', tmp_path)
    assert result.exit_code == 1 and re.search(says, result.stdout), result.output


def test_json_files_and_folders(tmp_path):
    tasks = load_tasks('arc1/training')[:4]
    for task in tasks: (tmp_path / f'{task.id}.json').write_text(json.dumps(task.to_json()))
    assert '4 good tasks (without a phase: 4)' in run('check', tmp_path).stdout
    (tmp_path / 'torn.json').write_text('{"train": [')
    (tmp_path / 'false.json').write_text(json.dumps({**tasks[0].to_json(), 'metadata': {'program': 'flip_left_right'}}))
    result = run('check', tmp_path)
    assert result.exit_code == 1 and re.search(r'torn\.json:1: column 12: not JSON', result.stdout) and re.search(r'false\.json: task \S+: train\[0\]\.output: is not what the program gives', result.stdout)
    assert run('check', tmp_path / 'torn.json').exit_code == 1
    many = tmp_path / 'many' / 'all.json'
    many.parent.mkdir()
    many.write_text(json.dumps({task.id: task.to_json() for task in tasks}))
    assert '4 good tasks' in run('check', many).stdout


MEMORY = """
import resource, sys
from arc_jepa.evaluate.data_pages import check_data
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
check_data(sys.argv[1], progress=False)
before = peak()
account = check_data(sys.argv[2], progress=False)
print(account.tasks, account.bad, peak() - before)
"""


@pytest.mark.skipif(sys.platform != 'linux', reason='ru_maxrss is in kilobytes on Linux only')
def test_check_holds_one_record_at_a_time(made, tmp_path):
    record = json.dumps(Task('large', [Pair(np.zeros((30, 30), int), np.ones((30, 30), int))] * 4, [Pair(np.zeros((30, 30), int))]).to_json())
    with open(tmp_path / 'm.jsonl', 'w') as file: file.writelines(record + '\n' for _ in range(5000))
    result = subprocess.run([sys.executable, '-c', MEMORY, str(made / 'manifest.jsonl'), str(tmp_path / 'm.jsonl')], capture_output=True, text=True, timeout=300, check=True)
    tasks, bad, grown = map(int, result.stdout.split())
    assert (tasks, bad) == (5000, 0) and (tmp_path / 'm.jsonl').stat().st_size > 80 << 20 and grown < 10      # MiB


# ---- evaluate

def test_evaluate_goes_on_without_bad_records_and_says_so(made, tmp_path):
    lines = (made / 'manifest.jsonl').read_bytes().splitlines()[:3]
    (tmp_path / 'm.jsonl').write_bytes(b'\n'.join([lines[0], b'broken', lines[1], lines[2][:90]]))
    words = ['evaluate', '--tasks', str(tmp_path / 'm.jsonl'), '--max-nodes', '50', '--json']
    stopped = CliRunner().invoke(app, words)
    assert stopped.exit_code == 1 and 'm.jsonl:2: column 1: not JSON' in stopped.output
    result = CliRunner().invoke(app, [*words, '--skip-bad', '--output', str(tmp_path / 'e.json')])
    assert result.exit_code == 0 and '2 bad records left out' in result.stderr
    assert json.loads(result.stdout)['tasks'] == 2 and json.loads(result.stdout)['dataset']['skipped'] == json.loads((tmp_path / 'e.json').read_text())['dataset']['skipped'] == 2
