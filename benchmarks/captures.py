"""Pictures of the README: `python -m benchmarks.captures [check | run]`, what its commands print in a terminal;

`python -m benchmarks.captures entities runs/bert_ner`, sentences of test with the entities that a finished run found.
"""

from __future__ import annotations

import html
import os
import pty
import re
import struct
import sys
import tempfile
from collections.abc import Iterator, Sequence
from fcntl import ioctl
from pathlib import Path
from termios import TIOCSWINSZ

from hf_sft.data.tags import type_of, types_of

FOLDER = Path(__file__).parents[1] / "docs" / "pictures"
COMMANDS = {
    "check": ["hf-sft", "check", "bundled:bert_sentiment"],
    "run": ["hf-sft", "run", "bundled:efficientnet_digits"],
}
COLUMNS = 120
NO_BREAK = "\u00a0"  # a space that is not drawn together with the next
CELL = (7.8, 18)  # pixels of a letter
SENTENCES = 6
GROUNDS = ("#2b5c8a", "#7a4a1e", "#2f6b45", "#6d3b76", "#7a3340", "#4d5560")
MISSED = "#ff8a80"  # of the line under words whose reference is another
STYLE = "font:13px ui-monospace,SFMono-Regular,Menlo,Consolas,monospace"


def capture(command: list[str], folder: Path) -> list[str]:
    """The lines that stand in a terminal when the command has ended. Raises SystemExit where it fails."""
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(folder)
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        os.execvpe(command[0], command, {**os.environ, "PATH": path, "COLUMNS": str(COLUMNS)})
    ioctl(terminal, TIOCSWINSZ, struct.pack("HHHH", 50, COLUMNS, 0, 0))
    printed = b""
    try:
        while part := os.read(terminal, 4096):
            printed += part
    except OSError:  # how a terminal says that its process is gone
        pass
    if os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]):
        sys.exit(printed.decode())
    lines = [shown(line) for line in printed.decode().replace("\r\n", "\n").split("\n")]
    return [line[start : start + COLUMNS] for line in lines for start in range(0, max(len(line), 1), COLUMNS)]


def shown(line: str) -> str:
    """What is left of a line where bars were drawn over each other."""
    left = ""
    for part in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line).split("\r"):
        left = part + left[len(part) :]
    return left.rstrip()


def as_svg(command: list[str], lines: list[str]) -> str:
    """Plain text on a dark ground, with the command above it."""
    rows = [row.replace(" ", NO_BREAK) for row in (f"$ {' '.join(command)}", *lines)]
    width, height = round(CELL[0] * max(map(len, rows)) + 40), round(CELL[1] * len(rows) + 36)
    size = f'width="{width}" height="{height}"'
    texts = [
        f'<text x="20" y="{28 + CELL[1] * place:g}" fill="{"#8bd5a0" if place == 0 else "#d6dae0"}">'
        f"{html.escape(row, quote=False)}</text>"
        for place, row in enumerate(rows)
        if row
    ]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" {size}>',
            f'<rect {size} rx="8" fill="#1d2127"/>',
            f'<g style="{STYLE}">',
            *texts,
            "</g>\n</svg>\n",
        ]
    )


def chosen(rows: Sequence[dict[str, list[str]]]) -> list[dict[str, list[str]]]:
    """A few rows that fit into a line: one with a mistake, if there is one, the others with the most types first."""
    fitting = [row for row in rows if len(" ".join(row["words"])) + 9 * len(entities(row["prediction"])) < COLUMNS]
    ordered = sorted(fitting, key=lambda row: -len(types_of(row["prediction"])))
    wrong = [row for row in ordered if row["prediction"] != row["reference"]][:1]
    return (wrong + [row for row in ordered if row not in wrong])[:SENTENCES]


def entities(tags: Sequence[str]) -> list[tuple[int, int, str]]:
    """First word, end and type of each, in IOB2; an I- that goes on with nothing begins one."""
    found: list[tuple[int, int, str]] = []
    for place, tag in enumerate(tags):
        kind = type_of(tag)
        if kind and tag.startswith("I-") and found and found[-1][1:] == (place, kind):
            found[-1] = (found[-1][0], place + 1, kind)
        elif kind:
            found.append((place, place + 1, kind))
    return found


