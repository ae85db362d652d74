/* deqd: reads the configuration, loads the model, serves, drains. Exit codes: 0 stopped as asked, 1 could not start or failed, 2 wrong
 * usage or configuration. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "server/conf.h"
#include "server/http.h"
#include "server/log.h"
#include "server/metrics.h"
#include "server/route.h"
#include <jansson.h>

/* "stories" of "models/stories/"; names are [A-Za-z0-9._-]{1,64} without a leading dot */
static bool name_of(const char *path, char out[65])
{
    size_t n = strlen(path);
    while (n && path[n - 1] == '/')
        n--;
    size_t start = n;
    while (start && path[start - 1] != '/')
        start--;
    if (n == start || n - start > 64 || path[start] == '.')
        return false;
    for (size_t i = start; i < n; i++)
        if (!strchr("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-", path[i]))
            return false;
    snprintf(out, 65, "%.*s", (int)(n - start), path + start);
    return true;
}

/* Connections, their spare, and what the process itself holds open must fit, or clients would hang later instead of us failing now. */
static bool descriptors_fit(const struct conf *c)
{
    struct rlimit r;
    const rlim_t need = (rlim_t)c->max_connections + 64 + 128;
    if (getrlimit(RLIMIT_NOFILE, &r))
        return true;
    if (r.rlim_cur < need && (r.rlim_max == RLIM_INFINITY || r.rlim_max >= need)) {
        r.rlim_cur = need;
        (void)setrlimit(RLIMIT_NOFILE, &r);
        (void)getrlimit(RLIMIT_NOFILE, &r);
    }
    if (r.rlim_cur >= need)
        return true;
    fprintf(stderr, "deqd: server.max_connections: %u connections need %llu descriptors, the limit is %llu\n", c->max_connections,
            (unsigned long long)need, (unsigned long long)r.rlim_cur);
    return false;
}

/* Waits for one of the signals in `set`, at most ms. Returns it, or 0. */
static int wait_signal(const sigset_t *set, uint64_t ms)
{
    const struct timespec t = {.tv_sec = (time_t)(ms / 1000), .tv_nsec = (long)(ms % 1000) * 1000000};
    const int sig = sigtimedwait(set, NULL, &t);
    return sig > 0 ? sig : 0;
}

/* SIGTERM: not ready at once; new requests for drain_delay_ms; then running ones may finish for shutdown_timeout_ms. A second signal ends it now. */
static void drain(struct service *s, struct http *http, const sigset_t *signals)
{
    const struct conf *c = s->conf;
    atomic_store(&s->state, SERVER_DRAINING);
    log_line(LOG_INFO, "draining", "{s:I, s:I, s:I}", "pending", (json_int_t)sched_pending(s->sched), "drain_delay_ms", (json_int_t)c->drain_delay_ms,
             "shutdown_timeout_ms", (json_int_t)c->shutdown_timeout_ms);
    bool now = c->drain_delay_ms && wait_signal(signals, c->drain_delay_ms);
    sched_drain(s->sched);
    const uint64_t until = deq_now_ns() + c->shutdown_timeout_ms * 1000000ull;
    while (!now && sched_pending(s->sched) && deq_now_ns() < until)
        now = wait_signal(signals, 20) != 0;
    sched_end_all(s->sched);
    http_stop_accepting(http);
    /* answers that are written but not yet read get a moment */
    for (int i = 0; i < 100 && !now && http_open_exchanges(http); i++)
        now = wait_signal(signals, 20) != 0;
}

static pthread_t main_thread;

/* Libraries start threads before main can block signals (OpenBLAS does), and the system may give them a signal of the process. It is sent on. */
static void forward(int sig)
{
    if (!pthread_equal(pthread_self(), main_thread))
        (void)pthread_kill(main_thread, sig);
}

int main(int argc, char **argv)
{
    struct conf conf;
    int code;
    if (conf_read(argc, argv, &conf, &code) == CONF_EXIT)
        return code;
    log_init(conf.log_level);

    /* signals are taken by this thread alone, by waiting for them; threads of ours inherit the block */
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    pthread_sigmask(SIG_BLOCK, &signals, NULL);
    main_thread = pthread_self();
    const struct sigaction on_signal = {.sa_handler = forward, .sa_flags = SA_RESTART};
    (void)sigaction(SIGTERM, &on_signal, NULL);
    (void)sigaction(SIGINT, &on_signal, NULL);
    signal(SIGPIPE, SIG_IGN);
    (void)setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0}); /* a core would hold prompts */

    const char *level = getenv("DEQ_CPU");
    struct deq_err err;
    char name[65], address[64];
    struct deq_model *model = NULL;
    struct sched *sched = NULL;
    struct http *http = NULL;
    static struct metrics metrics;
    static struct service service;
    code = 1;
    if (level && !deq_kern_force(level)) {
        fprintf(stderr, "deqd: DEQ_CPU: \"%s\" is not a level of this machine (ref, avx2, avx512)\n", level);
        return 2;
    }
    if (!name_of(conf.model_path, name)) {
        fprintf(stderr, "deqd: model.path: the directory's name must be 1 to 64 of A-Z a-z 0-9 . _ - : %s\n", conf.model_path);
        return 2;
    }
    if (!descriptors_fit(&conf))
        return 1;
    const uint64_t t0 = deq_now_ns();
    if (deq_model_load(conf.model_path, &model, &err)) {
        fprintf(stderr, "deqd: %s\n", err.text);
        goto out;
    }
    const struct deq_model_info info = deq_model_info(model);
    metrics_init(&metrics, name, info.fingerprint);
    if (sched_new(&conf, model, &metrics, &sched, &err)) {
        fprintf(stderr, "deqd: %s\n", err.text);
        goto out;
    }
    service = (struct service){.conf = &conf, .model = model, .model_name = name, .sched = sched, .metrics = &metrics, .started_ms = deq_wall_ms()};
    atomic_store(&service.state, SERVER_READY);
    if (http_start(&conf, &metrics, route, &service, &http, address, &err)) {
        fprintf(stderr, "deqd: %s\n", err.text);
        goto out;
    }
    log_line(LOG_INFO, "listening", "{s:s, s:s, s:s, s:s, s:I, s:I, s:s}", "address", address, "model", name, "fingerprint", info.fingerprint,
             "kernels", info.kernels, "load_ms", (json_int_t)((deq_now_ns() - t0) / 1000000), "parameters", (json_int_t)info.parameters, "version",
             DEQ_VERSION);
    int sig;
    do
        sig = sigwaitinfo(&signals, NULL);
    while (sig < 0 && errno == EINTR);
    drain(&service, http, &signals);
    code = 0;
out:
    http_stop(http);
    sched_free(sched);
    deq_model_free(model);
    if (!code)
        log_line(LOG_INFO, "stopped", NULL);
    return code;
}
