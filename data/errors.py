"""What the user can put right, told apart from our own mistakes."""


class UserError(ValueError):
    """One line that names what is wrong and the remedy; a stage prints it without a traceback and ends with status 2."""
