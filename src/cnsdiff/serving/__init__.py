"""A recommender behind HTTP: events, answers, the live environment, versions."""

from importlib.util import find_spec

from cnsdiff.base.errors import InputError
from cnsdiff.base.text import install_command

if find_spec("sqlalchemy") is None:
    raise InputError(f"serving needs sqlalchemy; install it with: {install_command('serve')}")
