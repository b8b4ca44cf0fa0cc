"""The recipes that `compress init` offers: those of the source tree, and of a wheel."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from compress.errors import CommandError
from compress.templates import folder, names, text_of

ROOT = Path(__file__).parents[1]


def test_every_shipped_recipe_has_a_summary():
    shipped = {path.stem for path in (ROOT / "recipes").glob("*.yaml")}
    assert set(names()) == shipped
    assert {"quickstart", "tinystories-edge", "smollm2-135m-int4"} <= shipped
    assert all(summary.endswith(".") and not summary.startswith("#") for summary in names().values())


def test_the_text_is_the_file():
    assert text_of("quickstart") == (folder() / "quickstart.yaml").read_text(encoding="utf-8")
    with pytest.raises(CommandError, match=r"^there is no recipe 'quickstrat'\. Did you mean 'quickstart'\?$"):
        text_of("quickstrat")
    with pytest.raises(CommandError, match="there is no recipe"):
        text_of("../pyproject")


def test_a_wheel_holds_recipes_teacher_page_and_every_package():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    assert settings["package-dir"]["compress.shipped"] == "recipes"
    assert "*.yaml" in settings["package-data"]["compress.shipped"]
    assert settings["package-data"]["compress.models.storyteller"] == ["*"]
    assert "*.jinja" in settings["package-data"]["compress.report"]
    packages = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "compress").rglob("__init__.py")}
    assert set(settings["packages"]) == packages | {"compress.shipped", "compress.models.storyteller"}
