"""The probe is read by whatever Python an image has; torch's wheels ran on 3.8 and later."""

import ast

import pytest

from splatgate.paths import ROOT

FILES = sorted((ROOT / "splatgate" / "container").glob("probe*/*.py")) or sorted(
    (ROOT / "splatgate" / "container").glob("probe*.py")
)
#: Of a later Python than 3.8: (module, name).
LATER = {
    ("functools", "cache"): (3, 9),
    ("itertools", "pairwise"): (3, 10),
    ("importlib.metadata", "packages_distributions"): (3, 10),
}
MODULES = {"tomllib": (3, 11), "zoneinfo": (3, 9), "graphlib": (3, 9)}
METHODS = {"removeprefix", "removesuffix", "is_relative_to", "bit_count", "readlink"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_probe_keeps_to_python_3_8(path):
    tree = ast.parse(path.read_text(), feature_version=(3, 8))
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert not used & METHODS
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            names = {(node.module, alias.name) for alias in node.names}
            assert not names & LATER.keys()
        modules = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        assert not set(modules) & MODULES.keys()
        # dict | dict and `int | None` outside annotations are of 3.9 and 3.10.
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
            sides = (node.left, node.right)
            assert not any(isinstance(side, ast.Dict | ast.DictComp) for side in sides)
        # list[int] is subscripted at run time from 3.9 on.
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name):
            assert node.value.id not in ("list", "dict", "tuple", "set")
