"""What holds for all tests."""
from hypothesis import settings

# a busy machine makes single examples slow, which says nothing about what they test; failures repeat with the same examples
settings.register_profile('arc_jepa', deadline=None, derandomize=True)
settings.load_profile('arc_jepa')
