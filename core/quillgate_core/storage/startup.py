"""The one exception for a database that must not be used: it stops the start, and no caller of the API ever sees it.

Not part of the tree in `errors.py`, because nobody but the operator who starts the process can act on it.
"""


class StartupError(Exception):
    """The service cannot start on this database; the message tells the operator what is wrong and what to do."""
