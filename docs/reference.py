"""The pages of the documentation that are written from the package itself: commands and settings.

A hook of mkdocs: a page's line `<!-- generated: NAME -->` becomes what `PAGES[NAME]` returns.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import typer

from cag_uda.cli.app import app

_MARK = re.compile(r"^<!-- generated: (\w+) -->$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by mkdocs for each page."""
    return _MARK.sub(lambda mark: PAGES[mark[1]](), markdown)


def commands(command: Any = None, name: str = "cag-uda") -> Iterator[tuple[str, Any]]:
    """Every command that does something, with the name it is called by."""
    command = typer.main.get_command(app) if command is None else command
    children: Mapping[str, Any] = getattr(command, "commands", {})
    if not children or command.invoke_without_command:
        yield name, command
    for child_name, child in children.items():
        yield from commands(child, f"{name} {child_name}")


def commands_page() -> str:
    """One section a command: what it does, how it is written, its options."""
    parts = []
    for name, command in commands():
        arguments = [each for each in command.params if each.param_type_name == "argument"]
        options = [each for each in command.params if each.param_type_name == "option"]
        words = [_written(each) for each in arguments] + ["[OPTIONS]"] * bool(options)
        level = "##" if name.count(" ") == 1 else "###"
        parts += [f"{level} {name}", command.help, "```\n" + " ".join([name, *words]) + "\n```"]
        if command.params:
            rows = [_argument_row(each) for each in arguments] + [_row(each) for each in options]
            parts.append("\n".join(["| | default | |", "|---|---|---|", *rows]))
    return "\n\n".join(parts)


def settings_page(kind: str) -> str:
    """One section a table of a kind of file: its keys, their types, defaults and meanings."""
    from cag_uda.recipes.json_schema import json_schema

    schema = json.loads(json_schema("domain" if kind == "domain" else "recipe"))
    tables = {"": schema}
    for name in _references(schema, schema.get("$defs", {})):
        tables.setdefault(name, schema["$defs"][name])
    titles = {name: _title(name, table) for name, table in tables.items()}
    return "\n\n".join(
        _section(titles[name], table, titles)
        for name, table in tables.items()
        if table.get("properties")
    )


PAGES: dict[str, Callable[[], str]] = {
    "commands": commands_page,
    "recipe": lambda: settings_page("recipe"),
    "domain": lambda: settings_page("domain"),
}


def _written(argument: Any) -> str:
    word = argument.name.upper() + ("…" if argument.nargs == -1 else "")
    return word if argument.required else f"[{word}]"


def _argument_row(argument: Any) -> str:
    return f"| `{argument.name.upper()}` | | {_cell(argument.help)} |"


def _row(option: Any) -> str:
    names = ", ".join(f"`{name}`" for name in option.opts)
    several = " (may be repeated)" if option.multiple and "repeated" not in option.help else ""
    default = "required" if option.required else _shown(option.default)
    return f"| {names} | {default} | {_cell(option.help)}{several} |"


def _shown(default: Any) -> str:
    return "" if default is None or isinstance(default, bool) else f"`{default}`"


def _references(table: Any, tables: Mapping[str, Any]) -> Iterator[str]:
    """The tables that a part of a schema names, and theirs, as they come."""
    found = re.findall(r'"\$ref": "#/\$defs/(\w+)"', json.dumps(table.get("properties", {})))
    for name in dict.fromkeys(found):
        yield name
        yield from _references(tables[name], tables)


def _title(name: str, table: Mapping[str, Any]) -> str:
    """A heading: a method is called as recipes call it, all else by its words."""
    called = table["properties"].get("name", {}).get("const")
    if called is not None:
        return f"Method {called}"
    bare = name.removesuffix("Config").removesuffix("Table") or "Top level"
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", bare).capitalize()


def _section(title: str, table: Mapping[str, Any], titles: Mapping[str, str]) -> str:
    """The keys of one table."""
    rows = []
    for key, value in table["properties"].items():
        default = "required" if key in table.get("required", ()) else ""
        if value.get("default") is not None and not isinstance(value["default"], dict):
            default = f"`{json.dumps(value['default'], ensure_ascii=False)}`"
        meaning = _cell(value.get("description", ""))
        rows.append(f"| `{key}` | {_kind(value, titles)} | {default} | {meaning} |")
    head = "| key | kind | default | |\n|---|---|---|---|"
    words = " ".join(table.get("description", "").split())
    return "\n\n".join([f"## {title}", words, "\n".join([head, *rows])])


def _kind(value: Mapping[str, Any], titles: Mapping[str, str]) -> str:
    """What a key takes, in a few words."""
    for choices in ("anyOf", "oneOf"):
        if choices in value:
            some = [_kind(each, titles) for each in value[choices] if each.get("type") != "null"]
            return " or ".join(dict.fromkeys(some))
    if "$ref" in value:
        return _link(titles[value["$ref"].rpartition("/")[2]])
    if "enum" in value or "const" in value:
        return " or ".join(f"`{each}`" for each in value.get("enum", [value.get("const")]))
    if value.get("type") == "array":
        items = value.get("prefixItems") or [value.get("items", {})]
        return f"list of {' or '.join(dict.fromkeys(_kind(each, titles) for each in items))}"
    if value.get("type") == "object":
        inside = value.get("additionalProperties")
        return f"table of {_kind(inside, titles)}" if isinstance(inside, dict) else "table"
    return {"boolean": "true or false"}.get(value.get("type", ""), value.get("type", "anything"))


def _link(title: str) -> str:
    return f"[{title}](#{re.sub(r'[^a-z0-9]+', '-', title.lower()).strip('-')})"


def _cell(text: str | None) -> str:
    """Text that a cell of a table can hold."""
    return " ".join((text or "").split()).replace("|", "\\|")
