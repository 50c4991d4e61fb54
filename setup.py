"""Hands settings.ini to setuptools; there is nothing to edit here."""
from configparser import ConfigParser
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version
from setuptools import find_packages, setup

HERE = Path(__file__).resolve().parent
STATUS = {'1': 'Planning', '2': 'Pre-Alpha', '3': 'Alpha', '4': 'Beta', '5': 'Production/Stable'}

parser = ConfigParser(delimiters=['='], interpolation=None)
parser.read(HERE / 'settings.ini', encoding='utf-8')
settings = parser['DEFAULT']


def requirements(key: str) -> list[str]:
    "The requirements under `key`, each read by `packaging`, so that a typing error stops the build here."
    return [str(Requirement(word)) for word in settings.get(key, '').split()]


suffix = '_requirements'
extras = {key.removesuffix(suffix): requirements(key) for key in settings if key.endswith(suffix)}
name = settings['lib_name']

setup(
    name=name,
    version=str(Version(settings['version'])),
    description=settings['description'],
    long_description=(HERE / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    author=settings['author'],
    license=settings['license'],
    license_files=['LICENSE'],
    keywords=settings['keywords'].split(),
    classifiers=[
        f"Development Status :: {settings['status']} - {STATUS[settings['status']]}",
        f"Intended Audience :: {settings['audience']}",
        f"Natural Language :: {settings['language']}",
        f"Programming Language :: Python :: {settings['min_python']}",
    ],
    python_requires='>=' + settings['min_python'],
    packages=find_packages(include=[name, name + '.*']),
    package_data={name: settings['package_data'].split()},
    install_requires=requirements('requirements'),
    extras_require=extras,
    entry_points={'console_scripts': settings['console_scripts'].split()},
    zip_safe=False,
)
