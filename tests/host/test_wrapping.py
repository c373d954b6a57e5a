"""Functions of the host can be wrapped more than once, and installing twice is installing once."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

from recbole_mm.host.wrapping import wrap


@pytest.fixture
def classes() -> tuple[Any, Any]:
    """A class that stands for one of RecBole's, and one that inherits its method."""

    class Host:
        def say(self, text: str) -> str:
            """Its own words."""
            return f"host {text}"

    class Heir(Host):
        pass

    return Host, Heir


def mark(word: str) -> Callable[..., str]:
    """Made anew at every call, as a check of a graph is."""

    def around(original: Callable[..., str], host: Any, text: str) -> str:
        return f"{word}({original(host, text)})"

    return around


def test_a_second_wrapper_is_called_around_the_first(classes: Any) -> None:
    host, _ = classes
    wrap(host, "say", mark("a"))
    wrap(host, "say", mark("b"))
    assert host().say("x") == "b(a(host x))"
    assert inspect.unwrap(host.say).__doc__ == "Its own words." == host.say.__doc__


def test_the_same_one_again_does_nothing(classes: Any) -> None:
    host, _ = classes
    for word in ("a", "b", "a", "b"):
        wrap(host, "say", mark(word))
    around = mark("c")
    for _ in range(2):
        wrap(host, "say", around)
    assert host().say("x") == "c(b(a(host x)))"


def test_an_heir_has_what_its_base_has_and_its_own(classes: Any) -> None:
    host, heir = classes
    wrap(host, "say", mark("a"))
    wrap(heir, "say", mark("a"))
    assert "say" not in vars(heir)
    wrap(heir, "say", mark("b"))
    assert heir().say("x") == "b(a(host x))" and host().say("x") == "a(host x)"
