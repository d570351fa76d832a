"""The mistakes of a user, in a module that loads nothing, so that refusing one costs nothing."""

from __future__ import annotations


class HardlabError(Exception):
    """A mistake of the user's, told in one sentence; the command line prints it without a traceback."""
