"""Every command line in the documentation exists, and runs here on a small scale.

To document a command, add one line to RUNS: the command as documented, and what to append so that it ends in seconds. The lines run in
this order in one empty folder, so that a later one finds what an earlier one wrote; those that need nothing of the others (ALONE) run in
test_documented_notebooks.py. One of each kind starts as a shell would start it (COLD); the rest are forked from a process that has loaded and
compiled what they all need.
"""
import re
import shlex
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import typer.main

from arc_jepa.commands import app
from children import ENVIRONMENT, Fork, command as arc_jepa

TOP = Path(__file__).resolve().parent.parent
PROGRAM = [sys.executable, '-c', 'from arc_jepa.commands import app; app(prog_name="arc-jepa")']

RUNS = {  # documented command: appended words
    'arc-jepa --version': '',
    'arc-jepa --help': '',
    'arc-jepa generate --config pilot_curriculum': ' '.join(f'task_schedule.phase_{n}.count=10' for n in ('i', 'ii', 'iii', 'iv', 'v', 'vi')) + ' held_out=6',
    'arc-jepa data check artifacts/data/pilot_curriculum': '',
    'arc-jepa data show artifacts/data/pilot_curriculum --filter phase=phase_ii --output artifacts/data/phase_ii.html': '',
    'arc-jepa train --config jepa_tiny': 'training.epochs=1 training.steps_per_epoch=4 training.batch_size=8',
    'arc-jepa train --config jepa_tiny --resume': 'training.epochs=1 training.steps_per_epoch=4 training.batch_size=8',
    'arc-jepa train --config jepa_tiny --resume artifacts/jepa/jepa_tiny/checkpoint_epoch_0001.pt': 'training.epochs=1 training.steps_per_epoch=4 training.batch_size=8',
    'arc-jepa runs list': '',
    'arc-jepa runs show artifacts/jepa/jepa_tiny --json': '',
    'arc-jepa runs verify artifacts/jepa/jepa_tiny': '',
    'arc-jepa runs pin artifacts/jepa/jepa_tiny/checkpoint_epoch_0001.pt': '',
    'arc-jepa runs prune artifacts/jepa/jepa_tiny --keep 1': '',
    'arc-jepa runs backup artifacts/jepa/jepa_tiny artifacts/backup/jepa_tiny': '',
    'arc-jepa doctor artifacts/jepa/jepa_tiny': '',
    'arc-jepa probe artifacts/jepa/jepa_tiny --json': '--tasks 16',
    'arc-jepa train --config jepa_cpu': 'training.epochs=1 training.steps_per_epoch=2 training.batch_size=8',
    'arc-jepa probe artifacts/jepa/jepa_cpu --json': '--tasks 16 --pictures artifacts/pictures',
    'arc-jepa train --config jepa_sigreg': 'training.epochs=1 training.steps_per_epoch=2 training.batch_size=8',
    'arc-jepa train --config jepa_vq': 'training.epochs=1 training.steps_per_epoch=2 training.batch_size=8',
    'arc-jepa train --config jepa_program_conditioned': 'training.epochs=1 training.steps_per_epoch=2 training.batch_size=8',
    'arc-jepa ablate --group guide --seeds 3 --seconds 60 --output artifacts/ablation/jepa_variants.json': '--seeds 1 --seconds 0.3 --questions 16 training.batch_size=8',
    'arc-jepa ablate --seeds 3 --seconds 90 --questions 200 --workers 2': '--variants vq --seeds 1 --seconds 0.3 --questions 16 --workers 2 --output artifacts/ablation/all.json training.batch_size=8',
    'arc-jepa train --config jepa_tiny training.epochs=1': '--output artifacts/jepa/again training.steps_per_epoch=2 training.batch_size=8',
    'arc-jepa triples --manifest artifacts/data/pilot_curriculum/manifest.jsonl --output artifacts/data/triples.jsonl': '',
    'arc-jepa triples --manifest artifacts/data/pilot_curriculum/manifest.jsonl --counterfactuals 8 --output artifacts/data/triples.jsonl': '',
    'arc-jepa tokenize --manifest artifacts/data/pilot_curriculum/manifest.jsonl --output artifacts/tokenized/pilot_curriculum --compress': '',
    'arc-jepa tokenize --manifest artifacts/data/pilot_curriculum/manifest.jsonl --output artifacts/tokenized/pilot_curriculum': '',
    'arc-jepa train --config jepa_pilot pre_tokenized.path=artifacts/tokenized/pilot_curriculum': 'training.epochs=1 training.steps_per_epoch=2 training.batch_size=8',
    'arc-jepa ablate --variants vq,relational --tasks artifacts/data/pilot_curriculum/manifest.jsonl --output artifacts/ablation/manifest.json': '--seeds 1 --seconds 0.3 --questions 16 training.batch_size=8',
    'arc-jepa solve arc1/training/3428a4f5 --draw': '',
    'arc-jepa solve --library artifacts/library --tasks arc1/training --tasks artifacts/data/pilot_curriculum --max-nodes 2000': '--max-nodes 100',
    'arc-jepa teach artifacts/jepa/jepa_cpu --library artifacts/library': '--generated 200',
    'arc-jepa evaluate --tasks artifacts/data/pilot_curriculum/heldout.jsonl --jepa artifacts/jepa/jepa_cpu --max-nodes 1000000 --json': '--limit 4 --max-nodes 500',
    'arc-jepa evaluate --tasks arc1/training --max-nodes 20000 --output artifacts/eval/arc1_training.json': '--limit 4 --max-nodes 500',
    'arc-jepa evaluate --tasks arc1/evaluation --guidance frequency --submission artifacts/eval/submission.json': '--limit 4 --max-nodes 500',
    'arc-jepa evaluate --tasks arc1/training --budget 10 --jepa artifacts/pilot/jepa --guidance recognition --json': '--jepa artifacts/jepa/jepa_cpu --limit 2 --budget 0.05',
    'arc-jepa evaluate --tasks arc1/training --budget 0.5 --jepa artifacts/pilot/jepa --json': '--jepa artifacts/jepa/jepa_cpu --limit 2 --budget 0.05',
    'arc-jepa generate --config ood_colours': ' '.join(f'task_schedule.phase_{n}.count=2' for n in ('i', 'ii', 'iii', 'iv', 'v', 'vi')),
    'arc-jepa evaluate --tasks artifacts/data/ood_colours/manifest.jsonl --max-nodes 20000 --jepa artifacts/pilot/jepa --json': '--jepa artifacts/jepa/jepa_cpu --limit 2 --max-nodes 200',
    'arc-jepa generate --config pilot_ood': 'task_schedule.sequential.count=12',
    'arc-jepa evaluate --tasks artifacts/data/pilot_ood/manifest.jsonl --max-nodes 20000 --output artifacts/eval/ood.json': '--limit 2 --max-nodes 200',
    'arc-jepa tune --config jepa_pilot --rates': 'training.batch_size=8',
    'arc-jepa tune --config jepa_pilot --trials 20 --seconds 60': '--trials 2 --seconds 0.5 --questions 16 --key optimizer.lr training.batch_size=8',
    'arc-jepa notebook': '',
    'arc-jepa notebook generate -p config tiny_curriculum': '',
    'arc-jepa notebook train_jepa -p config jepa_tiny -p training.epochs 5': '-p training.epochs 2 -p training.steps_per_epoch 3 -p training.batch_size 8 -p questions 16 -p output artifacts/notebooks/jepa',
    'arc-jepa notebook train_program_jepa -p training.epochs 2': '-p training.epochs 1 -p training.steps_per_epoch 2 -p training.batch_size 8 -p output artifacts/notebooks/program_jepa',
    'arc-jepa notebook evaluate -p limit 20 -p max_nodes 2000': '-p limit 4 -p max_nodes 500',
    'arc-jepa notebook ablate -p group networks -p seconds 30': '-p group batch -p seconds 0.3 -p seeds 1 -p questions 16 -p training.batch_size 8',
    'arc-jepa bench search --json': '',
    'arc-jepa pilot': '--config pilot_tiny',
}
COLD = {'arc-jepa --version', 'arc-jepa --help', 'arc-jepa train --config jepa_tiny', 'arc-jepa pilot', 'arc-jepa notebook train_jepa -p config jepa_tiny -p training.epochs 5',
        'arc-jepa ablate --seeds 3 --seconds 90 --questions 200 --workers 2'}
