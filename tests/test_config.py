"""Configs: what the notebook 01_config cannot show - crashes, arbitrary input, other processes."""
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, strategies as st
from pydantic import Field

import arc_jepa
from arc_jepa.config import Config, ConfigError, config_hash, config_names, load_config, save_config, versions, write_atomic


class Inner(Config):
    text: str = ''
    number: float = 0.0
    items: list[str] = []
    maybe: int | None = None
    words: dict[str, str] = {}


class Outer(Config):
    seed: int = Field(0, ge=0)
    inner: Inner = Inner()
    pair: tuple[int, bool] = (1, True)
    path: Path = Path('somewhere')


texts = st.text(st.characters(codec='utf-8', exclude_categories=['Cs']), max_size=12) | st.sampled_from(
    ['no', 'on', '5e-5', '1_000', '0o17', '.inf', '~', '', 'true', '1:30', '- a', 'a: b', '# c', '!x', '&x', '*x', '=', '<<'])
inners = st.builds(Inner, text=texts, number=st.floats(allow_nan=False), items=st.lists(texts, max_size=3),
                   maybe=st.none() | st.integers(), words=st.dictionaries(texts, texts, max_size=3))
outers = st.builds(Outer, seed=st.integers(0), inner=inners, pair=st.tuples(st.integers(), st.booleans()))


@given(outers)
def test_saved_config_loads_back_to_the_same(tmp_path_factory, config):
    path = tmp_path_factory.mktemp('config') / 'config.yaml'
    save_config(config, path)
    again = load_config(Outer, path)
    assert again == config
    assert config_hash(again) == config_hash(config)


@given(st.text(alphabet='ab:-[]{}#&*!|>\'"%@` \n\t\x00é0.5e', max_size=40) | st.text(max_size=40))
def test_any_text_loads_or_is_a_config_error_with_file_and_line(tmp_path_factory, text):
    path = tmp_path_factory.mktemp('config') / 'any.yaml'
    path.write_bytes(text.encode('utf-8', 'surrogatepass'))
    try:
        load_config(Outer, path)
    except ConfigError as wrong:
        assert wrong.errors
        assert all(str(path) in line for line in wrong.errors)


@given(st.text(max_size=20))
def test_any_override_applies_or_is_a_config_error_that_names_it(text):
    for override in (text, f'inner.text={text}', f'{text}=1'):
        try:
            load_config(Outer, None, [override])
        except ConfigError as wrong:
            assert all(line.startswith('override ') for line in wrong.errors)


def test_configs_do_not_share_their_defaults():
    first, second = load_config(Outer, None), load_config(Outer, None)
    first.inner.items.append('x')
    first.inner.maybe = 3
    assert second.inner == Inner() == Outer().inner


def test_a_python_caller_is_checked_as_strictly_as_a_file():
    for wrong in (dict(seed=True), dict(seed='3'), dict(seed=1.0), dict(sead=1), dict(inner={'txt': ''})):
        with pytest.raises(ValueError):
            Outer(**wrong)


def test_one_text_as_overrides_is_refused():
    with pytest.raises(TypeError, match='list of KEY=VALUE'):
        load_config(Outer, None, 'seed=1')


def test_errors_name_the_file_from_where_one_stands(tmp_path, monkeypatch):
    (tmp_path / 'sub').mkdir()
    (tmp_path / 'sub' / 'c.yaml').write_text('seed: x\n')
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"^sub/c.yaml:1: seed should be a valid integer, got 'x'$"):
        load_config(Outer, tmp_path / 'sub' / 'c.yaml')
    monkeypatch.chdir('/')
    with pytest.raises(ConfigError, match=f'{tmp_path.name}/sub/c.yaml:1: '):
        load_config(Outer, tmp_path / 'sub' / 'c.yaml')


def test_names_are_found_from_any_folder_and_hide_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in config_names():
        with pytest.raises(ConfigError) as wrong:  # found and read: it is another kind of config
            load_config(Outer, name, ['no_such_key=1'])
        assert f'{name}.yaml' in str(wrong.value) or 'no_such_key' in str(wrong.value)
    with pytest.raises(ConfigError, match='nothing-of-this-name: no such config'):
        load_config(Outer, 'nothing-of-this-name')
    with pytest.raises(ConfigError, match='no such config'):
        load_config(Outer, tmp_path)


