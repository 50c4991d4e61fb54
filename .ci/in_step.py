"""Check that modules, notebooks and README.md are what `make export` would write; changes nothing.

The notebooks are cleaned and exported in a copy, which is then compared with the tree: it works in a tree with uncommitted changes.
"""
import difflib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
PACKAGE = 'arc_jepa'
SKIP = shutil.ignore_patterns('__pycache__', '.ipynb_checkpoints')


def files(top: Path, folder: str, suffix: str) -> dict[str, str]:
    "Relative path → text of the files under `folder` that end in `suffix`."
    paths = sorted((top / folder).rglob('*' + suffix))
    return {p.relative_to(top).as_posix(): p.read_text(encoding='utf-8') for p in paths
            if not any(part.startswith('.') or part == '__pycache__' for part in p.relative_to(top).parts)}


def exported_copy(copy: Path) -> None:
    "Copy what matters to `copy`, clean the notebooks there and export them."
    for name in ('nbs', PACKAGE):
        shutil.copytree(TOP / name, copy / name, ignore=SKIP)
    shutil.copy(TOP / 'settings.ini', copy)
    for module in (copy / PACKAGE).rglob('*.py'):  # so that a module without a notebook shows
        if module.name != '__init__.py':
            module.unlink()
    environment = {k: v for k, v in os.environ.items() if k != 'IN_TEST'}  # nbdev exports nothing where it is set
    for step in ('nbdev_clean', 'nbdev_export'):
        subprocess.run([Path(sys.executable).with_name(step)], cwd=copy, env=environment, check=True)


def report(found: dict[str, str], wanted: dict[str, str]) -> list[str]:
    "One line for each file that differs, with the first lines of the difference."
    lines = [f'{name}: comes from no notebook' for name in found.keys() - wanted.keys()]
    lines += [f'{name}: has not been exported' for name in wanted.keys() - found.keys()]
    for name in found.keys() & wanted.keys():
        if found[name] != wanted[name]:
            change = difflib.unified_diff(found[name].splitlines(), wanted[name].splitlines(), 'in the tree', 'after make export', n=1, lineterm='')
            lines.append('\n    '.join([f'{name}: differs from what the notebooks give', *[line[:160] for line in change][:12]]))
    return sorted(lines)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        exported_copy(copy)
        wrong = [line for where, suffix in (('nbs', '.ipynb'), (PACKAGE, '.py'))
                 for line in report(files(TOP, where, suffix), files(copy, where, suffix))]
    readme = subprocess.run([sys.executable, TOP / '.ci' / 'readme.py', '--check'], capture_output=True, text=True)
    if readme.returncode:
        wrong.append(readme.stderr.strip())
    if wrong:
        sys.exit('\n'.join(wrong) + '\n`make export` mends this.')
    print('in step')


if __name__ == '__main__':
    main()
