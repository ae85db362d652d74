#define _GNU_SOURCE
#include "models/cli/bench/load.h"

#include <math.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <unistd.h>

#include <curl/curl.h>
#include <jansson.h>

#include "core/base/clock.h"
#include "core/base/json.h"
#include "core/base/mem.h"
#include "models/cli/cli.h"

enum {
    FILES_SPARE = 32,  /* descriptors that are not streams */
    SEND_AT_ONCE = 32, /* arrivals between two looks at the sockets */
};

static double now(const struct bench *b)
{
    return (double)(deq_now_ns() - b->zero_ns) * 1e-9;
}

/* --- One request --- */

static void fail_call(struct bench_call *c, const char *kind, const char *problem)
{
    if (c->kind)
        return; /* the first one counts */
    c->kind = kind;
    snprintf(c->problem, sizeof c->problem, "%s", problem);
}

static void on_chunk(struct bench_call *c, const json_t *choice)
{
    if (c->n_chunks == c->cap_chunks) {
        const size_t cap = c->cap_chunks ? 2 * c->cap_chunks : 64;
        double *p = deq_realloc(c->chunk, c->cap_chunks * sizeof *p, cap * sizeof *p);
        if (!p) {
            fail_call(c, "client", "out of memory");
            return;
        }
        c->chunk = p;
        c->cap_chunks = cap;
    }
    c->chunk[c->n_chunks++] = now(c->bench);
    /* the closing chunk without text is no token; another may be one without text of its own */
    if (json_string_length(json_object_get(choice, "text")) ||
        !json_is_string(json_object_get(choice, "finish_reason"))) {
        c->text_chunks++;
        c->bench->tokens_seen++;
    }
}

/* A number of tokens; some servers write 5.0. 0: none, or none that could be. */
static size_t count_of(const json_t *v)
{
    const double x = json_number_value(v);
    return x >= 1 && x < 1e15 ? (size_t)x : 0;
}

/* [DONE], with blanks round it */
static bool is_done(const char *data, size_t n)
{
    static const char mark[] = "[DONE]";
    const char *at = data + strspn(data, " \t");
    return !strncmp(at, mark, sizeof mark - 1) &&
           (size_t)(at - data) + sizeof mark - 1 + strspn(at + sizeof mark - 1, " \t") == n;
}

static void on_event(void *ctx, const char *data, size_t n)
{
    struct bench_call *c = ctx;
    if (!data[strspn(data, " \t\n")] && strlen(data) == n)
        return; /* as good as a comment */
    c->done = is_done(data, n); /* must come last */
    if (c->done)
        return;
    json_t *o = NULL;
    (void)deq_json_parse_loose(data, n, &o);
    if (!json_is_object(o)) {
        fail_call(c, "bad_event", "an event is not a JSON object");
        json_decref(o);
        return;
    }
    const json_t *error = json_object_get(o, "error"), *deq = json_object_get(o, "deq"),
                 *usage = json_object_get(o, "usage");
    const json_t *choices = json_object_get(o, "choices");
    if (error && !json_is_null(error)) {
        const char *text = json_string_value(json_is_string(error) ? error : json_object_get(error, "message"));
        fail_call(c, "stream_error", text ? text : "an error event without a message");
    }
    if (json_array_size(choices))
        on_chunk(c, json_array_get(choices, 0));
    if (json_is_object(usage)) {
        c->input_tokens = count_of(json_object_get(usage, "prompt_tokens"));
        c->output_tokens = count_of(json_object_get(usage, "completion_tokens"));
    }
    if (json_is_number(json_object_get(deq, "iters_mean"))) {
        c->iters_mean = json_number_value(json_object_get(deq, "iters_mean"));
        c->residual_max = json_number_value(json_object_get(deq, "residual_max"));
    }
    json_decref(o);
}

