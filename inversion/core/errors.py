"""The one exception that says what the user has to change."""


class InputError(Exception):
    """Wrong input. Its text is one sentence: what is wrong, where, and what to do. Shown without a traceback."""
