/* deqd: reads the configuration, loads the model, serves, drains. Exit codes: 0 stopped as asked, 1 could not start or
 * failed, 2 wrong usage or configuration. What is wrong with usage or values is a plain line on standard error;
 * whatever comes after that is a line of the log. */
#include <errno.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "core/base/bug.h"
#include "core/base/clock.h"
#include "core/base/fault.h"
#include "core/base/stdio.h"
#include "server/api/answer.h"
#include "server/api/exchange.h"
#include "server/api/route.h"
#include "server/api/service.h"
#include "server/conf.h"
#include "server/log.h"
#include "server/metrics.h"
#include "server/net/http.h"
#include "server/net/probe.h"
#include "server/notify.h"
#include "server/sandbox.h"
#include "server/work/memory.h"

enum {
    HANDOVER_MS = 2000, /* clients that connected to an inherited socket just before it was left have so long to ask */
    ACCEPT_MS = 100,    /* of which who was just being accepted needs some to be counted */
    READERS_MS = 2000,  /* then answers that are written have so long to be read */
    END_MS = 3000,      /* then threads have so long to end, whatever request they are in */
    STOP_SLACK_MS = 10000, /* all of it, beyond the drain and the step at hand, and some */
};

static _Atomic bool threads_ended; /* what is left is memory to give back: seconds, of a large model */

/* Connections, their spare, those that linger, and what the process itself holds open must fit, or clients would hang
 * later instead of us failing now. */
static enum deq_rc descriptors_fit(const struct conf *c, struct deq_err *err)
{
    struct rlimit r;
    const rlim_t need = (rlim_t)c->max_connections + 64 + 64 + 128;
    if (getrlimit(RLIMIT_NOFILE, &r))
        return DEQ_OK;
    if (r.rlim_cur < need && (r.rlim_max == RLIM_INFINITY || r.rlim_max >= need)) {
        r.rlim_cur = need;
        (void)setrlimit(RLIMIT_NOFILE, &r);
        (void)getrlimit(RLIMIT_NOFILE, &r);
    }
    if (r.rlim_cur >= need)
        return DEQ_OK;
    return deq_fail(err, DEQ_EIO, "server.max_connections: %u connections need %llu descriptors, the limit is %llu",
                    c->max_connections, (unsigned long long)need, (unsigned long long)r.rlim_cur);
}

/* Waits for one of the signals in `set`, at most ms. Returns it, or 0. */
static int wait_signal(const sigset_t *set, uint64_t ms)
{
    const struct timespec t = {.tv_sec = (time_t)(ms / 1000), .tv_nsec = (long)(ms % 1000) * 1000000};
    const int sig = sigtimedwait(set, NULL, &t);
    return sig > 0 ? sig : 0;
}

/* The reading of a request, and a step of an engine that hangs or whose end was asked for twice, can take longer than
 * anybody waits for an end, and then nobody is owed anything any more. */
static void *end_anyway(void *ms)
{
    const uint64_t wait_ms = (uintptr_t)ms;
    const struct timespec t = {.tv_sec = (time_t)(wait_ms / 1000), .tv_nsec = (long)(wait_ms % 1000) * 1000000};
    nanosleep(&t, NULL);
    if (atomic_load(&threads_ended))
        return NULL;
    log_line(LOG_WARN, "ended with threads still at work");
    log_stop();
    _exit(0);
}

/* Whatever happens, no thread is at work after so long. */
static void end_within(uint64_t ms)
{
    pthread_t thread;
    if (!DEQ_THREAD(pthread_create(&thread, NULL, end_anyway, (void *)(uintptr_t)ms)))
        (void)pthread_detach(thread);
}

/* SIGTERM: not ready at once; new requests for drain_delay_ms; then running ones may finish for shutdown_timeout_ms.
 * The step that the engine is in then is the last: of a large model it may take long, but no longer than stall_ms, or
 * it hangs. A second signal ends it now. Who types ^C waits for no load balancer. */
