"""The man page and the completion for shells, both made from the commands themselves."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import click
from click.shell_completion import get_completion_class

_SHELLS = ("bash", "zsh", "fish")
_VARIABLE = "_ESXPROV_COMPLETE"
_TITLE = ".TH ESXPROV 1"


@click.command()
@click.argument("shell", type=click.Choice(_SHELLS))
def completion(shell: str) -> None:
    """Print what lets a shell complete our commands.

    `esxprov install` puts that of bash and zsh in place. By hand: `source <(esxprov completion bash)`.
    """
    click.echo(_completion(shell))


@click.command()
def man() -> None:
    """Print the man page.

    `esxprov install` puts it in place. Without that: `esxprov man | man -l -`.
    """
    click.echo(man_page(), nl=False)


def for_install() -> tuple[tuple[Path, str, str], ...]:
    """Path, text and what stands in every version of it."""
    share = Path("/usr/local/share")
    return (
        (share / "man/man1/esxprov.1", man_page(), _TITLE),
        (share / "bash-completion/completions/esxprov", _completion("bash") + "\n", _VARIABLE),
        (share / "zsh/site-functions/_esxprov", _completion("zsh") + "\n", _VARIABLE),
    )


def _completion(shell: str) -> str:
    kind = get_completion_class(shell)
    assert kind is not None, shell
    # Not by `source()`, which for bash runs one to look at its version: this may be another machine.
    complete = kind(_root(), {}, "esxprov", _VARIABLE)
    return complete.source_template % complete.source_vars()


def _root() -> click.Command:
    return click.get_current_context().find_root().command


def man_page() -> str:
    """Of all commands, in roff's man macros."""
    root = click.Context(_root(), info_name="esxprov")
    lines = [
        f'{_TITLE} "" "esxprov {metadata.version("esxprov")}" "Apache VCL"',
        ".SH NAME",
        r"esxprov \- ESX provisioning for Apache VCL",
        ".SH SYNOPSIS",
        r"\fBesxprov\fR [\fIoptions\fR] \fIcommand\fR [\fIoptions\fR] [\fIarguments\fR]",
        ".SH DESCRIPTION",
        *_prose(root.command.help or ""),
        ".SH OPTIONS",
        *_options(root),
        ".SH COMMANDS",
        *_commands(root),
        ".SH FILES",
        ".TP",
        r"\fI/etc/vcl/esxprov.conf\fR",
        r"The configuration; \fBesxprov sample\-config\fR prints one with comments.",
        ".TP",
        r"\fI/etc/vcl/vcld.conf\fR",
        "Where VCL's database is, unless [database] says so.",
        ".SH ENVIRONMENT",
        ".TP",
        r"\fBESXPROV_CONF\fR",
        "Read this configuration instead.",
        ".TP",
        r"\fBESXPROV_\fISECTION\fB_\fIKEY\fR",
        "Override one setting.",
        ".SH EXIT STATUS",
        *_prose(re.sub(r"^Exit codes: ", "", root.command.epilog or "")),
    ]
    return "\n".join(lines) + "\n"


def _commands(context: click.Context) -> Iterator[str]:
    assert isinstance(context.command, click.Group)
    for name in context.command.list_commands(context):
        command = context.command.get_command(context, name)
        assert command is not None
        own = click.Context(command, info_name=name, parent=context)
        if isinstance(command, click.Group):
            yield from _commands(own)
            continue
        yield f".SS {_plain(own.command_path)}"
        yield rf"\fB{_plain(own.command_path)}\fR {_plain(' '.join(command.collect_usage_pieces(own)))}"
        yield ".PP"
        yield from _prose(command.help or "")
        yield from _options(own)


def _options(context: click.Context) -> Iterator[str]:
    for parameter in context.command.get_params(context):
        record = parameter.get_help_record(context)
        if record and record[1]:
            yield ".TP"
            yield rf"\fB{_plain(record[0])}\fR"
            yield from _prose(record[1])


def _prose(text: str) -> Iterator[str]:
    """Paragraphs as click has them: a line with a backspace says that the next one keeps its lines."""
    for number, paragraph in enumerate(re.split(r"\n\s*\n", text.strip())):
        lines = paragraph.split("\n")
        if number:
            yield ".PP"
        if lines[0].strip() == "\b":
            yield from (".nf", *map(_plain, lines[1:]), ".fi")
        else:
            yield re.sub(r"`([^`]+)`", r"\\fB\1\\fR", _plain(" ".join(line.strip() for line in lines)))


def _plain(text: str) -> str:
    """Text that roff takes for text: a dot or a quote at the start of a line would be a command."""
    escaped = text.replace("\\", r"\e").replace("-", r"\-")
    return rf"\&{escaped}" if escaped.startswith((".", "'")) else escaped
