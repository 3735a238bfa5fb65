"""The floors: app → train → probes → lab, never upward; and what the loop must not know."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FLOORS = {"lab": 0, "probes": 1, "train": 2, "app": 3}


def imports_of(file: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative imports hide the floor"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def sources() -> list[Path]:
    return [file for floor in FLOORS for file in sorted((ROOT / floor).rglob("*.py"))]


def test_no_floor_imports_a_higher_one() -> None:
    upward = [
        f"{file.relative_to(ROOT)} imports {name}"
        for file in sources()
        for name in imports_of(file)
        if FLOORS.get(name.split(".")[0], -1) > FLOORS[file.relative_to(ROOT).parts[0]]
    ]
    assert upward == []


def test_there_is_no_circle_of_imports_on_a_floor() -> None:
    edges = {}
    for file in sources():
        name = ".".join(file.relative_to(ROOT).with_suffix("").parts)
        tree = ast.parse(file.read_text(encoding="utf8"))
        top = ast.Module([n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)], [])
        wanted = set()
        for node in top.body:
            if isinstance(node, ast.ImportFrom) and node.module:
                wanted |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        edges[name] = wanted
    edges = {name: {other for other in wanted if other in edges} for name, wanted in edges.items()}

    def reach(name: str, seen: frozenset[str]) -> None:
        assert name not in seen, f"a circle of imports through {name}"
        for other in edges[name]:
            reach(other, seen | {name})

    for name in edges:
        reach(name, frozenset())


def test_instruments_touch_no_file_no_database_and_draw_nothing() -> None:
    forbidden = ("sqlalchemy", "sqlite3", "plotly", "streamlit", "lab.records", "lab.run", "lab.checkpoint")
    guilty = [
        f"{file.relative_to(ROOT)} imports {name}"
        for file in sorted((ROOT / "probes").rglob("*.py"))
        for name in imports_of(file)
        if name.startswith(forbidden)
    ]
    assert guilty == []


def test_the_loop_is_short_and_names_no_attachment() -> None:
    text = (ROOT / "train" / "loop.py").read_text(encoding="utf8")
    assert len(text.splitlines()) <= 200
    assert not {"train.probing", "train.self_play", "train.journal"} & imports_of(ROOT / "train" / "loop.py")


def test_nothing_is_pickled_and_no_shell_is_used() -> None:
    for file in sources():
        tree = ast.parse(file.read_text(encoding="utf8"))
        assert not {"pickle", "dill", "cloudpickle"} & {name.split(".")[0] for name in imports_of(file)}, file
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("torch.load", "torch.save", "eval", "exec"), (
                    f"{file}:{node.lineno} calls {called}"
                )
                assert all(k.arg not in ("shell", "unsafe_allow_html") for k in node.keywords), f"{file}:{node.lineno}"
