/* deqd: reads the configuration, loads the model, serves, drains. Exit codes: 0 stopped as asked, 1 could not start or failed, 2 wrong
 * usage or configuration. */
#include <errno.h>
#include <malloc.h>
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

/* SIGTERM: not ready at once; new requests for drain_delay_ms; then running ones may finish for shutdown_timeout_ms. A second signal ends it now. Who
 * types ^C waits for no load balancer. */
static void drain(struct service *s, struct http *http, const sigset_t *signals, int sig)
{
    const struct conf *c = s->conf;
    const uint32_t delay_ms = sig == SIGINT ? 0 : c->drain_delay_ms;
    atomic_store(&s->state, SERVER_DRAINING);
    http_close_connections(http);
    log_line(LOG_INFO, "draining", "{s:I, s:I, s:I}", "pending", (json_int_t)store_pending(s->store), "drain_delay_ms", (json_int_t)delay_ms,
             "shutdown_timeout_ms", (json_int_t)c->shutdown_timeout_ms);
    bool now = delay_ms && wait_signal(signals, delay_ms);
    store_drain(s->store);
    const uint64_t until = deq_now_ns() + c->shutdown_timeout_ms * 1000000ull;
    while (!now && store_pending(s->store) && deq_now_ns() < until)
        now = wait_signal(signals, 20) != 0;
    store_end_all(s->store);
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

    /* large blocks go back to the system when they are freed: else memory would keep the size of two models after a reload */
    (void)mallopt(M_MMAP_THRESHOLD, 128 << 10);
    /* signals are taken by this thread alone, by waiting for them; threads of ours inherit the block */
    static const int taken[] = {SIGTERM, SIGINT, SIGHUP};
    const struct sigaction on_signal = {.sa_handler = forward, .sa_flags = SA_RESTART};
    sigset_t signals, ending;
    sigemptyset(&signals);
    sigemptyset(&ending);
    main_thread = pthread_self();
    for (size_t i = 0; i < DEQ_COUNT(taken); i++) {
        sigaddset(&signals, taken[i]);
        if (taken[i] != SIGHUP)
            sigaddset(&ending, taken[i]);
        (void)sigaction(taken[i], &on_signal, NULL);
    }
    pthread_sigmask(SIG_BLOCK, &signals, NULL);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGCHLD, SIG_IGN); /* we start no process, but as number 1 of a container inherit others' orphans: the kernel reaps them */
    (void)setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0}); /* a core would hold prompts */

    const char *level = getenv("DEQ_CPU");
    struct deq_err err;
    char address[160], admin_address[160];
    struct http *http = NULL;
    static struct metrics metrics;
    static struct service service;
    code = 1;
    if (level && !deq_kern_force(level)) {
        fprintf(stderr, "deqd: DEQ_CPU: \"%s\" is not a level of this machine (ref, avx2, avx512)\n", level);
        return 2;
    }
    if (!descriptors_fit(&conf))
        return 1;
    const uint64_t t0 = deq_now_ns();
    metrics_init(&metrics);
    service = (struct service){.conf = &conf, .metrics = &metrics, .started_ms = deq_wall_ms()};
    const struct http_handler handler = {route_check, route_handle, &service};
    int sig = 0;
    enum deq_rc rc = auth_new(conf.keys_file, &service.auth, &err);
    if (!rc && conf.tls_cert[0])
        rc = tls_new(conf.tls_cert, conf.tls_key, &service.tls, &err);
    if (!rc)
        rc = store_new(&conf, &metrics, &service.store, &err);
    /* the door opens before the model is there, so that probes can be told */
    if (!rc)
        rc = http_start(&conf, &metrics, service.tls, &handler, &http, address, admin_address, &err);
    if (!rc) {
        log_line(LOG_DEBUG, "loading", "{s:s, s:s*, s:s}", "address", address, "admin_address", admin_address[0] ? admin_address : NULL, "model",
                 conf.model_path);
        rc = store_load(service.store, &err);
    }
    if (rc) {
        fprintf(stderr, "deqd: %s\n", err.text);
        code = rc == DEQ_EINVAL ? 2 : 1;
        goto out;
    }
    atomic_store(&service.state, SERVER_READY);
    struct served *m = store_acquire(service.store);
    log_line(LOG_INFO, "listening", "{s:s, s:s*, s:s, s:s, s:s, s:I, s:I, s:s}", "address", address, "admin_address",
             admin_address[0] ? admin_address : NULL, "model", m->name, "fingerprint", m->info.fingerprint, "kernels", m->info.kernels, "load_ms",
             (json_int_t)((deq_now_ns() - t0) / 1000000), "parameters", (json_int_t)m->info.parameters, "version", DEQ_VERSION);
    store_release(m);
    for (;;) {
        sig = sigwaitinfo(&signals, NULL);
        if (sig == SIGHUP)
            (void)service_reload_secrets(&service, &err); /* logged there */
        if (sig == SIGHUP && !store_reload(service.store, NULL, NULL))
            log_line(LOG_WARN, "reload not begun: one is under way, or four earlier models still have work", NULL);
        else if (sig == SIGTERM || sig == SIGINT)
            break;
    }
    drain(&service, http, &ending, sig);
    code = 0;
out:
    http_stop(http);
    store_free(service.store);
    auth_free(service.auth);
    tls_free(service.tls);
    if (!code)
        log_line(LOG_INFO, "stopped", NULL);
    return code;
}
