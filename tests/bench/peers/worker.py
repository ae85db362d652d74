"""What the peers' processes share: a request is a line of JSON on standard input, an answer one on standard output.
Time is the processor's where there is one thread, which other processes leave nearly alone, else the wall's."""
import json
import statistics
import sys
import time


def clock(threads):
    return time.process_time if threads == 1 else time.perf_counter


def median_s(work, now, least=0.3, most=20, warm=True):
    """Seconds of work(): once to get warm, then until enough time has passed."""
    if warm:
        work()
    times = []
    while sum(times) < least and len(times) < most or not times:
        t = now()
        work()
        times.append(now() - t)
    return statistics.median(times)


def serve(answer):
    """answer(request) -> what to tell, for every request until the input ends."""
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)