ALONE = [command for command in RUNS if command.startswith(('arc-jepa notebook ', 'arc-jepa pilot', 'arc-jepa bench'))]
NOT_RUN = {  # documented command: why no test runs it
    'make pilot': 'makes an environment and installs into it; what it then calls is `arc-jepa pilot`, which runs above',
    'make test': 'is what runs this test',
    'make install': 'makes an environment and installs into it',
    'make kills': 'kills two hundred runs, which takes minutes; test_kills.py kills a hundred',
    'make run NB=train_jepa ARGS=-p config jepa_tiny': 'calls `arc-jepa notebook`, which runs above',
    'make bounds': 'compiles every kernel once more, which takes minutes; it is for whoever changed a kernel',
    'make lab': 'opens a server that stays',
    'make docs': 'writes pages of all notebooks to the tree; nothing else is in it than nbconvert',
    'make export': 'writes to the tree; `make test` compares what it would write',
    'make readme': 'writes to the tree; `make test` compares what it would write',
    'make constraints': 'installs the newest versions from the network',
    'make clean': 'removes files from the tree',
    'make help': 'says what there is',
}


def texts():
    "(name, markdown) of everything that documents: README, the other .md files, the prose of all notebooks."
    for path in [*sorted(TOP.glob('*.md')), TOP / 'docs' / 'README.md', TOP / 'artifacts' / 'README.md']:
        yield path.relative_to(TOP).as_posix(), path.read_text()
    for path in sorted((TOP / 'nbs').rglob('*.ipynb')):
        if '.ipynb_checkpoints' not in path.parts:
            for cell in nbformat.read(path, as_version=4).cells:
                if cell.cell_type == 'markdown':
                    yield path.relative_to(TOP).as_posix(), cell.source


