"""Traffic that moves every number of the board: a steady stream of requests, bursts that fill the queue, callers that
leave, callers in the wrong, shared prefixes, positions that cannot converge, and a few requests that start at zero, to
compare with."""
import json
import random
import subprocess
import threading
import time

from lib import DEQ, clean_env

STORY = ("Once upon a time there was a little girl named Lily. She had a red ball and a small brown dog. Every day "
         "they went to the park and played "
         "until the sun went down. One day the ball rolled away, over the hill and into the dark wood. Lily was sad, "
         "but the dog was not afraid. ")
HEAD = STORY * 3  # more than one block of 128 positions
ENDS = ("The dog ran", "Then Lily said", "In the wood there was", "Her mother came", "The ball was")


class Load:
    """Runs for so many seconds; finish() waits for the end and returns what was sent and answered, by kind and
    status."""

    def __init__(self, daemon, seconds):
        self.d, self.until, self.seconds = daemon, time.monotonic() + seconds, seconds
        self.seen, self.lock = {}, threading.Lock()
        self.bench = subprocess.Popen([DEQ, "bench", "serve", "http://%s:%d" % (daemon.host, daemon.port),
                                       "--request-rate", "5", "--num-prompts", str(int(5 * seconds)), "--input-len",
                                       "48", "--output-len", "48", "--temperature", "0.8", "--json"],
                                      stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=clean_env())
        kinds = ((self.shared, 0.4), (self.leaver, 1.0), (self.wrong, 1.5), (self.stubborn, 1.2), (self.zero, 0.8),
                 (self.scorer, 2.0), (self.hurried, 2.5), (self.shaped, 1.5))
        self.threads = [threading.Thread(target=self.repeat, args=(i, fn, pause)) for i,
                        (fn, pause) in enumerate(kinds)]
        self.threads.append(threading.Thread(target=self.bursts))
        for t in self.threads:
            t.start()

    def finish(self):
        for t in self.threads:
            t.join()
        out, _ = self.bench.communicate(timeout=120)
        return self.seen, json.loads(out)

    def note(self, kind, status):
        with self.lock:
            self.seen[kind, status] = self.seen.get((kind, status), 0) + 1

    def repeat(self, seed, fn, pause):
        rng = random.Random(seed)
        while time.monotonic() < self.until:
            fn(rng)
            time.sleep(pause * rng.uniform(0.5, 1.5))

    def ask(self, kind, path="/v1/completions", **body):
        self.note(kind, self.d.post(path, body)[0])

    def shared(self, rng):
        """A head that all share, then a second turn on top of the answer."""
        body = {"prompt": HEAD + rng.choice(ENDS), "max_tokens": rng.randrange(40, 90), "temperature": 0.8,
                "seed": rng.randrange(1000), "cache": "approximate"}
        status, _, answer = self.d.post("/v1/completions", body)
        self.note("shared prefix", status)
        if status == 200:
            self.ask("second turn",
                     **{**body, "prompt": body["prompt"] + answer["choices"][0]["text"] + " The end. And then",
                        "max_tokens": 10})

    def leaver(self, rng):
        """Reads the first bytes of a long stream, then hangs up."""
        c = self.d.http()
        c.request("POST", "/v1/completions",
                  json.dumps({"prompt": STORY, "max_tokens": 500, "ignore_eos": True, "stream": True}),
                  {"Content-Type": "application/json"})
        r = c.getresponse()
        if r.status == 200:
            r.read(200)
        self.note("left", r.status)
        c.close()

    def wrong(self, rng):
        self.note("wrong", self.d.request("POST", "/v1/completions",
                                          rng.choice(('{"prompt": 1}', "{", '{"prompt": "A", "max_tokens": -1}')))[0])
        self.note("lost", self.d.request("GET", "/v1/nothing")[0])

    def stubborn(self, rng):
        self.ask("not converging", prompt=STORY, max_tokens=20, deq={"tol": 1e-5, "max_iter": 2})

    def zero(self, rng):
        self.ask("from zero", prompt=STORY + rng.choice(ENDS), max_tokens=40, temperature=0.8,
                 deq={"warm_start": "zero"})

    def scorer(self, rng):
        self.ask("scored", prompt=STORY, max_tokens=0, echo=True, logprobs=1)

    def hurried(self, rng):
        self.ask("deadline", prompt=STORY, max_tokens=1500, ignore_eos=True, deadline_ms=150)

    def shaped(self, rng):
        """Answers that fit a form: one that is new, one that is known, and one that is wrong."""
        for regex in (" [a-z]{1,%d}" % rng.randrange(1, 40), " (yes|no)", "("):
            self.ask("form" if regex != "(" else "wrong form", prompt=STORY, max_tokens=10,
                     structured_outputs={"regex": regex})

    def bursts(self):
        """Twice, more at once than fit into engine and queue."""
        for share in (0.25, 0.6):
            time.sleep(max(0, self.until - (1 - share) * self.seconds - time.monotonic()))
            crowd = [threading.Thread(target=self.ask, args=("burst",),
                                      kwargs={"prompt": "Tom had a cat. %d" % i, "max_tokens": 120, "ignore_eos": True,
                                              "seed": i})
                     for i in range(40)]
            for t in crowd:
                t.start()
            for t in crowd:
                t.join()
