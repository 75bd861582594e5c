"""`hornbook completion SHELL`: a script that completes commands, options and their choices, made from the parser."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping
from typing import Literal, get_args, get_origin

from hornbook.facts.settings import fields

SHELLS = ("bash", "zsh", "fish")
INSTALL = {
    "bash": 'eval "$(hornbook completion bash)" in ~/.bashrc',
    "zsh": 'eval "$(hornbook completion zsh)" in ~/.zshrc, after compinit',
    "fish": "hornbook completion fish > ~/.config/fish/completions/hornbook.fish",
}


def script(shell: str, commands: Mapping[str, argparse.ArgumentParser], lines: Mapping[str, str]) -> str:
    """The script for a shell; `lines` say what each command does."""
    head = f"# Completion for hornbook: {INSTALL[shell]}\n"
    return head + (_fish(commands, lines) if shell == "fish" else _posix(shell, commands))


def choices(action: argparse.Action) -> list[str]:
    """What an option takes, where that is a list of words."""
    if action.choices is not None:
        return list(map(str, action.choices))
    kind = next((field.type for field in fields() if field.name == action.dest), None)
    return ["true", "false"] if kind is bool else list(get_args(kind)) if get_origin(kind) is Literal else []


def _posix(shell: str, commands: Mapping[str, argparse.ArgumentParser]) -> str:
    values, options = [], []
    for name, parser in commands.items():
        actions = [action for action in parser._actions if action.option_strings]
        options.append(f"    {name}) words={shlex.quote(' '.join(sorted(parser._option_string_actions)))} ;;")
        for action in actions:
            if words := choices(action):
                cases = "|".join(f'"{name} {flag}"' for flag in action.option_strings)
                values.append(f"    {cases}) words={shlex.quote(' '.join(words))} ;;")
    names = " ".join(commands)
    body = (VALUES + OPTIONS).replace("@VALUES", "\n".join(values)).replace("@OPTIONS", "\n".join(options))
    start, end = (BASH_START, BASH_END) if shell == "bash" else (ZSH_START, ZSH_END)
    return (start + body + end).replace("@COMMANDS", f"{names} help completion").replace("@NAMES", names)


BASH_START = """_hornbook() {
  local current="${COMP_WORDS[COMP_CWORD]}" previous="${COMP_WORDS[COMP_CWORD-1]}" command="${COMP_WORDS[1]}"
  local words="" first=$((COMP_CWORD == 1)) second=$((COMP_CWORD == 2))
"""
ZSH_START = """_hornbook() {
  local current="$PREFIX" previous="${words[CURRENT-1]}" command="${words[2]}"
  local first=$((CURRENT == 2)) second=$((CURRENT == 3))
  local words=""
"""
VALUES = """  if [[ $first == 1 ]]; then words="@COMMANDS"
  elif [[ $second == 1 && $command == help ]]; then words="@NAMES"
  elif [[ $second == 1 && $command == completion ]]; then words="bash zsh fish"
  else case "$command $previous" in
@VALUES
  esac; fi
"""
OPTIONS = """  if [[ -z $words && $current == -* ]]; then case "$command" in
@OPTIONS
  esac; fi
"""
BASH_END = """  COMPREPLY=($(compgen -W "$words" -- "$current"))
  if [[ -z $words ]]; then COMPREPLY=($(compgen -f -- "$current")); fi
}
complete -o filenames -F _hornbook hornbook
"""
ZSH_END = """  if [[ -n $words ]]; then compadd -- ${=words}; else _files; fi
}
compdef _hornbook hornbook
"""


def _fish(commands: Mapping[str, argparse.ArgumentParser], lines: Mapping[str, str]) -> str:
    written = ["complete -c hornbook -e"]
    known = {**lines, "help": "what a command does", "completion": "completion for a shell"}
    for name, line in known.items():
        written.append(f"complete -c hornbook -f -n __fish_use_subcommand -a {name} -d {_quoted(line)}")
    for name, parser in commands.items():
        seen = f"-n '__fish_seen_subcommand_from {name}'"
        for action in parser._actions:
            flags = " ".join(f"-l {flag[2:]}" for flag in action.option_strings if flag.startswith("--"))
            if flags:
                words = f" -x -a {_quoted(' '.join(choices(action)))}" if choices(action) else ""
                takes = " -r" * (action.nargs != 0 and not words)
                text = _quoted((action.help or "").partition(" (default")[0].replace("%%", "%"))
                written.append(f"complete -c hornbook {seen} {flags}{words}{takes} -d {text}")
    for name, words in (("help", " ".join(commands)), ("completion", " ".join(SHELLS))):
        written.append(f"complete -c hornbook -f -n '__fish_seen_subcommand_from {name}' -a {_quoted(words)}")
    return "\n".join(written) + "\n"


def _quoted(text: str) -> str:
    """As fish reads it between single quotes."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