def entities_as_svg(rows: Sequence[dict[str, list[str]]]) -> str:
    """Words with a ground behind predicted entities and their type after it; underlined where the reference differs."""
    kinds = sorted({kind for row in rows for kind in types_of([*row["prediction"], *row["reference"]])})
    grounds = {kind: GROUNDS[place % len(GROUNDS)] for place, kind in enumerate(kinds)}
    drawn: list[str] = []
    width, line = 0.0, 2 * CELL[1]
    for number, row in enumerate(rows):
        shapes, end = zip(*_shapes(row, grounds, 28 + CELL[1] * 0.4 + line * number), strict=True)
        drawn += shapes
        width = max(width, *end)
    below = 28 + CELL[1] * 0.4 + line * len(rows)
    legend = f"underlined: the reference is another ({' '.join(kinds)})".replace(" ", NO_BREAK)
    drawn.append(f'<text x="20" y="{below:g}" fill="#8b949e">{legend}</text>')
    size = f'width="{round(width + 20)}" height="{round(below + 16)}"'
    box = f'viewBox="0 0 {round(width + 20)} {round(below + 16)}"'
    head = [f'<svg xmlns="http://www.w3.org/2000/svg" {box} {size}>', f'<rect {size} rx="8" fill="#1d2127"/>']
    return "\n".join([*head, f'<g style="{STYLE}">', *drawn, "</g>\n</svg>\n"])


def _shapes(row: dict[str, list[str]], grounds: dict[str, str], y: float) -> Iterator[tuple[str, float]]:
    """Elements of a line of words, each with the place where it ends."""
    begins = {first: (last, kind) for first, last, kind in entities(row["prediction"])}
    x, last, kind = 20.0, 0, ""
    for place, word in enumerate(row["words"]):
        if place in begins:
            last, kind = begins[place]
            letters = len(" ".join(row["words"][place:last])) + 1 + len(kind)
            box = f'width="{CELL[0] * letters + 8:g}" height="22" rx="4" fill="{grounds[kind]}"'
            yield f'<rect x="{x:g}" y="{y - 16:g}" {box}/>', x + CELL[0] * letters + 8
            x += 4
        yield _text(word, x, y, "#d6dae0"), x + CELL[0] * len(word)
        if row["prediction"][place] != row["reference"][place]:
            to = x + CELL[0] * len(word)
            yield f'<path d="M{x:g} {y + 4:g}H{to:g}" stroke="{MISSED}" stroke-width="2"/>', to
        x += CELL[0] * (len(word) + 1)
        if place + 1 == last:
            yield _text(kind, x, y, "#ffd479"), x + CELL[0] * len(kind) + 4
            x += CELL[0] * (len(kind) + 1) + 4


def _text(words: str, x: float, y: float, colour: str) -> str:
    length = f'textLength="{CELL[0] * len(words):g}" lengthAdjust="spacingAndGlyphs"'
    return f'<text x="{x:g}" y="{y:g}" fill="{colour}" {length}>{html.escape(words, quote=False)}</text>'


def draw_entities(run: Path, target: Path) -> None:
    """From predictions/test.parquet of a run."""
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(
        run / "predictions" / "test.parquet", columns=["words", "reference", "prediction"]
    )
    target.write_text(entities_as_svg(chosen(table.to_pylist())), encoding="utf-8")


def main() -> None:
    if sys.argv[1:2] == ["entities"]:
        return draw_entities(Path(sys.argv[2]), FOLDER / "entities.svg")
    for name in sys.argv[1:] or COMMANDS:
        with tempfile.TemporaryDirectory() as folder:
            lines = capture(COMMANDS[name], Path(folder))
        while lines and not lines[-1]:
            lines.pop()
        (FOLDER / f"{name}.svg").write_text(as_svg(COMMANDS[name], lines), encoding="utf-8")


if __name__ == "__main__":
    main()
