"""Draws the rooms of the package from its imports: `python tests/architecture.py` rewrites docs/architecture.md."""

import re
from pathlib import Path

import grimp

DOCUMENT = Path(__file__).parents[1] / "docs" / "architecture.md"
PICTURE = re.compile(r"```mermaid\n.*?```", re.DOTALL)


def rooms() -> dict[str, set[str]]:
    graph = grimp.build_graph("freqbench", cache_dir=None)
    imports: dict[str, set[str]] = {room.rpartition(".")[2]: set() for room in graph.find_children("freqbench")}
    for module in graph.modules - {"freqbench"}:
        own = module.split(".")[1]
        imports[own] |= {name.split(".")[1] for name in graph.find_modules_directly_imported_by(module) if "." in name}
    return {room: imported - {room} for room, imported in imports.items() if room != "__main__"}


def picture() -> str:
    """The same as Mermaid, without the arrows that others imply."""
    imports = rooms()

    def below(room: str) -> set[str]:
        return imports[room].union(*map(below, imports[room]))

    arrows = [
        f"    {room} --> {imported}"
        for room in sorted(imports)
        for imported in sorted(imports[room] - set[str]().union(*map(below, imports[room])))
    ]
    return "\n".join(["```mermaid", "graph TD", *arrows, "```"])


def redrawn(text: str) -> str:
    return PICTURE.sub(lambda _: picture(), text)


if __name__ == "__main__":
    DOCUMENT.write_text(redrawn(DOCUMENT.read_text()))
