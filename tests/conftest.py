"""What holds for all tests."""
from hypothesis import settings

# a busy machine makes single examples slow, which says nothing about what they test; failures repeat with the same examples
settings.register_profile('arc_jepa', deadline=None, derandomize=True)
settings.load_profile('arc_jepa')

# The files that take longest, first: where files run two at a time, none of these is left for the end, with one core idle.
LONGEST = ['test_kills.py', 'test_documented_commands.py', 'test_documented_notebooks.py', 'test_run_notebooks.py', 'test_ablation.py', 'test_pilot.py', 'test_runstate.py', 'test_processes.py', 'test_jepa.py', 'test_programs.py']


def pytest_configure(config): config.option.loadscopereorder = False        # or xdist would put files with the most tests first, whatever they take


def pytest_collection_modifyitems(items):
    rank = {name: i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))