def our_command(line):
    "The words of an `arc-jepa` or `make` command line as documented, or None for any other line."
    words = shlex.split(line, comments=True)
    while words and (words[0] == '$' or re.fullmatch(r'[A-Z_]+=.*', words[0])):
        words = words[1:]
    if words and words[0].rpartition('/')[2] in ('arc-jepa', 'make'):
        return [words[0].rpartition('/')[2], *words[1:]]
    return None


def commands(markdown):
    "The command lines in the fenced shell blocks of a text: continued lines joined, chains and pipes taken apart."
    for block in re.findall(r'^[ \t]*```(?:bash|sh|shell|console)\n(.*?)^[ \t]*```', markdown, flags=re.M | re.S):
        for line in re.sub(r'\\\n\s*', ' ', block).splitlines():
            for part in re.split(r'&&|\|\|?|;', line):
                if words := our_command(part):
                    yield shlex.join(words)


def inline_commands(markdown):
    "Commands named in running text, as in `arc-jepa train`."
    prose = re.sub(r'^[ \t]*```.*?^[ \t]*```', '', markdown, flags=re.M | re.S)
    yield from re.findall(r'`((?:arc-jepa|make) [a-z-][^`\n]*)`', prose)


DOCUMENTED = {command: name for name, markdown in texts() for command in commands(markdown)}
MENTIONED = {command: name for name, markdown in texts() for command in inline_commands(markdown)}
PARSER = typer.main.get_command(app)


