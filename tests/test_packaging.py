"""The package as a user gets it: built as a wheel, installed elsewhere, without the notebooks and the development tools."""
import ast
import configparser
import os
import re
import resource
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parent.parent
PACKAGE = TOP / 'arc_jepa'
DEVELOPMENT_ONLY = ('nbdev', 'fastcore', 'execnb', 'ghapi', 'pytest', 'hypothesis', 'build')
HEAVY = ('torch', 'numba', 'matplotlib')


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    "The wheel, built from a copy: a build leaves files behind."
    copy = tmp_path_factory.mktemp('build') / 'tree'
    copy.mkdir()
    for name in ('settings.ini', 'setup.py', 'pyproject.toml', 'README.md', 'LICENSE'):
        shutil.copy(TOP / name, copy)
    shutil.copytree(PACKAGE, copy / 'arc_jepa', ignore=shutil.ignore_patterns('__pycache__', '*.nb[ic]'))
    subprocess.run([sys.executable, '-m', 'build', '--wheel', '--no-isolation', '--outdir', copy / 'dist', copy],
                   check=True, capture_output=True, text=True)
    return next((copy / 'dist').glob('*.whl'))


@pytest.fixture(scope='module')
def installed(wheel, tmp_path_factory):
    "An empty folder with nothing but the wheel; what it depends on comes from this environment."
    folder = tmp_path_factory.mktemp('installed')
    subprocess.run([sys.executable, '-m', 'pip', 'install', '--quiet', '--no-deps', '--no-index', '--target', folder, wheel],
                   check=True, capture_output=True, text=True)
    return folder


def run(installed, *words, cwd=None):
    "Run a command that sees the installed copy before anything else; the completed process."
    return subprocess.run([*map(str, words)], cwd=cwd or installed.parent, env={**os.environ, 'PYTHONPATH': str(installed)},
                          capture_output=True, text=True, timeout=300)


def test_wheel_holds_every_module_and_data_file_and_nothing_else(wheel):
    found = {name for name in zipfile.ZipFile(wheel).namelist() if '.dist-info/' not in name}
    patterns = ('**/*.py', 'configs/**/*.yaml', 'library/*.txt')
    assert found == {p.relative_to(TOP).as_posix() for pattern in patterns for p in PACKAGE.glob(pattern)}


def test_metadata_is_what_settings_ini_says(wheel):
    settings = configparser.ConfigParser(delimiters=['='], interpolation=None)
    settings.read(TOP / 'settings.ini')
    archive = zipfile.ZipFile(wheel)
    text = archive.read(next(n for n in archive.namelist() if n.endswith('.dist-info/METADATA'))).decode()
    required = {line.split(': ')[1] for line in text.splitlines() if line.startswith('Requires-Dist: ') and 'extra ==' not in line}
    assert required == set(settings['DEFAULT']['requirements'].split())
    assert f"Version: {settings['DEFAULT']['version']}" in text
    assert any(name.endswith('LICENSE') for name in archive.namelist())


def test_every_requirement_is_pinned_once():
    "constraints.txt holds one exact version of everything that settings.ini asks for, and nothing of the machine that wrote it."
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name
    pins = [Requirement(line) for line in (TOP / 'constraints.txt').read_text().splitlines() if not line.startswith('#')]
    assert all(str(pin.specifier).startswith('==') and '+' not in str(pin.specifier) and not pin.url for pin in pins)
    versions = {canonicalize_name(pin.name): next(iter(pin.specifier)).version for pin in pins}
    assert len(versions) == len(pins)
    settings = configparser.ConfigParser(delimiters=['='], interpolation=None)
    settings.read(TOP / 'settings.ini')
    for key in ('requirements', 'dev_requirements'):
        for wanted in map(Requirement, settings['DEFAULT'][key].split()):
            assert wanted.specifier.contains(versions[canonicalize_name(wanted.name)]), wanted


def test_configs_are_found_where_it_is_installed(installed):
    program = 'import arc_jepa, arc_jepa.config as c; print(arc_jepa.__file__); print(*c.config_names())'
    answer = run(installed, sys.executable, '-c', program)
    assert answer.returncode == 0, answer.stderr
    place, names = answer.stdout.split('\n')[:2]
    assert Path(place).is_relative_to(installed)
    assert names.split() == sorted(p.stem for p in (PACKAGE / 'configs').glob('*.yaml'))


def test_every_module_imports_without_the_development_tools(installed):
    program = f'''
import importlib, pkgutil, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in {DEVELOPMENT_ONLY}: raise ModuleNotFoundError('development only: ' + name)
sys.meta_path.insert(0, Refuse())
import arc_jepa
for module in pkgutil.walk_packages(arc_jepa.__path__, 'arc_jepa.'):
    importlib.import_module(module.name)
    print(module.name)
'''
    answer = run(installed, sys.executable, '-c', program)
    assert answer.returncode == 0, answer.stderr
    assert 'arc_jepa.commands' in answer.stdout.split()


def test_the_command_runs_where_it_is_installed(installed):
    answer = run(installed, installed / 'bin' / 'arc-jepa', '--help')
    assert answer.returncode == 0, answer.stderr
    assert 'Usage' in answer.stdout


@pytest.mark.parametrize('module', ['arc_jepa', 'arc_jepa.commands'])
def test_importing_is_light(installed, module):
    program = f'import sys, {module}; print(*[name for name in {HEAVY} if name in sys.modules])'
    answer = run(installed, sys.executable, '-c', program)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.split() == []


def test_help_takes_well_under_a_second_of_processor_time(installed):
    def seconds():
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert run(installed, installed / 'bin' / 'arc-jepa', '--help').returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert min(seconds() for _ in range(3)) < 1.0  # the first run compiles


def test_no_module_imports_from_a_floor_above_it():
    floor = {}
    for path in PACKAGE.rglob('*.py'):
        made_from = re.search(r'File to edit: (?:\.\./)+nbs/(\d+)_', path.read_text(encoding='utf8'))
        if made_from: floor['.'.join(path.relative_to(TOP).with_suffix('').parts)] = int(made_from[1])
    def imported(module, node):
        if isinstance(node, ast.Import): return [name.name for name in node.names]
        start = '.'.join([*module.split('.')[:-node.level], *filter(None, [node.module])]) if node.level else node.module
        return [start, *(f'{start}.{name.name}' for name in node.names)]
    up = [f'{module} ({floor[module]}) line {node.lineno}: {name} ({floor[name]})' for module in floor
          for node in ast.walk(ast.parse((TOP / (module.replace('.', '/') + '.py')).read_text(encoding='utf8'))) if isinstance(node, ast.Import | ast.ImportFrom)
          for name in imported(module, node) if floor.get(name, -1) > floor[module]]
    assert len(floor) > 30 and not up, up
