"""Run notebooks: what they take, that they define nothing, and that one which was killed goes on with the same command and ends the same."""
import ast
import json
import signal
import subprocess
import sys

import nbformat
import pytest

from arc_jepa.config import load_config
from arc_jepa.notebooks import find_notebook, notebook_names, parameters_of
from arc_jepa.train.runs import describe_run
from arc_jepa.train.training import TrainConfig, train_jepa
from children import ENVIRONMENT, wait_for_step

LONG = ['training.epochs=12', 'training.steps_per_epoch=15', 'training.batch_size=8', 'training.counterfactuals=2', 'training.threads=1', 'network.width=16', 'network.latent=16', 'logging.every=1', 'logging.enabled=false']


@pytest.mark.parametrize('name', notebook_names())
def test_a_run_notebook_has_parameters_and_no_definitions(name):
    cells = nbformat.read(find_notebook(name), as_version=4).cells
    assert parameters_of(find_notebook(name)) and cells[0].source.startswith('# Run: '), 'what nbdev is told about them is no part of the page'
    assert find_notebook(name).with_name('.notest').is_file(), 'nbdev_test would run it'
    for cell in cells:
        if cell.cell_type == 'code': assert not [node for node in ast.walk(ast.parse(cell.source)) if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Lambda))], cell.source
        assert not cell.get('outputs'), 'outputs belong into the copy'


def start(folder, settings):
    words = [word for setting in settings for word in ('-p', *setting.split('=', 1))]
    return subprocess.Popen([sys.executable, '-c', 'from arc_jepa.commands import app; app(prog_name="arc-jepa")', 'notebook', 'train_jepa', '-p', 'config', 'jepa_tiny', *words, '-p', 'output', str(folder/'run'), '-p', 'questions', '0', '-o', str(folder/'copy.ipynb')],
                            cwd=folder, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    "The run that nobody stops."
    return train_jepa(load_config(TrainConfig, 'jepa_tiny', LONG), tmp_path_factory.mktemp('whole'), progress=False)


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGKILL])
def test_stopped_or_killed_it_goes_on_and_ends_the_same(tmp_path, whole, number):
    process = start(tmp_path, LONG)
    wait_for_step(process, tmp_path/'run', 17)
    process.send_signal(number)
    process.communicate(timeout=120)
    assert process.returncode not in (0, None)
    saved = describe_run(tmp_path/'run')
    assert 15 <= saved['step'] < whole.steps == 180
    if number == signal.SIGTERM: assert saved['step'] % 15 == 0 or saved['checkpoints'][0]['name'].startswith('checkpoint_step_'), 'saved where it stopped'
    again = start(tmp_path, LONG)
    out, said = again.communicate(timeout=600)
    assert again.returncode == 0 and str(tmp_path/'copy.ipynb') in out, said[-3000:]
    assert describe_run(tmp_path/'run')['state_sha256'] == whole.state_sha256
    copy = json.loads((tmp_path/'copy.ipynb').read_text())
    outputs = [output for cell in copy['cells'] for output in cell.get('outputs', [])]
    assert any('resumed' in ''.join(output.get('text', '')) for output in outputs) and any('image/png' in output.get('data', {}) for output in outputs)


def test_an_error_is_said_and_ends_it(tmp_path):
    wrong = {'training.epohcs=3': "unknown key training.epohcs, did you mean 'epochs'", 'epochs=3': "unknown key epochs, did you mean 'training.epochs'", 'questionss=3': "has no parameter 'questionss', did you mean 'questions'"}
    places = [tmp_path/str(i) for i in range(len(wrong))]
    for place in places: place.mkdir()
    for process, message in zip([start(place, [setting]) for place, setting in zip(places, wrong)], wrong.values()):
        said = process.communicate(timeout=600)[1]
        assert process.returncode == 1 and message in said and 'Traceback' not in said and 'Unable to parse' not in said, said[-2000:]
