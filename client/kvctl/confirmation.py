"""Asking before something is destroyed. Where nobody can be asked, it must have been said on the command line."""

from __future__ import annotations

import sys

import click

from kvctl.failures import CtlError


def confirm(question: str, otherwise: str, *, yes: bool) -> None:
    """Return if the user agrees; end the command with what did not happen (``otherwise``) if not."""
    if not _is_to_be_asked(otherwise, yes):
        return
    if not click.confirm(question, err=True):
        raise CtlError("NOT_CONFIRMED", otherwise)


def confirm_by_typing(question: str, word: str, otherwise: str, *, yes: bool) -> None:
    """Return if the user types the word; end the command with what did not happen (``otherwise``) if not."""
    if not _is_to_be_asked(otherwise, yes):
        return
    if click.prompt(question, default="", show_default=False, err=True).strip() != word:
        raise CtlError("NOT_CONFIRMED", otherwise)


def can_ask() -> bool:
    """Return whether there is a terminal on which somebody can answer."""
    return sys.stdin is not None and sys.stdin.isatty()


def _is_to_be_asked(otherwise: str, yes: bool) -> bool:
    if yes:
        return False
    if not can_ask():
        hint = "say that you mean it with --yes, or see what would go with --dry-run"
        raise CtlError("NOT_CONFIRMED", f"{otherwise}: there is no terminal to ask on", hint)
    return True
