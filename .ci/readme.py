"""Write README.md from nbs/index.ipynb: nbdev's own `nbdev_readme` needs Quarto, this needs nbconvert alone.

Cells marked `#| hide` are left out, `#| echo: false` leaves out the source and `#| output: false` the output. Pictures in outputs are
written to nbs/images/index_*; links that are relative to nbs/ become relative to the top level, and have to point to something.
"""
import argparse
import posixpath
import re
import sys
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter
from traitlets.config import Config

NOTEBOOK, README, IMAGES = 'nbs/index.ipynb', 'README.md', 'nbs/images'
HEADER = f'<!-- Written by `make readme` from {NOTEBOOK}: edit the notebook. -->\n\n'
DIRECTIVE = re.compile(r'^\s*#\s*\|\s*([\w:-]+)\s*(.*)$')
LINK = re.compile(r'(\]\(|\b(?:src|href)=")(?![a-z]+:|#|/)([^)"\s#]+)')
PICTURES = ('image/svg+xml', 'image/png', 'image/jpeg')


def directives(source: str) -> tuple[dict[str, str], str]:
    "The `#|` directives of a cell, and its source without them."
    lines = source.splitlines()
    found = {match[1].rstrip(':'): match[2].strip() for line in lines if (match := DIRECTIVE.match(line))}
    return found, '\n'.join(line for line in lines if not DIRECTIVE.match(line)).strip('\n')


def from_top(markdown: str, top: Path, missing: list[str]) -> str:
    "`markdown` with its links relative to the top level; a link to nothing is added to `missing`."
    def rewrite(match: re.Match) -> str:
        target = posixpath.normpath(posixpath.join('nbs', match[2]))
        if not (top / target).exists():
            missing.append(match[2])
        return match[1] + target
    parts = re.split(r'(^```.*?^```|`[^`\n]+`)', markdown, flags=re.M | re.S)  # every second part is code
    return ''.join(part if i % 2 else LINK.sub(rewrite, part) for i, part in enumerate(parts))


def prepared(cell: nbformat.NotebookNode, top: Path, missing: list[str]) -> nbformat.NotebookNode | None:
    "The cell as the README shows it, or None."
    if cell.cell_type == 'markdown':
        cell.source = from_top(cell.source, top, missing)
        return cell
    if cell.cell_type != 'code':
        return None
    found, cell.source = directives(cell.source)
    if found.keys() & {'hide', 'default_exp'} or found.get('include') == 'false':
        return None
    cell.metadata.tags = ['no_source'] if found.get('echo') == 'false' or not cell.source else []
    if found.get('output') == 'false':
        cell.outputs = []
    for i, output in enumerate(cell.outputs):
        for other in [mime for mime in PICTURES if mime in output.get('data', {})][1:]:
            del output.data[other]  # one picture in two formats is one file
        output.setdefault('metadata', {})['filename'] = f'index_{cell.id}_{i}'
    return cell


def render(top: Path) -> dict[str, bytes]:
    "What the README consists of: path relative to `top` → content, README.md and its pictures."
    notebook = nbformat.read(top / NOTEBOOK, as_version=4)
    missing: list[str] = []
    notebook.cells = [new for cell in notebook.cells if (new := prepared(cell, top, missing))]
    if missing:
        sys.exit(f'{NOTEBOOK} links to what is not there: ' + ', '.join(missing))
    notebook.metadata.language_info = {'name': 'python'}  # names the language of the code blocks
    config = Config()
    config.TagRemovePreprocessor.remove_input_tags = {'no_source'}
    config.NbConvertBase.display_data_priority = [*PICTURES, 'text/markdown', 'text/html', 'text/plain']
    body, resources = MarkdownExporter(config=config).from_notebook_node(notebook, {'output_files_dir': IMAGES})
    text = HEADER + re.sub(r'\n{3,}', '\n\n', body).strip() + '\n'
    return {README: text.encode(), **resources.get('outputs', {})}


def differences(top: Path, wanted: dict[str, bytes]) -> list[str]:
    "The files that are missing, different, or left over from an earlier README."
    stale = {f'{IMAGES}/{p.name}' for p in (top / IMAGES).glob('index_*')} - wanted.keys()
    return sorted(stale) + [name for name, data in wanted.items() if not (top / name).is_file() or (top / name).read_bytes() != data]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--check', action='store_true', help='change nothing; exit 1 if something would change')
    arguments = parser.parse_args()
    top = Path(__file__).resolve().parent.parent
    wanted = render(top)
    changed = differences(top, wanted)
    if arguments.check:
        sys.exit(f'not in step with {NOTEBOOK}, run `make readme`: ' + ', '.join(changed) if changed else 0)
    for name in changed:
        if name not in wanted:
            (top / name).unlink()
            continue
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_bytes(wanted[name])
    print('wrote ' + ', '.join(changed) if changed else f'{README} is in step')


if __name__ == '__main__':
    main()
