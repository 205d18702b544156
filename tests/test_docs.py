"""What the pages say can be done: commands are taken, links lead somewhere, scripts are there."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from lqcompile import cli

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
ENDS = {"|", ">", "<", "&&", ";", "&"}
"""Words of a shell behind which a command is over."""

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


def read(page):
    """A page with the lines of a command that goes on in one line."""
    return re.sub(r"\\\n\s*", " ", page.read_text(encoding="utf-8"))


def parse(text):
    """Parse a command line of lqcompile as the program does."""
    command = typer.main.get_command(cli.app)
    words = shlex.split(text, comments=True)[1:]
    words = words[: next((index for index, word in enumerate(words) if word in ENDS), len(words))]
    while words and words[0] in getattr(command, "commands", ()):
        command = command.commands[words.pop(0)]
    if words:
        command.make_context("lqcompile", words)


def objection(text):
    """What the program says against a command line; nothing if it takes it."""
    try:
        parse(text)
    except typer.TyperException as error:
        return error.format_message()
    return ""


@pages
def test_commands_in_blocks_are_taken(page):
    for line in re.findall(r"^(?:    )?(?:\$ )?(lqcompile [^\n]*)$", read(page), re.MULTILINE):
        assert not objection(line), line


@pages
def test_options_of_commands_in_sentences_are_known(page):
    for text in re.findall(r"`(lqcompile [^`]*)`", read(page)):
        # A sentence may leave out what is compiled, and what an option takes.
        found = objection(text)
        assert not found or re.match("Missing argument|Option .* requires an argument", found), f"{text}: {found}"


@pages
def test_links_lead_somewhere(page):
    for path, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)#?([^)\s]*)\)", read(page)):
        target = page.parent / path if path else page
        assert target.exists(), path
        if anchor:
            heads = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}, anchor


@pages
def test_scripts_are_there_with_their_options(page):
    for script, rest in re.findall(r"python3? ((?:benchmarks|examples)/[\w/]+\.py)([^`\n]*)", read(page)):
        sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / script).parent.rglob("*.py"))
        assert (ROOT / script).exists(), script
        assert not [option for option in re.findall(r" (--[a-z-]+)", rest) if f'"{option}"' not in sources], script
