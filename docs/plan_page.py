"""Take the picture of the plan's page that the README shows: `python docs/plan_page.py`.

Needs Chromium. The picture names what it was taken of, so that a test can say when it is old.
"""

import hashlib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "plan_page.png"
SOURCES = ("docs/sample_outputs.csv", "ustat_grpo/planner/page.html", "ustat_grpo/planner/page.py")
SIZE = (1000, 820)


def digest() -> str:
    """Return the digest of what the page is made of."""
    content = b"".join((ROOT / name).read_bytes() for name in SOURCES)
    return hashlib.sha256(content).hexdigest()


def main() -> None:
    """Plan for the sample of the documents, show the page, and keep what is seen of it."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        sys.exit("error: chromium must be installed, got none on the PATH")
    with tempfile.TemporaryDirectory() as place:
        page, seen = Path(place) / "plan.html", Path(place) / "seen.png"
        plan = ["ustat_grpo.command_line", "plan", "docs/sample_outputs.csv", "--budget", "512"]
        subprocess.run([sys.executable, "-m", *plan, "--html", page], check=True, cwd=ROOT)
        options = ["--headless", "--no-sandbox", "--hide-scrollbars", "--virtual-time-budget=2000"]
        size = f"--window-size={SIZE[0]},{SIZE[1]}"
        command = [browser, *options, size, f"--screenshot={seen}", page.as_uri()]
        subprocess.run(command, check=True, capture_output=True)
        record = PngInfo()
        record.add_text("Source", digest())
        Image.open(seen).convert("RGB").save(PICTURE, pnginfo=record, optimize=True)
    print(PICTURE)


if __name__ == "__main__":
    main()
