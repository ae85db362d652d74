#!/usr/bin/env python3
"""What the simulation finds: python3 tests/sim/planted.py BUILD [SEEDS [EVENTS [PART...]]]

Each fault below is one that a programmer makes: a line that is forgotten, a relation that is turned round, a signal
that is not given. It is put into its source, that file alone is compiled, the simulation linked with it and run from
seeds 1 .. SEEDS (4) for EVENTS (100,000) each, until one of them fails. Prints who found what, and behind how many
events. Exit code 1 when fewer than nine of ten were found, or when a source has no longer what is changed here. PART:
only faults whose name has one of them in it.

make sim-faults does all of it: BUILD is a directory of objects that it filled, and the environment has the commands
(COMPILE, LINK) and what is linked (OBJECTS, LIBRARIES)."""
import os
import re
import resource
import shlex
import subprocess
import sys

MUST = 0.9
CPU_S = 240  # of one run

# name, source, what stands there once, what stands there then
FAULTS = [
    # --- The queue and its order ---
    ("a cancelled job waits on", "server/work/admission.c",
     "if (atomic_load(&j->cancel) || s->end_all || (j->deadline_ns", "if (s->end_all || (j->deadline_ns"),
    ("waiting has no end", "server/work/admission.c",
     "s->conf->queue_timeout_ms * 1000000ull)) {", "s->conf->queue_timeout_ms * 1000000000ull)) {"),
    ("a deadline passes in the queue", "server/work/admission.c",
     "(j->deadline_ns && now > j->deadline_ns) ||", ""),
    ("the queue's end stays behind a job that left", "server/work/admission.c",
     "    if (!*link)\n        s->queue_end = link;\n", ""),
    ("tokens of who left count on", "server/work/admission.c", "    s->queued_tokens -= j->prompt.n;\n", ""),
    ("who came while others find no room is forgotten", "server/work/engine_thread.c",
     "s->blocked && !s->arrivals && !expired", "s->blocked && !expired"),
    ("a job is taken without a signal", "server/work/sched.c",
     "        pthread_cond_signal(&s->wake);\n    }\n    pthread_mutex_unlock(&s->lock);\n"
     "    return count_refusal", "    }\n    pthread_mutex_unlock(&s->lock);\n    return count_refusal"),
    ("jobs are let in during a drain", "server/work/sched.c", "if (s->draining || s->stop)", "if (s->stop)"),
    ("a key has one request more than it may", "server/work/sched.c",
     "a->in_flight + n > s->conf->max_requests_per_key", "a->in_flight + n > s->conf->max_requests_per_key + 1"),
    ("the queue has one place more", "server/work/sched.c",
     "waiting + n > idle + fair_places(a, s->conf->queue_requests)",
     "waiting + n > idle + 2 + fair_places(a, s->conf->queue_requests)"),
    ("an operator ends another job", "server/work/sched.c", "j->number != number)", "j->number < number)"),
    ("service before now counts", "server/work/fair.c", "    f->now = fmax(a->virtual_time, f->now);\n", ""),
    ("one choice of several is charged", "server/work/admission.c",
     "(double)j->room.sequences * j->request.max_tokens", "j->request.max_tokens"),
    ("priority does not age", "server/work/fair.c", "j->arrived_ns, now_ns)) / 1000000000u)",
     "j->arrived_ns, now_ns)) / 1000000000000u)"),
    ("an eighth is for everybody", "server/work/fair.c",
     "return !a->running || fits(held, &configured);", "return !a->running || fits(held, all);"),
    # --- The engine's thread ---
    ("a cancel calls nobody", "server/work/sched.c",
     "    atomic_store(&j->cancel, true);\n    call_attention(j->sched);", "    atomic_store(&j->cancel, true);"),
    ("a running job's deadline is not noted", "server/work/admission.c",
     "        s->next_deadline_ns = j->deadline_ns;\n", "        ;\n"),
    ("who waited longest is passed over", "server/work/fair.c",
     "seat[k]->last_turn < next->last_turn", "seat[k]->last_turn > next->last_turn"),
    ("a slow reader never gives way", "server/work/fair.c",
     "return r->slow && slow_ns >= PATIENCE_MS * 1000000ull &&", "return r->slow && !slow_ns &&"),
    ("who does not read is evaluated on", "server/work/engine_thread.c",
     "    (void)deq_pause(s->engine, j->admission.id, pause);\n", ""),
    ("a caller's count of running jobs stays", "server/work/engine_thread.c", "    j->account->running--;\n", ""),
    ("memory of an answer stays reserved when the engine is full", "server/work/admission.c",
     "        if (rc == DEQ_EFULL) {\n            deq_allowance_unreserve(j->answer, j->answer_bytes);\n",
     "        if (rc == DEQ_EFULL) {\n"),
    ("a stream's last news are held", "server/work/flush.c",
     "const bool goes = s->has != FLUSH_NOTHING && (slow || due);",
     "const bool goes = s->has == FLUSH_NEW && (slow || due);"),
    # --- Channels and connections ---
    ("news wake nobody", "server/net/channel.c",
     "        pace(c, true);\n    channel_wake(c, w);", "        pace(c, true);"),
    ("an end wakes nobody", "server/net/channel.c",
     "        c->content_type = content_type;\n    }\n    channel_wake(c, &w);",
     "        c->content_type = content_type;\n    }"),
    ("a reader who caught up waits for ever", "server/net/channel.c",
     "    if (unread(c) <= c->limit / 2)\n        pace(c, false);\n    return n;", "    return n;"),
    ("a stream has no limit", "server/net/channel.c",
     "    if (c->streaming && unread(c) > c->limit)\n        pace(c, true);\n", ""),
    ("followers are not woken", "server/net/http_wake.c", "    resume_each(followers);\n", "    (void)followers;\n"),
    ("a large body whose client left is kept", "server/net/http_body.c",
     "        if (orphan)\n            http_state_free(s);\n", "        (void)orphan;\n"),
    ("a client that left is not looked for", "server/net/watch.c",
     "        if (cl->channel && cl->hangup)\n            half_closed(cl);\n", ""),
    ("a head may take for ever", "server/net/watch.c",
     "set_deadline(cl, WATCH_HEADERS, refused ? REFUSED_MS : w->conf->header_timeout_ms);",
     "set_deadline(cl, WATCH_HEADERS, 0);"),
    ("who takes nothing is kept", "server/net/channel.c",
     "    if (now_ns - c->last_read_ns > window_ns)\n        return true;\n", ""),
    ("a refusal has no Retry-After", "server/net/http_send.c", "    if (f->retry_after_ms) {", "    if (0) {"),
    ("a key is another's", "server/auth.c", "*ret = same ? a->keys[i].caller : *ret;",
     "*ret = same ? a->keys[0].caller : *ret;"),
    # --- What is kept ---
    ("a reload frees what is in use", "server/work/store.c", "while (atomic_load(&m->refs) > 1)",
     "while (atomic_load(&m->refs) > 2)"),
    ("the writer of states forgets its list's end", "server/work/states.c",
     "        if (!s->first)\n            s->last = &s->first;\n", ""),
    ("a state's memory is not given back", "server/api/exchange.c",
     "        deq_allowance_give(&s->channel->allowance, s->bytes);\n", "        ;\n"),
    # --- The library, as far as one answer touches another ---
    ("a prompt's blocks are found by their first tokens", "core/engine/blocks.c",
     "tokens, e->opts.prefill_block * sizeof *tokens);", "tokens, sizeof *tokens);"),
]