def unknown(command):
    "What is wrong with a command line: a subcommand, flag or make target that does not exist; '' when nothing is."
    program, *words = shlex.split(command)
    if program == 'make':
        targets = set(re.findall(r'^([a-z]+):', (TOP / 'Makefile').read_text(), flags=re.M))
        return ', '.join(f'no target {w}' for w in words if w not in targets and '=' not in w)
    at = PARSER
    while hasattr(at, 'commands') and words and not words[0].startswith('-'):
        if words[0] not in at.commands:
            return f'no subcommand {words[0]}'
        at, words = at.commands[words[0]], words[1:]
    flags = {'--help', *(flag for parameter in at.params for flag in (*parameter.opts, *parameter.secondary_opts))}
    given = [w.partition('=')[0] for w in words if re.match(r'--?[a-zA-Z]', w)]
    return ', '.join(f'{at.name} has no flag {flag}' for flag in given if flag not in flags)


def subcommands(at=PARSER, path=('arc-jepa',)):
    "Every subcommand as (words, parsed command)."
    for name, command in getattr(at, 'commands', {}).items():
        yield from subcommands(command, (*path, name)) if getattr(command, 'commands', None) else [((*path, name), command)]


def test_commands_are_found_in_the_documentation():
    text = '```bash\n$ arc-jepa a --b \\\n    1 | tee x  # c\nX=1 .venv/bin/arc-jepa d && make e; ls\n```\nsee `arc-jepa f` and `make test`'
    assert list(commands(text)) == ['arc-jepa a --b 1', 'arc-jepa d', 'make e']
    assert list(inline_commands(text)) == ['arc-jepa f', 'make test']
    assert {'make pilot', 'make test'} <= DOCUMENTED.keys() and COLD <= RUNS.keys()


def test_what_does_not_exist_is_noticed():
    assert unknown('arc-jepa no-such-thing') == 'no subcommand no-such-thing'
    assert 'no flag --no-such-flag' in unknown('arc-jepa --no-such-flag')
    assert unknown('make no-such-target') == 'no target no-such-target'
    assert unknown('arc-jepa --version') == unknown('make test JOBS=1') == ''


@pytest.mark.parametrize('command', sorted(DOCUMENTED.keys() | MENTIONED.keys()))
def test_documented_command_exists(command):
    wrong = unknown(command)
    assert not wrong, f'{DOCUMENTED.get(command) or MENTIONED.get(command)}: {command}: {wrong}'


@pytest.mark.parametrize('command', sorted(DOCUMENTED))
def test_documented_command_has_a_run(command):
    assert command in RUNS or command in NOT_RUN, f'{DOCUMENTED[command]} documents {command!r}: add it to RUNS with words that make it small'


@pytest.mark.parametrize('words, command', [pytest.param(w, c, id=' '.join(w)) for w, c in subcommands()])
def test_help_of_each_subcommand_has_an_example_that_exists(words, command):
    examples = re.findall(r'arc-jepa [a-z-][^\n`\[]*', '\n'.join(filter(None, (command.help, command.epilog))))
    assert any(example.startswith(' '.join(words)) for example in examples), f"{' '.join(words)} --help shows no example"
    assert not any(unknown(example) for example in examples), [unknown(example) for example in examples]


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    "Where all the runs happen, one after the other."
    return tmp_path_factory.mktemp('documented')


def run(command, folder, outputs):
    "The command as documented with what is appended; it has to end well."
    words = [*shlex.split(command)[1:], *shlex.split(RUNS[command])]
    if command in COLD:
        done = subprocess.run([*PROGRAM, *words], cwd=folder, capture_output=True, text=True, timeout=600, env=ENVIRONMENT)
        code, out, said = done.returncode, done.stdout, done.stderr
    else:
        fork = Fork(arc_jepa, words, folder=folder, outputs=outputs)
        out, said = fork.communicate(timeout=600)
        code = fork.returncode
    assert code == 0, f'{shlex.join(words)}\n{out[-3000:]}\n{said[-3000:]}'


@pytest.mark.parametrize('command', [command for command in RUNS if command not in ALONE])
def test_documented_command_runs(command, folder, tmp_path): run(command, folder, tmp_path)