static size_t on_bytes(char *bytes, size_t size, size_t n, void *ctx)
{
    struct bench_call *c = ctx;
    long status = 0;
    curl_easy_getinfo(c->easy, CURLINFO_RESPONSE_CODE, &status);
    if (status != 200) {
        (void)deq_buf_add(&c->reply, bytes, DEQ_MIN(size * n, c->reply.max - c->reply.len));
    } else if (!sse_push(&c->sse, bytes, size * n, on_event, c)) {
        fail_call(c, "bad_event", "an event is too long");
        return 0;
    }
    return size * n;
}

/* What libcurl shall do for POST url with this body; the handle's owner is the caller. */
static CURL *new_request(const struct bench *b, const char *path, const char *body, size_t body_len,
                         curl_write_callback write, void *ctx)
{
    char url[sizeof b->url + 64];
    CURL *e = curl_easy_init();
    if (!e)
        return NULL;
    snprintf(url, sizeof url, "%s%s", b->url, path);
    bool ok = !curl_easy_setopt(e, CURLOPT_URL, url) && !curl_easy_setopt(e, CURLOPT_HTTPHEADER, b->headers) &&
              !curl_easy_setopt(e, CURLOPT_WRITEFUNCTION, write) && !curl_easy_setopt(e, CURLOPT_WRITEDATA, ctx) &&
              !curl_easy_setopt(e, CURLOPT_PRIVATE, ctx) && !curl_easy_setopt(e, CURLOPT_NOSIGNAL, 1L) &&
              !curl_easy_setopt(e, CURLOPT_TIMEOUT_MS, (long)b->set.timeout_ms) &&
              !curl_easy_setopt(e, CURLOPT_PROTOCOLS_STR, "http,https") &&
              /* measured is the server, not what the environment puts before it */
              !curl_easy_setopt(e, CURLOPT_PROXY, "") &&
              /* a connection for each stream */
              !curl_easy_setopt(e, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    if (ok && body)
        ok = !curl_easy_setopt(e, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)body_len) &&
             !curl_easy_setopt(e, CURLOPT_POSTFIELDS, body);
    if (!ok) {
        curl_easy_cleanup(e);
        e = NULL;
    }
    return e;
}

static bool send_call(struct bench *b, struct bench_call *c)
{
    c->start = b->set.concurrency ? now(b) : b->arrival[b->sent];
    c->iters_mean = c->residual_max = NAN;
    sse_init(&c->sse);
    deq_buf_init(&c->reply, 4096);
    c->easy = new_request(b, "/v1/completions", c->body, c->body_len, on_bytes, c);
    if (!c->easy || curl_multi_add_handle(b->multi, c->easy)) {
        deq_fail(&b->err, DEQ_ENOMEM, "out of memory for request %zu", b->sent);
        return false;
    }
    b->sent++;
    b->open++;
    return true;
}

static void count_failure(struct bench *b, const char *name, const char *text)
{
    size_t k = 0;
    while (k < b->n_kinds && strcmp(b->kind[k].name, name))
        k++;
    if (k == BENCH_KINDS_MAX)
        k--; /* that many statuses no server has; they go to the last */
    if (k == b->n_kinds) {
        snprintf(b->kind[b->n_kinds++].name, sizeof b->kind->name, "%s", name);
        (void)deq_fail(&b->kind[k].first, DEQ_EIO, "%s", text);
    }
    b->kind[k].n++;
}

