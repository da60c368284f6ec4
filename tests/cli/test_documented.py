"""What the documentation tells people to type exists, and what it quotes is what they will see."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from privet.cli import VERBS, app
from privet.config import parse
from privet.init_template import systems

GROUPS = ("keys", "bench", "deploy", "server", "site")
ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))


def commands() -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
        lines = [line.split("  #")[0] for block in blocks for line in block.splitlines()]
        spans = [span for span in re.findall(r"`(privet [^`]+)`", text) if "…" not in span]
        found += [(page.name, line) for line in [*lines, *spans] if line.startswith("privet ")]
    return found


@pytest.mark.parametrize(("page", "command"), commands(), ids=str)
def test_documented_commands_name_verbs_and_options_that_exist(page: str, command: str) -> None:
    words = shlex.split(command)[1:]
    verb = words[:1] if words[0] not in GROUPS else words[:2]
    if verb[0] not in (*VERBS, *GROUPS):
        pytest.fail(f"{page}: no verb {verb[0]}")
    shown = CliRunner().invoke(app, [*verb, "--help"], env={"COLUMNS": "200"})
    assert shown.exit_code == 0
    for option in (word for word in words if word.startswith("--")):
        assert option in shown.stdout, f"{page}: {option}"


def test_the_readme_lists_every_system_and_verb() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in (*systems(), *VERBS, *GROUPS):
        assert f"`{name}`" in readme, name


def test_links_between_pages_resolve() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_messages_that_the_tutorial_explains_are_in_the_code() -> None:
    source = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.py"))
    table = (
        (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8").split("## When something goes wrong")[1]
    )
    quoted = [text.strip("… ") for text in re.findall(r"^\| `([^`]+)`", table, re.MULTILINE)]
    assert len(quoted) > 4
    for text in quoted:
        assert text.removeprefix("stopped: ").rstrip("s") in source, text


def yaml_blocks() -> list[tuple[str, dict[str, Any]]]:
    texts = {
        name: (ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("deploy.md", "tutorial.md")
    }
    return [
        (name, yaml.safe_load(block))
        for name, text in texts.items()
        for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    ]


def test_whole_configurations_in_the_guides_are_valid() -> None:
    """A block with the key `system`, which every run must name, is whole; one without it is a fragment."""
    whole = [(page, block) for page, block in yaml_blocks() if "system" in block]
    assert [page for page, _ in whole] == ["deploy.md"]
    for page, block in whole:
        parse(block, page)
