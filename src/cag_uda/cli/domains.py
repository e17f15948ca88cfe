"""`cag-uda domains`: what is built in."""

import tomllib

from rich.console import Console
from rich.table import Table

from cag_uda.data.domains.builtin import domain_file, domain_names, label_space_names
from cag_uda.data.domains.label_space import LabelSpace
from cag_uda.data.domains.schema_errors import did_you_mean
from cag_uda.errors import UserError


def list_domains(console: Console) -> None:
    """Print a line for each built-in domain."""
    table = Table("domain", "label space", "splits", box=None)
    for each in domain_names():
        entry = tomllib.loads(domain_file(each).read_text(encoding="utf-8"))
        table.add_row(each, str(entry.get("label_space", "")), ", ".join(entry.get("splits", {})))
    console.print(table)


def domain_source(name: str) -> str:
    """The file of a built-in domain. Raises UserError if there is none of that name."""
    known = domain_names()
    if name not in known:
        raise UserError(
            f"no built-in domain {name!r}{did_you_mean(name, known)}; there are {', '.join(known)}"
        )
    return domain_file(name).read_text(encoding="utf-8")


def list_spaces(console: Console) -> None:
    """Print the classes of each built-in label space."""
    for name in label_space_names():
        space = LabelSpace.load(name)
        listed = ", ".join(f"{train_id} {each}" for train_id, each in enumerate(space.names))
        console.print(f"[bold]{name}[/bold]: {listed}", highlight=False, soft_wrap=True)