/* The connection of c is over, well or not: what it was is decided here and nowhere else. */
static void end_call(struct bench *b, struct bench_call *c, CURLcode rc)
{
    char name[24];
    long status = 0;
    curl_easy_getinfo(c->easy, CURLINFO_RESPONSE_CODE, &status);
    c->end = now(b);
    if (!rc && status == 200 && !sse_end(&c->sse, on_event, c))
        fail_call(c, "bad_event", "an event is too long");
    if (status && status != 200) {
        json_t *o = NULL;
        if (c->reply.len)
            (void)deq_json_parse_loose(c->reply.data, c->reply.len, &o);
        const char *text = json_string_value(json_object_get(json_object_get(o, "error"), "message"));
        c->refused = status == 429;
        snprintf(name, sizeof name, "http_%ld", status);
        c->kind = name;
        snprintf(c->problem, sizeof c->problem, "%s", text ? text : c->reply.len ? c->reply.data : "no body");
        json_decref(o);
    } else if (rc == CURLE_OPERATION_TIMEDOUT) {
        fail_call(c, "timeout", "not finished within --timeout-ms");
    } else if (rc) {
        fail_call(c, "connection", curl_easy_strerror(rc));
    } else if (!c->n_chunks) {
        fail_call(c, "no_chunk", "the stream held no chunk with a choice");
    } else if (!c->done) {
        fail_call(c, "no_done", "the stream ended without data: [DONE]");
    }
    c->success = !c->kind;
    b->ok += c->success;
    b->failed += !c->success;
    b->refused += c->refused;
    if (c->kind)
        count_failure(b, c->kind, c->problem);
    c->kind = NULL;
}

static void free_call(struct bench *b, struct bench_call *c)
{
    if (c->easy) {
        curl_multi_remove_handle(b->multi, c->easy);
        curl_easy_cleanup(c->easy);
        c->easy = NULL;
        sse_free(&c->sse);
        deq_buf_free(&c->reply);
    }
    deq_free(c->body);
    c->body = NULL;
}

/* --- The loop --- */

static volatile sig_atomic_t interrupted;

static void on_signal(int sig)
{
    (void)sig;
    interrupted = 1;
}

static int on_socket(CURL *easy, curl_socket_t fd, int what, void *ctx, void *known)
{
    (void)easy;
    struct bench *b = ctx;
    struct epoll_event ev = {.events = (what & CURL_POLL_IN ? EPOLLIN : 0u) | (what & CURL_POLL_OUT ? EPOLLOUT : 0u),
                             .data.fd = fd};
    if (what == CURL_POLL_REMOVE) {
        (void)epoll_ctl(b->epoll, EPOLL_CTL_DEL, fd, NULL);
        return 0;
    }
    if (epoll_ctl(b->epoll, known ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, fd, &ev))
        return -1;
    return curl_multi_assign(b->multi, fd, b) ? -1 : 0; /* any pointer: it says that epoll knows the socket */
}

static int on_timer(CURLM *multi, long ms, void *ctx)
{
    (void)multi;
    struct bench *b = ctx;
    b->curl_due = ms < 0 ? INFINITY : now(b) + (double)ms * 1e-3;
    return 0;
}

/* Sends what is due. Returns when the next is due. */
static double send_due(struct bench *b)
{
    for (unsigned k = 0; b->sent < b->set.n && !b->err.code; k++) {
        if (b->set.concurrency && b->open >= b->set.concurrency)
            return INFINITY; /* the end of another wakes us */
        if (b->arrival[b->sent] > now(b))
            return b->arrival[b->sent];
        if (k == SEND_AT_ONCE)
            return 0;
        if (b->open >= b->streams_max) {
            deq_fail(&b->err, DEQ_EFULL,
                     "%zu streams are open and the limit of open files is reached: raise it (ulimit -n), or use "
                     "--max-concurrency",
                     b->open);
            return 0;
        }
        (void)send_call(b, &b->call[b->sent]);
    }
    return INFINITY;
}

