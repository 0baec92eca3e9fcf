"""A job on a cluster of this machine that loses a node in the middle, compared with the serial engine.

    python tests/chaos/submitted.py jobs/quickstart.yaml
    python tests/chaos/submitted.py jobs/hippocampus.yaml --limit-cases 1 --upload unet.safetensors \
        --set models.0.checkpoint=s3://lab/unet.safetensors

Four nodes (`cluster/local.sh`), the job through the Jobs API, OUT on an S3 server. Once a third of the records is
there, a node is killed and another one joins. Prints what was found as JSON; exit code 1 if rows differ.
"""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(Path(__file__).parent)]

from s3_server import BUCKET  # noqa: E402 (a script finds them only now)
from soak import Soak  # noqa: E402
from tiny import class_rows, rows  # noqa: E402

from freqbench.core import storage  # noqa: E402
from freqbench.results import Store  # noqa: E402

OUT = f"s3://{BUCKET}/submitted"
WAIT_S = 1800.0


def submitted(folder: Path, job: str, options: list[str], uploads: list[str]) -> dict[str, Any]:
    """Run a job on a cluster that loses a node, and by the serial engine."""
    chaos = Soak(folder, seed=0)
    log = folder / "job.log"
    with chaos.up():
        for path in uploads:
            storage.write_atomic(f"s3://{BUCKET}/{Path(path).name}", Path(path).read_bytes())
        command = [sys.executable, str(ROOT / "bench.py")]
        started = time.monotonic()
        with log.open("w") as said:
            process = subprocess.Popen(
                [*command, "submit", job, "--out", OUT, "--follow", *options],
                env=chaos.cluster.environment,
                stdout=said,
                stderr=subprocess.STDOUT,
            )
        killed_at = None
        while process.poll() is None and time.monotonic() - started < WAIT_S:
            found = re.findall(r"^(\d+) of (\d+) records stored", log.read_text(), re.MULTILINE)
            if killed_at is None and found and 3 * int(found[-1][0]) >= int(found[-1][1]):
                killed_at = int(found[-1][0])
                chaos.cluster.kill(chaos.cluster.nodes[-1])
                chaos.cluster.add()
            time.sleep(0.5)
        seconds = time.monotonic() - started
        serial = [*command, "run", job, "--engine", "serial", "--out", str(folder / "serial"), *options]
        with (folder / "serial.log").open("w") as said:
            subprocess.run(serial, stdout=said, stderr=subprocess.STDOUT, check=True)
        found, expected = rows(OUT), rows(folder / "serial")
        (run,) = Store(OUT).runs()
        return {
            "exit code of submit --follow": process.returncode,
            "seconds": round(seconds),
            "records when a node was killed": killed_at,
            "what the run said of it": [
                line for line in log.read_text().splitlines() if re.search(r"machine (is )?(gone|joined)", line)
            ],
            "workers of the run": len(run["workers"]),
            "records": len(found),
            "records of the serial engine": len(expected),
            "rows equal": found == expected,
            "class rows equal": class_rows(OUT) == class_rows(folder / "serial"),
        }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--limit-cases", type=int)
    parser.add_argument("--upload", action="append", default=[], help="file that is put into the bucket first")
    parser.add_argument("--folder", type=Path, help="for logs; kept [default: a temporary one]")
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="submitted-"))
    folder.mkdir(parents=True, exist_ok=True)
    settings = [*arguments.set, "resources={workers: auto, threads: 1, gpus_per_worker: 1}"]
    options = [word for setting in settings for word in ("--set", setting)]
    if arguments.limit_cases:
        options += ["--limit-cases", str(arguments.limit_cases)]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))
    os.chdir(ROOT)
    try:
        found = submitted(folder, arguments.job, options, arguments.upload)
    finally:
        if not arguments.folder:
            shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(found, indent=1))
    is_sound = found["rows equal"] and found["class rows equal"] and found["exit code of submit --follow"] == 0
    return 0 if is_sound and found["records when a node was killed"] is not None else 1


if __name__ == "__main__":
    sys.exit(main())