static void drain(struct service *s, struct http *http, const sigset_t *signals, int sig)
{
    const struct conf *c = s->conf;
    const uint32_t delay_ms = sig == SIGINT ? 0 : c->drain_delay_ms;
    atomic_store(&s->state, SERVER_DRAINING);
    const uint64_t at_most_ms = (uint64_t)delay_ms + c->shutdown_timeout_ms + c->stall_ms + STOP_SLACK_MS;
    end_within(at_most_ms);
    notify_stopping(at_most_ms);
    http_close_connections(http);
    log_line(LOG_INFO, "draining", log_int("pending", (int64_t)store_pending(s->store)),
             log_int("drain_delay_ms", delay_ms), log_int("shutdown_timeout_ms", c->shutdown_timeout_ms));
    const size_t running = store_pending(s->store);
    if (running)
        log_plain("%zu request%s running; a second Ctrl-C ends %s now, else %s may take %u s", running,
                  running == 1 ? " is" : "s are", running == 1 ? "it" : "them", running == 1 ? "it" : "they",
                  c->shutdown_timeout_ms / 1000);
    bool now = delay_ms && wait_signal(signals, delay_ms);
    /* in an inherited socket new clients wait for the daemon that comes next; whoever is here already may still ask */
    if (http_inherited(http)) {
        http_stop_accepting(http);
        for (int ms = 0; ms < HANDOVER_MS && !now && (ms < ACCEPT_MS || http_connections(http)); ms += 10)
            now = wait_signal(signals, 10) != 0;
    }
    store_drain(s->store);
    const uint64_t until = deq_now_ns() + c->shutdown_timeout_ms * 1000000ull;
    while (!now && store_pending(s->store) && deq_now_ns() < until)
        now = wait_signal(signals, 20) != 0;
    const size_t cut = store_pending(s->store);
    if (cut)
        log_line(LOG_INFO, "requests end behind the step at hand", log_int("pending", (int64_t)cut));
    store_end_all(s->store);
    http_stop_accepting(http);
    while (!now && store_pending(s->store))
        now = wait_signal(signals, 20) != 0;
    /* answers that are written but not yet read get a moment */
    for (int i = 0; i < READERS_MS / 20 && !now && http_open_exchanges(http); i++)
        now = wait_signal(signals, 20) != 0;
}

/* --- What people and the supervisor are told --- */

static char address[160], admin_address[160]; /* in use */
static bool sandboxed;
static _Atomic bool secrets_stale;            /* keys or certificate could not be read again */

/* For a terminal: where it is and what to type. */
static void greet(const struct conf *c, const struct served *m)
{
    char url[256], curl[256];
    const char *key = c->keys_file[0] ? " -H \"Authorization: Bearer $KEY\"" : "";
    if (!strncmp(address, "unix:", 5)) {
        snprintf(url, sizeof url, "%s", address);
        snprintf(curl, sizeof curl, "--unix-socket %.*s http://localhost", (int)strcspn(address + 5, ","), address + 5);
    } else {
        snprintf(url, sizeof url, "%s://%s", c->tls_cert[0] ? "https" : "http", address);
        snprintf(curl, sizeof curl, "%s", url);
    }
    log_plain("deqd %s: model %s on %s (/openapi.json); Ctrl-C stops", DEQ_VERSION, m->name, url);
    log_plain("try: curl -sN %s/v1/completions%s -d '{\"prompt\": \"Once upon a time\", \"max_tokens\": 200, "
              "\"stream\": true, \"echo\": true}' | "
              "sed -un 's/.*\"text\":\"\\(.*\\)\",\"logprobs.*/\\1/;T;s/\\\\\"/\"/g;p' | "
              "while IFS= read -r t; do printf %%b \"$t\"; done; echo",
              curl, key);
}

static bool alive(void *ctx)
{
    const struct service *s = ctx;
    return store_alive(s->store, s->conf->stall_ms);
}

/* After loading, and on a reload's thread: the state in one line for people. failed: why the last reload did nothing,
 * or NULL. */
