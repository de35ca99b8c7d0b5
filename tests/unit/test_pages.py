"""The man page and the completion."""

from __future__ import annotations

import re
import shutil
import subprocess

import click
import pytest
from click.testing import CliRunner

from esxprov.cli import commands


def said(*arguments: str) -> str:
    result = CliRunner().invoke(commands, arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def leaves(command: click.Command, name: str) -> list[tuple[str, click.Command]]:
    if not isinstance(command, click.Group):
        return [(name, command)]
    return [leaf for one in command.commands.values() for leaf in leaves(one, f"{name} {one.name}")]


def test_the_man_page_has_every_command_with_every_option() -> None:
    page = said("man").replace(r"\-", "-")
    sections = dict(re.findall(r"^\.SS (.*)\n((?:(?!\.S[SH] ).*\n)*)", page, re.MULTILINE))
    expected = dict(leaves(commands, "esxprov"))
    assert set(sections) == set(expected)
    for name, command in expected.items():
        for parameter in command.params:
            if isinstance(parameter, click.Option) and not parameter.hidden:
                assert rf"{parameter.opts[0]}" in sections[name], f"{name} {parameter.opts}"


def test_no_line_of_the_man_page_is_a_macro_by_accident() -> None:
    known = {".TH", ".SH", ".SS", ".TP", ".PP", ".nf", ".fi"}
    lines = said("man").splitlines()
    assert {line.split()[0] for line in lines if line.startswith((".", "'"))} <= known
    assert not [line for line in lines if re.search(r"\\(?![-e&]|f[BIR])", line)]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_is_told_where_to_ask_for_completions(shell: str) -> None:
    text = said("completion", shell)
    assert f"_ESXPROV_COMPLETE={shell}_complete" in text
    assert "esxprov" in text


def test_bash_takes_the_completion_and_completes_a_command() -> None:
    bash = shutil.which("bash")
    assert bash is not None
    script = said("completion", "bash") + "complete -p esxprov\n"
    done = subprocess.run([bash, "-euc", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "complete -o nosort -F _esxprov_completion esxprov" in done.stdout
    environment = {"_ESXPROV_COMPLETE": "bash_complete", "COMP_WORDS": "esxprov check", "COMP_CWORD": "1"}
    result = CliRunner().invoke(commands, env=environment, prog_name="esxprov")
    assert result.stdout == "plain,check-config\n"
