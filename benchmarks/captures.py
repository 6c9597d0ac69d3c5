"""What the commands of the README print in a terminal, as pictures: `python -m benchmarks.captures`."""

from __future__ import annotations

import html
import os
import pty
import re
import struct
import sys
import tempfile
from fcntl import ioctl
from pathlib import Path
from termios import TIOCSWINSZ

FOLDER = Path(__file__).parents[1] / "docs" / "pictures"
COMMANDS = {
    "check": ["hf-sft", "check", "bundled:bert_sentiment"],
    "run": ["hf-sft", "run", "bundled:efficientnet_digits"],
}
COLUMNS = 120
NO_BREAK = "\u00a0"  # a space that is not drawn together with the next
CELL = (7.8, 18)  # pixels of a letter
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


def main() -> None:
    for name in sys.argv[1:] or COMMANDS:
        with tempfile.TemporaryDirectory() as folder:
            lines = capture(COMMANDS[name], Path(folder))
        while lines and not lines[-1]:
            lines.pop()
        (FOLDER / f"{name}.svg").write_text(as_svg(COMMANDS[name], lines), encoding="utf-8")


if __name__ == "__main__":
    main()
