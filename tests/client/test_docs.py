"""The page about the client names every setting with its default."""

import re
from dataclasses import fields
from pathlib import Path

from rewardmesh.client import AsyncClient, ChannelOptions

PAGE = Path(__file__).parents[2] / "docs" / "client.md"


def test_every_setting_is_on_the_page() -> None:
    text = PAGE.read_text(encoding="utf-8")
    table = dict(re.findall(r"^\| `(\w+)` \| `([^`]*)` \|", text, re.MULTILINE))
    expected = {}
    for field in fields(ChannelOptions):
        expected[field.name] = '""' if field.default == "" else getattr(field.default, "__name__", str(field.default))
    assert table == expected


def test_every_method_on_the_page_exists() -> None:
    methods = re.search(r"\| method \|.*?\n\n", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert methods
    for row in methods[0].strip().splitlines()[2:]:
        for name in re.findall(r"`(\w+)`", row.split("|")[1]):
            assert hasattr(AsyncClient, name), name
