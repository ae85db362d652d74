"""Random failures of the C library in a serving daemon, also inside libmicrohttpd, jansson and libyaml (libfiu,
preloaded by fiu-run): no crash; it may end with a message while it starts, and serves from then on, with an error now
and then."""
import os
import shutil
import subprocess
import tempfile

from lib import SANITIZED, check, equal, skip
from served import Served, texts
from start import ASK, reference, session

ROUNDS = int(os.environ.get("DEQ_ROUNDS", "10"))
MEMORY = "libc/mm/*"
FAULTS = ((MEMORY, 0.001), (MEMORY, 0.02), ("posix/io/rw/*", 0.001), ("posix/io/net/*", 0.002),
          ("posix/io/oc/*", 0.01), ("posix/io/sync/*", 0.1), ("posix/io/dir/*", 0.02))


def test_random_failures():
    if SANITIZED:
        return skip("libfiu and a sanitizer both stand before the C library: use the release build")
    if not shutil.which("fiu-run"):
        return skip("fiu-run is not there: apt-get install fiu-utils libfiu0")
    answered = starts = lives = 0
    for name, p in FAULTS:
        for _ in range(ROUNDS):
            with tempfile.TemporaryDirectory() as dir:
                ask = "enable_random name=%s,probability=%g" % (name, p)
                early = name != MEMORY  # a start has thousands of allocations, of which one would fail
                d = Served(dir, "state.dir=" + os.path.join(dir, "states"), "engine.cache_dir=" + dir,
                           command=("fiu-run", "-x", "-f", os.path.join(dir, "fiu")) + (("-c", ask) if early else ()))
                up = d.up()
                if up and not early:
                    subprocess.run(["fiu-ctrl", "-f", os.path.join(dir, "fiu"), "-c", ask, str(d.p.pid)], timeout=60)
                for _ in range(20 if up else 0):
                    answered += 6 - session(d, True)
                code = d.end()
                check(code in ((0,) if up else (0, 1, 2)),
                      "%s %g: exit code %s\n%s" % (name, p, code, d.text()[-2000:]))
                lives += 1
                starts += up
    print("  %d lives, %d of them served, %d answers" % (lives, starts, answered))
    check(starts and answered, "some lives serve")
    with tempfile.TemporaryDirectory() as dir:
        d = Served(dir)
        check(d.up(), "without failures it starts")
        equal(texts(d.request("POST", "/v1/completions", ASK)), reference["completion"], "and says the same")
        d.end()