static const char *status_line(const struct service *s, const char *failed, char ret[NOTIFY_STATUS_MAX_BYTES])
{
    struct served *m = store_acquire(s->store);
    snprintf(ret, NOTIFY_STATUS_MAX_BYTES, "serving %s at %s%s%s%s", m->name, address,
             failed ? "; the last reload failed: " : "", failed ? failed : "",
             atomic_load(&secrets_stale) ? "; keys or certificate are the old ones, see the log" : "");
    store_release(m);
    return ret;
}

static void reloaded(void *ctx, enum deq_rc rc, const struct deq_err *err, const char *fingerprint)
{
    char status[NOTIFY_STATUS_MAX_BYTES];
    (void)fingerprint;
    notify_reloaded(status_line(ctx, rc ? err->text : NULL, status));
}

static void reload(struct service *s)
{
    struct deq_err err;
    notify_reloading();
    atomic_store(&secrets_stale, service_reload_secrets(s, &err) != DEQ_OK); /* logged there */
    if (!store_reload(s->store, reloaded, s)) {
        log_line(LOG_WARN, "reload not begun: one is under way, or four earlier models still have work");
        (void)deq_fail(&err, DEQ_EFULL, "one was under way");
        reloaded(s, err.code, &err, "");
    }
}

/* The default is relative to the source tree: who starts it elsewhere is told what to give. */
static enum deq_rc model_named(const struct conf *c, struct deq_err *err)
{
    if (c->model_path[0] == '/' || access(c->model_path, F_OK) == 0 || errno != ENOENT)
        return DEQ_OK;
    return deq_fail(err, DEQ_ENOTFOUND,
                    "model.path: %s: not a directory; give one with config.json, model.safetensors, tokenizer.json "
                    "as --model DIR",
                    c->model_path);
}

/* 2 says that trying again as it is will not help. */
static int exit_code(const struct deq_err *err)
{
    return err->code == DEQ_EINVAL ? 2 : 1;
}

/* The one line about why there is no daemon. */
static int cannot_start(const struct deq_err *err)
{
    const int code = exit_code(err);
    log_line(LOG_ERROR, "cannot start", log_text("reason", err->text), log_int("exit_code", code));
    notify_failed(err->text);
    return code;
}

static enum deq_rc take_kernels(struct deq_err *err)
{
    const char *level = getenv("DEQ_CPU");
    return !level || !*level || deq_kern_force(level)
               ? DEQ_OK
               : deq_fail(err, DEQ_EINVAL,
                          "DEQ_CPU: \"%s\" is not a level of this machine (ref, avx2, avx512, vnni, amx)", level);
}

/* --- Signals --- */

static pthread_t main_thread;

/* A library may start threads before main can block signals, and the system may give them a signal of the process. It
 * is sent on. */
static void forward(int sig)
{
    if (!pthread_equal(pthread_self(), main_thread))
        (void)pthread_kill(main_thread, sig);
}

/* Signals are taken by this thread alone, by waiting for them; threads of ours inherit the block. all: those; ending:
 * without SIGHUP. */
static void take_signals(sigset_t *all, sigset_t *ending)
{
    static const int taken[] = {SIGTERM, SIGINT, SIGHUP};
    const struct sigaction on_signal = {.sa_handler = forward, .sa_flags = SA_RESTART};
    sigemptyset(all);
    sigemptyset(ending);
    main_thread = pthread_self();
    for (size_t i = 0; i < DEQ_COUNT(taken); i++) {
        sigaddset(all, taken[i]);
        if (taken[i] != SIGHUP)
            sigaddset(ending, taken[i]);
        (void)sigaction(taken[i], &on_signal, NULL);
    }
    pthread_sigmask(SIG_BLOCK, all, NULL);
    /* we start no process, but as number 1 of a container inherit others' orphans: the kernel reaps them */
    signal(SIGCHLD, SIG_IGN);
}

/* --- The daemon --- */

