"""The error for users' mistakes, in a module that loads nothing, so that a refusal costs nothing."""

from __future__ import annotations


class HardlabError(Exception):
    """A user's mistake, described in one sentence; the command line prints it without a traceback."""
