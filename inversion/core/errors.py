"""The one exception that is the user's to mend."""


class InputError(Exception):
    """Wrong input. Its text is one sentence: what is wrong, where, and what to do. Shown without a traceback."""