/* The door, which opens before the model is there, so that probes can be told. given: sockets of a supervisor's. */
static enum deq_rc open_door(struct service *s, struct http **ret_http, struct deq_err *err)
{
    const struct conf *c = s->conf;
    struct listen_inherited given = {-1, -1};
    const struct http_handler handler = {.check = route_check,
                                         .handle = route_handle,
                                         .refuse = exchange_error,
                                         .no_memory = answer_no_memory,
                                         .retry_ms = ANSWER_RETRY_MS,
                                         .ctx = s,
                                         .budget = s->budget};
    enum deq_rc rc = listen_inherit(&given, err);
    if (!rc)
        rc = descriptors_fit(c, err);
    if (!rc)
        rc = auth_new(c->keys_file, &s->auth, err);
    if (!rc && c->tls_cert[0])
        rc = tls_new(c->tls_cert, c->tls_key, &s->tls, err);
    if (!rc)
        rc = model_named(c, err);
    if (!rc)
        rc = states_new(c, s->metrics, &s->states, err);
    if (!rc)
        rc = store_new(c, s->metrics, &s->store, err);
    if (!rc)
        rc = http_start(c, &given, s->metrics, s->tls, &handler, ret_http, address, admin_address, err);
    return rc;
}

/* Until the model is loaded. */
static enum deq_rc start(struct service *s, struct http **ret_http, struct deq_err *err)
{
    const struct conf *c = s->conf;
    char status[NOTIFY_STATUS_MAX_BYTES];
    snprintf(status, sizeof status, "loading %.*s", (int)sizeof c->model_path, c->model_path);
    enum deq_rc rc = log_start(err);
    if (!rc)
        rc = take_kernels(err);
    if (!rc)
        rc = notify_start(status, err);
    if (!rc)
        rc = open_door(s, ret_http, err);
    if (rc)
        return rc;
    rc = sandbox_enter(c, &sandboxed, err);
    if (rc)
        return rc;
    log_line(LOG_DEBUG, "loading", log_text("address", address),
             log_text("admin_address", admin_address[0] ? admin_address : NULL), log_text("model", c->model_path));
    rc = store_load(s->store, err);
    if (!rc)
        atomic_store(&s->state, SERVER_READY);
    return rc;
}

static void announce(const struct service *s, uint64_t begin_ns)
{
    struct served *m = store_acquire(s->store);
    log_line(LOG_INFO, "listening", log_text("address", address),
             log_text("admin_address", admin_address[0] ? admin_address : NULL), log_text("model", m->name),
             log_text("fingerprint", m->info.fingerprint), log_text("kernels", m->info.kernels),
             log_int("load_ms", (int64_t)((deq_now_ns() - begin_ns) / 1000000)),
             log_int("parameters", (int64_t)m->info.parameters), log_text("version", DEQ_VERSION),
             log_text("sandbox", sandboxed ? "on" : "off"));
    greet(s->conf, m);
    store_release(m);
}

/* From a loaded model to a signal that ends it, or an error. */
static enum deq_rc serve(struct service *s, struct http *http, const sigset_t *signals, const sigset_t *ending,
                         struct deq_err *err)
{
    char status[NOTIFY_STATUS_MAX_BYTES];
    int sig = 0;
    /* who was told to stop while it loaded has promised nothing yet, and takes nobody from an inherited socket */
    if (wait_signal(ending, 0))
        return DEQ_OK;
    const enum deq_rc rc = http_serve(http, err);
    if (rc)
        return rc;
    notify_ready(status_line(s, NULL, status), alive, s);
    while (sig != SIGTERM && sig != SIGINT) {
        sig = sigwaitinfo(signals, NULL);
        if (sig == SIGHUP)
            reload(s);
    }
    drain(s, http, ending, sig);
    return DEQ_OK;
}

/* An invariant did not hold. */
static void tell_bug(const struct deq_bug *bug)
{
    log_line(LOG_ERROR, "bug", log_text("file", bug->file), log_int("line", bug->line),
             log_text("condition", bug->condition));
}