static void receive(struct bench *b)
{
    struct epoll_event ev[256];
    int running, left;
    const int n = epoll_wait(b->epoll, ev, DEQ_COUNT(ev), 0);
    for (int i = 0; i < n; i++) {
        const int what = (ev[i].events & EPOLLIN ? CURL_CSELECT_IN : 0) |
                         (ev[i].events & EPOLLOUT ? CURL_CSELECT_OUT : 0) |
                         (ev[i].events & (EPOLLERR | EPOLLHUP) ? CURL_CSELECT_ERR : 0);
        curl_multi_socket_action(b->multi, ev[i].data.fd, what, &running);
    }
    if (b->curl_due <= now(b)) {
        b->curl_due = INFINITY; /* before the call, which may set it anew */
        curl_multi_socket_action(b->multi, CURL_SOCKET_TIMEOUT, 0, &running);
    }
    for (CURLMsg *m; (m = curl_multi_info_read(b->multi, &left));) {
        struct bench_call *c = NULL;
        const CURLcode rc = m->data.result;
        curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, &c);
        end_call(b, c, rc);
        free_call(b, c);
        b->open--;
    }
}

static void progress(struct bench *b, double *last)
{
    const double t = now(b);
    if (t - *last < 0.2)
        return;
    *last = t;
    cli_progress("%zu of %zu done, %zu sent, %zu open, %zu failed, %.0f tokens/s", b->ok + b->failed, b->set.n, b->sent,
                 b->open, b->failed, (double)b->tokens_seen / t);
}

void bench_load_run(struct bench *b)
{
    /* signals are taken only while waiting: none is lost between a look at the flag and the wait */
    sigset_t blocked, before;
    struct sigaction sa = {.sa_handler = on_signal}, old_int, old_term;
    double last = 0;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGINT);
    sigaddset(&blocked, SIGTERM);
    sigprocmask(SIG_BLOCK, &blocked, &before);
    sigaction(SIGINT, &sa, &old_int);
    sigaction(SIGTERM, &sa, &old_term);
    b->zero_ns = deq_now_ns();
    b->curl_due = INFINITY;
    while ((b->sent < b->set.n || b->open) && !interrupted && !b->err.code) {
        double wake = send_due(b);
        wake = fmin(fmin(wake, b->curl_due), now(b) + 0.2);
        const double wait = fmax(0, wake - now(b));
        const struct timespec ts = {.tv_sec = 0, .tv_nsec = (long)(fmin(wait, 0.999) * 1e9)};
        struct pollfd p = {.fd = b->epoll, .events = POLLIN};
        (void)ppoll(&p, 1, &ts, &before);
        receive(b);
        progress(b, &last);
    }
    b->duration = now(b);
    sigaction(SIGINT, &old_int, NULL);
    sigaction(SIGTERM, &old_term, NULL);
    sigprocmask(SIG_SETMASK, &before, NULL);
    cli_progress_end();
}

/* --- Before the clock starts --- */

static size_t on_reply(char *bytes, size_t size, size_t n, void *ctx)
{
    return deq_buf_add(ctx, bytes, size * n) ? size * n : 0;
}

json_t *bench_load_ask(struct bench *b, const char *path, const struct deq_buf *body)
{
    struct deq_buf reply;
    json_t *o = NULL;
    long status = 0;
    deq_buf_init(&reply, 64 << 20);
    CURL *e = new_request(b, path, body ? body->data : NULL, body ? body->len : 0, on_reply, &reply);
    const CURLcode rc = e ? curl_easy_perform(e) : CURLE_OUT_OF_MEMORY;
    if (e)
        curl_easy_getinfo(e, CURLINFO_RESPONSE_CODE, &status);
    if (rc)
        deq_fail(&b->err, DEQ_EIO, "%s%s: %s; is the server running there?", b->url, path, curl_easy_strerror(rc));
    else if (status == 401 || status == 403)
        deq_fail(&b->err, DEQ_EIO, "%s%s: status %ld: give the server's key with --api-key or DEQ_API_KEY", b->url,
                 path, status);
    else if (status != 200)
        deq_fail(&b->err, DEQ_EIO, "%s%s: status %ld, expected 200", b->url, path, status);
    else if (deq_json_parse_loose(reply.data ? reply.data : "", reply.len, &o))
        deq_fail(&b->err, DEQ_EFORMAT, "%s%s: the reply is not JSON", b->url, path);
    curl_easy_cleanup(e);
    deq_buf_free(&reply);
    return o;
}