def test_the_hash_is_the_same_in_another_process():
    program = 'from test_config import *; print(config_hash(Outer(inner=Inner(words={"b": "1", "a": "2"}))))'
    hashes = {subprocess.run([sys.executable, '-c', program], cwd=Path(__file__).parent, text=True, capture_output=True, check=True,
                             env={**os.environ, 'PYTHONHASHSEED': seed, 'PYTHONPATH': os.pathsep.join(sys.path)}).stdout.strip()
              for seed in ('1', '2')}
    assert hashes == {config_hash(Outer(inner=Inner(words={'a': '2', 'b': '1'})))}


def test_versions_hold_no_commit_of_somebody_elses_repository(tmp_path):
    "The package copied into a repository that does not track it, as in an environment inside a project."
    subprocess.run(['git', 'init', '-q', tmp_path], check=True)
    shutil.copytree(Path(arc_jepa.__file__).parent, tmp_path / 'arc_jepa', ignore=shutil.ignore_patterns('__pycache__'))
    program = 'from arc_jepa.config import versions, _git; import arc_jepa; print(arc_jepa.__file__); print(versions())'
    answer = subprocess.run([sys.executable, '-c', program], cwd=tmp_path, text=True, capture_output=True, check=True,
                            env={**os.environ, 'PYTHONPATH': str(tmp_path)}).stdout
    assert str(tmp_path) in answer and "'commit'" not in answer
    assert versions()['python'] == sys.version.split()[0]


def test_a_writer_killed_at_any_moment_leaves_the_old_file_or_the_new_one(tmp_path):
    path = tmp_path / 'state.txt'
    program = ('import sys; from arc_jepa.config import write_atomic\n'
               'for i in range(10**9): write_atomic(sys.argv[1], f"{i} " * 20000)')
    for wait in (0.05, 0.11, 0.17):
        writer = subprocess.Popen([sys.executable, '-c', program, path], env={**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)})
        path.unlink(missing_ok=True)
        while not path.exists():
            assert writer.poll() is None
            time.sleep(0.01)
        time.sleep(wait)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        words = path.read_text().split()
        assert len(words) == 20000 and len(set(words)) == 1


def test_a_write_that_fails_keeps_the_old_file_and_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / 'a.txt'
    write_atomic(path, 'old')
    with pytest.raises(UnicodeEncodeError):
        write_atomic(path, '\ud800')
    assert [p.name for p in tmp_path.iterdir()] == ['a.txt'] and path.read_text() == 'old'


def refused(*overrides, config='jepa_tiny'):
    from arc_jepa.train.training import TrainConfig
    with pytest.raises(ConfigError) as error: load_config(TrainConfig, config, list(overrides))
    return str(error.value)


@pytest.mark.parametrize('override, key', [('training={}', 'training'), ('training={epochs: 2}', 'training'), ('data={}', 'data'), ('data.grid={max_side: 9}', 'data.grid')])
def test_an_override_does_not_reset_the_rest_of_a_section(override, key):
    said = refused(override)
    assert f'override {override}: {key} is a section' in said and f'{key}.KEY=VALUE' in said


def test_what_has_keys_of_its_own_is_set_as_a_whole():
    from arc_jepa.train.training import TrainConfig
    assert load_config(Outer, None, ['inner.words={a: b}']).inner.words == {'a': 'b'}
    assert load_config(TrainConfig, 'jepa_tiny', ['data.task_schedule={atomic: {count: 7}}']).data.task_schedule['atomic'].count == 7
    assert load_config(Outer, None, {'inner': {'number': 2.0}}).inner.number == 2.0, 'a caller that hands over a mapping means all of it'


def test_an_unknown_key_is_looked_for_in_its_own_section_first():
    assert "unknown key logging.every_steps, did you mean 'every'?" in refused('logging.every_steps=5')
    assert "did you mean 'training.epochs'" in refused('epochs=3')
    assert "did you mean 'optimizer.lr'" in refused('training.lr=1e-3')


def test_a_profile_without_a_name():
    said = refused('profile=')
    assert 'None' not in said and 'profile=NAME' in said and 'profiles: ' in said