/* Returns the exit code. */
static int run(const struct conf *conf)
{
    static struct metrics metrics;
    static struct deq_budget budget;
    static struct service service;
    const uint64_t begin_ns = deq_now_ns();
    struct http *http = NULL;
    struct deq_err err;
    sigset_t signals, ending;
    log_init(conf->log_level);
    deq_bug_tell(tell_bug);
    if (getenv("DEQ_FAULT"))
        log_line(LOG_WARN, "faults are asked for", log_text("DEQ_FAULT", getenv("DEQ_FAULT")));
    take_signals(&signals, &ending);
    /* large blocks go back to the system when they are freed: else a reload would leave the size of two models */
    (void)mallopt(M_MMAP_THRESHOLD, 128 << 10);
    (void)setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0}); /* a core would hold prompts */
    (void)prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);         /* no program is started, and none with more rights */
    metrics_init(&metrics);
    deq_budget_init(&budget, conf->answer_bytes);
    memory_begin();
    service = (struct service){.conf = conf, .metrics = &metrics, .budget = &budget, .started_ms = deq_wall_ms()};
    enum deq_rc rc = start(&service, &http, &err);
    if (!rc) {
        announce(&service, begin_ns);
        rc = serve(&service, http, &signals, &ending, &err);
    }
    const int code = rc ? cannot_start(&err) : 0;
    if (!code)
        end_within(END_MS);
    http_stop(http);
    notify_stop(); /* the watchdog asks the store */
    store_stop(service.store);
    atomic_store(&threads_ended, true);
    if (!code)
        store_save_cache(service.store);
    states_free(service.states); /* what it still writes belongs to a model */
    store_free(service.store);
    auth_free(service.auth);
    tls_free(service.tls);
    if (getenv("DEQ_FAULT"))
        log_line(LOG_WARN, "faults met", log_int("n", (int64_t)deq_fault_all_hits()));
    if (!code)
        log_line(LOG_INFO, "stopped");
    log_stop();
    return code;
}

/* --- What is no daemon --- */

/* --check-config: what else a start would refuse. */
static enum deq_rc check_config(const struct conf *c, struct deq_err *err)
{
    struct auth *auth = NULL;
    struct tls *tls = NULL;
    memory_begin();
    enum deq_rc rc = take_kernels(err);
    if (!rc)
        rc = auth_new(c->keys_file, &auth, err);
    if (!rc && c->tls_cert[0])
        rc = tls_new(c->tls_cert, c->tls_key, &tls, err);
    if (!rc)
        rc = descriptors_fit(c, err);
    if (!rc)
        rc = sandbox_check(c, err);
    if (!rc)
        rc = states_check(c, err);
    if (!rc)
        rc = store_check(c, err);
    auth_free(auth);
    tls_free(tls);
    if (!rc)
        printf("configuration ok\n");
    return rc;
}

static int complain(const struct deq_err *err, int code)
{
    fprintf(stderr, "deqd: %s\n", err->text);
    return code;
}

/* All but CONF_RUN. Returns the exit code. */
static int answer_for(enum conf_action action, const struct conf *c)
{
    struct deq_err err;
    switch (action) {
    case CONF_HELP: conf_help(); break;
    case CONF_PRINT_VERSION: printf("deqd %s\n", DEQ_VERSION); break;
    case CONF_PRINT_FIELDS: route_print_fields(); break;
    case CONF_PRINT_ROUTES: route_print(); break;
    case CONF_PRINT: deq_opt_dump(&conf_table, c, true, stdout); break;
    case CONF_PROBE: return probe_ready(c, &err) ? complain(&err, exit_code(&err)) : 0;
    case CONF_CHECK: return check_config(c, &err) ? complain(&err, 2) : 0;
    case CONF_RUN: break;
    }
    return 0;
}

int main(int argc, char **argv)
{
    struct conf conf;
    enum conf_action action = CONF_RUN;
    struct deq_err err;
    deq_stdio_init();
    enum deq_rc rc = deq_fault_environment(&err);
    if (!rc)
        rc = conf_read(argc, argv, &conf, &action, &err);
    if (!rc && action < CONF_HELP)
        rc = http_check_conf(&conf, &err);
    if (!rc && action == CONF_RUN)
        return run(&conf);
    const int code = rc ? complain(&err, 2) : answer_for(action, &conf);
    /* what was asked for on standard output must have arrived there */
    return deq_stdio_close(&err) ? complain(&err, DEQ_MAX(code, 1)) : code;
}
