"""Errors that a user can mend. Anything else that is raised is a bug."""

from collections.abc import Sequence


class UserError(Exception):
    """Bad input: what was got, what was wanted, what to do. The command line ends with code 2.

    Args:
        problems: one message, or all the problems found at once, one line each.
    """

    exit_code = 2
    """Status of a command that ends with it."""

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))

    def __reduce__(self) -> tuple[type["UserError"], tuple[list[str]]]:
        """Keep the problems apart on the way from one process to another."""
        return type(self), (self.problems,)


class DataError(UserError):
    """An image, a label or a domain description that cannot be used."""


class RecipeError(UserError):
    """A recipe that asks for something impossible or unknown."""


class ModelError(UserError):
    """A model folder or checkpoint that is missing, damaged, or made for something else."""


class RunError(UserError):
    """A run folder that is in the way, incomplete, or of another recipe."""


class InUseError(RunError):
    """A folder that another process is writing to."""


class ShapeError(ValueError):
    """Tensors handed to a public function do not have the shapes that it documents."""