/* Every stream is a file to the system. */
static bool raise_files(struct bench *b)
{
    struct rlimit r;
    const size_t streams = b->set.concurrency ? DEQ_MIN(b->set.concurrency, b->set.n) : b->set.n;
    const rlim_t need = (rlim_t)streams + FILES_SPARE;
    /* else most of them are over before the last is sent */
    const bool surely = b->set.concurrency || isinf(b->set.rate);
    b->streams_max = streams;
    if (getrlimit(RLIMIT_NOFILE, &r) || r.rlim_cur == RLIM_INFINITY || r.rlim_cur >= need)
        return true;
    const rlim_t hard = r.rlim_max;
    r.rlim_cur = hard == RLIM_INFINITY ? need : DEQ_MIN(need, hard);
    if (setrlimit(RLIMIT_NOFILE, &r) || (r.rlim_cur < need && surely) || r.rlim_cur <= FILES_SPARE) {
        deq_fail(&b->err, DEQ_EFULL,
                 "%zu streams need %zu open files, and the limit is %zu: raise it (ulimit -Hn), or use a smaller "
                 "--max-concurrency",
                 streams, (size_t)need, (size_t)hard);
        return false;
    }
    b->streams_max = (size_t)r.rlim_cur - FILES_SPARE;
    return true;
}

bool bench_load_prepare(struct bench *b)
{
    const struct bench_settings *s = &b->set;
    char auth[600];
    b->headers = curl_slist_append(NULL, "Content-Type: application/json");
    struct curl_slist *more = curl_slist_append(b->headers, "Expect:"); /* no waiting for 100 before a long body */
    if (more && s->api_key) {
        snprintf(auth, sizeof auth, "Authorization: Bearer %s", s->api_key);
        more = curl_slist_append(b->headers, auth);
    }
    b->arrival = DEQ_NEW_ARRAY(double, s->n);
    b->call = DEQ_NEW_ARRAY(struct bench_call, s->n);
    b->multi = curl_multi_init();
    b->epoll = epoll_create1(EPOLL_CLOEXEC);
    bool ok = more && b->arrival && b->call && b->multi && b->epoll >= 0 &&
              !curl_multi_setopt(b->multi, CURLMOPT_SOCKETFUNCTION, on_socket) &&
              !curl_multi_setopt(b->multi, CURLMOPT_SOCKETDATA, b) &&
              !curl_multi_setopt(b->multi, CURLMOPT_TIMERFUNCTION, on_timer) &&
              !curl_multi_setopt(b->multi, CURLMOPT_TIMERDATA, b) &&
              !curl_multi_setopt(b->multi, CURLMOPT_PIPELINING, (long)CURLPIPE_NOTHING);
    if (!ok)
        deq_fail(&b->err, DEQ_ENOMEM, "out of memory or open files");
    if (!ok || !raise_files(b))
        return false;
    curl_multi_setopt(b->multi, CURLMOPT_MAXCONNECTS, (long)b->streams_max); /* idle ones are kept for the next */
    bench_arrivals(s->rate, s->burstiness, s->seed, b->arrival, s->n);
    return true;
}

void bench_load_free(struct bench *b)
{
    for (size_t i = 0; b->call && i < b->set.n; i++) {
        free_call(b, &b->call[i]);
        deq_free(b->call[i].chunk);
    }
    curl_multi_cleanup(b->multi);
    curl_slist_free_all(b->headers);
    if (b->epoll >= 0)
        close(b->epoll);
    deq_free(b->arrival);
    deq_free(b->call);
}

bool bench_load_start(void)
{
    return !curl_global_init(CURL_GLOBAL_DEFAULT);
}

void bench_load_stop(void)
{
    curl_global_cleanup();
}