class Simulation:
    def __init__(self, build):
        self.build = build
        self.compile, self.link, self.objects, self.libraries = (
            shlex.split(os.environ[k]) for k in ("COMPILE", "LINK", "OBJECTS", "LIBRARIES"))
        self.dir = os.path.join(build, "planted")
        os.makedirs(self.dir, exist_ok=True)

    def build_with(self, path, text):
        """The simulation with another text in a source's place."""
        source, target = os.path.join(self.dir, os.path.basename(path)), os.path.join(self.dir, "planted.o")
        program = os.path.join(self.dir, "sim")
        with open(source, "w", encoding="utf-8") as f:
            f.write(text)
        subprocess.run(self.compile + ["-w", "-O1", "-c", source, "-o", target], check=True)
        own = os.path.join(self.build, path[:-2] + ".o")
        objects = [target] + [o for o in self.objects if o != own]
        subprocess.run(self.link + ["-Wl,-S"] + objects + self.libraries + ["-o", program], check=True)
        return program

    def run(self, program, seed, events):
        """(events until it failed, what it says), or None: it did not."""
        def bounded():
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S + 1))

        done = subprocess.run([program, "--seed", str(seed), "--events", str(events), "--dir", self.dir + "/state"],
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
                              preexec_fn=bounded)
        if not done.returncode:
            return None
        at = re.search(r"^simulation: seed \d+, event (\d+)", done.stdout, re.M)
        said = re.search(r"^broken: (.*)", done.stdout, re.M)
        return int(at[1]) if at else events, said[1] if said else f"ends with {done.returncode}"


def main():
    sim = Simulation(sys.argv[1])
    seeds, events = (int(sys.argv[i]) if len(sys.argv) > i else usual for i, usual in ((2, 4), (3, 100000)))
    parts = sys.argv[4:] or [""]
    found, tried, gone = 0, 0, 0
    for name, path, old, new in FAULTS:
        if not any(part in name for part in parts):
            continue
        text = open(path, encoding="utf-8").read()
        if text.count(old) != 1:
            print(f"{path} has {text.count(old)} times what is to be changed: {name}")
            gone += 1
            continue
        program = sim.build_with(path, text.replace(old, new))
        tried += 1
        for seed in range(1, seeds + 1):
            bad = sim.run(program, seed, events)
            if bad:
                print(f"found      {(seed - 1) * events + bad[0]:8d}  {name}: {bad[1][:100]}", flush=True)
                found += 1
                break
        else:
            print(f"not found  {seeds * events:8d}  {name}", flush=True)
    print(f"planted: {found} of {tried} faults found, {MUST:.0%} wanted")
    sys.exit(bool(gone) or found < MUST * tried)


main()
