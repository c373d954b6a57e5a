"""From clicks to features and their inspection, from the shell."""

from __future__ import annotations

import json

import numpy as np
import pytest

from recbole_mm.cli.main import main

OWN = """
import numpy as np

class Own:
    name, dim, fingerprint = "own", 2, "0"

    def encode(self, texts):
        return np.array([[len(text), 1.0] for text in texts], dtype=np.float32)
"""


def test_extract_and_inspect(tmp_path, monkeypatch, capsys):
    pytest.importorskip("jinja2")
    (tmp_path / "own_text.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    choose = np.random.default_rng(0).integers
    (tmp_path / "clicks.csv").write_text("user,item\n" + "".join(f"u{k % 9},i{choose(12)}\n" for k in range(90)))
    (tmp_path / "items.csv").write_text("item,title\n" + "".join(f"i{k},A title number {'x' * k}\n" for k in range(12)))
    (tmp_path / "users.csv").write_text("user,about\n" + "".join(f"u{k},I am {'x' * k}\n" for k in range(9)))
    tables = ["--interactions=clicks.csv", "--items=items.csv", "--users=users.csv", "--types=title=text about=text"]
    assert main(["import", "shop", *tables]) == 0
    assert main(["extract", "shop", "--text=title", "--encoder=own_text:Own"]) == 0
    shown = capsys.readouterr().out
    assert "12 vectors of width 2" in shown and "look at them" in shown
    assert main(["extract", "shop", "--entity=user", "--text=about", "--encoder=own_text:Own"]) == 0
    shown = capsys.readouterr().out
    assert "9 vectors of width 2" in shown and "inspect" not in shown  # which looks at features of items
    assert main(["extract", "shop", "--text=title", "--encoder=own_text:Own"]) == 2
    assert "--replace" in capsys.readouterr().err
    assert main(["inspect", "shop"]) == 0 and (tmp_path / "shop-features.html").is_file()
    assert main(["inspect", "shop", "--output=page.html", "--seed=1"]) == 0 and (tmp_path / "page.html").is_file()
    capsys.readouterr()
    assert main(["inspect", "shop", "--format=json", "--strict"]) in (0, 1)
    assert json.loads(capsys.readouterr().out)["modalities"]["text"]["with"] == 12
    assert main(["inspect"]) == 2 and main(["extract"]) == 2 and main(["inspect", "shop", "--format=xml"]) == 2
