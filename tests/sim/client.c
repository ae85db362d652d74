/* The clients: who asks when, and how he sends, reads and leaves; and whether what he got is what he may get. A text
 * that differs from what the same request gets alone is a failure always; so is an answer that is cut or an error,
 * unless something was done that excuses it: the client's own way, a drain, an allocation that was made to fail, an
 * operator, limits of queue and time. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/sim.h"

enum { CLIENTS = 28, MS = 1000000, PATIENCE_S = 240 };

enum manner {
    PROMPT,       /* sends at once, reads at once */
    SLOW,         /* reads a little now and then */
    STALLED,      /* stops reading */
    LEAVES,       /* closes in the middle */
    RESETS,       /* is gone in the middle, at once */
    HALF_CLOSES,  /* says that it will send no more, and reads on */
    DRIPS,        /* sends in small pieces */
    NEVER_SENDS,  /* the end of its request */
    MANNERS
};

struct client {
    struct socket *socket; /* NULL: none */
    enum manner manner;
    bool asking, reused, head_there, ended, clean, closed, close_after;
    struct ask *ask, other; /* ask: one of the day's, or &other */
    char *out;              /* [n_out] its request, sent up to `sent` */
    size_t n_out, sent;
    char *got;              /* [n_got] of the body, read up to `read` */
    size_t n_got, cap_got, read;
    size_t leave_at;        /* closes when it has read so much, or at leave_ns */
    uint64_t leave_ns, next_ns, asked_ns, sent_ns, idle_ns, deadline_ms;
    unsigned status, retry_ms;
    uint64_t drains, armed, deletes; /* how many there had been when it asked */
};

static struct client clients[CLIENTS];
static uint64_t asked, whole, judged;
static uint64_t drains, deletes, reloads;
static bool resting;
static size_t rehearsed;

void client_begin(void)
{
    for (struct client *c = clients; c < clients + CLIENTS; c++)
        c->next_ns = sim.now_ns + sim_below(500 * MS);
}

void clients_count(uint64_t *ret_asked, uint64_t *ret_whole, uint64_t *ret_judged)
{
    *ret_asked = asked;
    *ret_whole = whole;
    *ret_judged = judged;
}

void clients_rest(bool yes)
{
    resting = yes;
}

void clients_saw_drain(void)
{
    drains++;
}

size_t clients_asking(void)
{
    size_t n = 0;
    for (const struct client *c = clients; c < clients + CLIENTS; c++)
        n += c->asking;
    return n;
}

/* --- What comes from the connection --- */

void client_head(void *client, unsigned status, bool close, unsigned retry_ms)
{
    struct client *c = client;
    if (!c)
        return;
    if (!c->asking || c->head_there)
        sim_fail("an answer to nobody's request");
    sim_note("client %d: %u", (int)(c - clients), status);
    c->head_there = true;
    c->status = status;
    c->close_after = close;
    c->retry_ms = retry_ms;
}

void client_bytes(void *client, const char *bytes, size_t n)
{
    struct client *c = client;
    sim_mix(&n, sizeof n);
    if (!c)
        return;
    if (c->n_got + n + 1 > c->cap_got)
        c->got = sim_realloc(c->got, c->cap_got = 2 * (c->n_got + n + 1));
    memcpy(c->got + c->n_got, bytes, n);
    c->n_got += n;
    c->got[c->n_got] = 0;
    if (c->manner != SLOW && c->manner != STALLED)
        c->next_ns = DEQ_MIN(c->next_ns, sim.now_ns + sim_below(3 * MS));
}

void client_end(void *client, bool clean)
{
    struct client *c = client;
    if (!c)
        return;
    c->ended = true;
    c->clean = clean;
    c->next_ns = DEQ_MIN(c->next_ns, sim.now_ns + sim_below(MS));
}

void client_closed(void *client)
{
    struct client *c = client;
    if (!c)
        return;
    c->closed = true;
    c->next_ns = DEQ_MIN(c->next_ns, sim.now_ns + sim_below(MS));
}

/* --- Judgement --- */

static bool sends_all(const struct client *c)
{
    return c->manner != NEVER_SENDS && c->manner != DRIPS;
}

static bool excused(const struct client *c)
{
    return sim.armed_to_ns >= c->asked_ns || c->drains != drains;
}

/* "code" of an error's body, or "". */
static void code_of(const char *body, size_t n, char ret[64])
{
    static const char key[] = "\"code\":\"";
    const char *at = n ? memmem(body, n, key, sizeof key - 1) : NULL;
    const char *end = at ? memchr(at + 8, '"', (size_t)(body + n - at - 8)) : NULL;
    ret[0] = 0;
    if (end && end - at - 8 < 64)
        snprintf(ret, 64, "%.*s", (int)(end - at - 8), at + 8);
}

static bool may_be(const struct client *c, const char *code)
{
    static const char *const always[] = {"queue_full", "tokens_queue_full", "key_rate_limited", "queue_timeout",
                                         "too_many_connections", "out_of_memory", "state_not_found",
                                         "sequence_not_found", "reload_in_progress", "reload_failed", "model_loading"};
    for (size_t i = 0; i < DEQ_COUNT(always); i++)
        if (!strcmp(code, always[i]))
            return true;
    if (c->ask == &c->other && (c->status == 400 || c->status == 404 || c->status == 405)) /* what it asked for */
        return true;
    if (!strcmp(c->ask->path, "/health") && c->status == 503)
        return excused(c) || !sim.serving;
    if (c->ask->alone && *code && strstr(c->ask->alone, code)) /* alone too */
        return true;
    if (!strcmp(code, "slow_reader"))
        return c->manner == SLOW || c->manner == STALLED || c->manner == LEAVES;
    if (!strcmp(code, "draining"))
        return c->drains != drains || !sim.serving;
    if (!strcmp(code, "deadline_exceeded"))
        return c->deadline_ms != 0;
    if (!strcmp(code, "ended_by_operator"))
        return c->deletes != deletes;
    if (!strcmp(code, "request_timeout"))
        return !sends_all(c);
    return c->status >= 500 && sim.armed_to_ns >= c->asked_ns;
}

/* Ends with the first place where both differ. */
static void other_than_alone(const struct client *c, const char *said)
{
    size_t i = 0;
    while (said[i] && said[i] == c->ask->alone[i])
        i++;
    i -= DEQ_MIN(i, 80u);
    sim_fail("another answer than alone to %s %s\n  said  %u ...%.240s\n  alone %u ...%.240s\n  in full: %s",
             c->ask->path, c->ask->body, c->status, said + i, c->ask->alone_status, c->ask->alone + i, c->got);
}

/* Of a stream, as far as it came. Where the solver diverges, how much is said before is a matter of time. */
static bool as_alone(const struct client *c, const char *said)
{
    const char *alone = c->ask->alone;
    return !alone || c->status != 200 || strstr(alone, "\"error\":{") || answer_begins(said, alone);
}

/* A whole answer, or an error in its place. */
static void judge_whole(const struct client *c)
{
    char code[64];
    char *said = answer_canonical(c->ask, c->got, c->n_got, false);
    const bool error = said && (c->status >= 400 || strstr(said, "\"error\":{"));
    whole++;
    code_of(c->got, c->n_got, code);
    if (c->status == 429 && !c->retry_ms)
        sim_fail("429 without Retry-After");
    if (c->ask->alone && c->status == c->ask->alone_status && said && !strcmp(said, c->ask->alone)) {
        judged++;
    } else if (error) {
        if (!may_be(c, code))
            sim_fail("%s %s: %u \"%s\", which nothing excuses: %.300s", c->ask->method, c->ask->path, c->status, code,
                     c->got);
        if (!as_alone(c, said))
            other_than_alone(c, said);
    } else if (c->ask->alone) {
        const bool late = c->deadline_ms && c->status == 200 && said && answer_begins(said, c->ask->alone);
        if (!late)
            other_than_alone(c, said ? said : c->got);
        judged++;
    } else if (!said && c->ask->judged) {
        sim_fail("%s %s: %u, which is no JSON: %.100s", c->ask->method, c->ask->path, c->status, c->got);
    }
    free(said);
}

static void judge_cut(const struct client *c)
{
    const bool own = c->manner != PROMPT && c->manner != HALF_CLOSES;
    const bool idle = c->reused && !c->head_there && c->asked_ns - c->idle_ns > 900 * (uint64_t)MS;
    if (!own && !idle && !excused(c))
        sim_fail("%s %s: the connection ended without an answer", c->ask->method, c->ask->path);
    if (!c->ask->alone || c->status != 200 || !c->ask->stream || !c->read)
        return;
    char *said = answer_canonical(c->ask, c->got, c->n_got, true);
    if (said && !as_alone(c, said))
        other_than_alone(c, said);
    free(said);
}

/* --- Asking --- */

static void hang_up(struct client *c, bool reset)
{
    struct socket *s = c->socket;
    s->left = s->fin = true;
    s->reset = s->reset || reset || c->n_got > c->read; /* the system answers so for bytes that nobody read */
    s->client = NULL;
    c->socket = NULL;
    socket_unref(s);
}

static void free_other(struct client *c)
{
    free(c->other.body);
    c->other = (struct ask){0};
}

static void rest(struct client *c)
{
    if (c->socket && (c->closed || c->close_after || c->manner == HALF_CLOSES || !c->ended || sim_one_in(4)))
        hang_up(c, false);
    free(c->out);
    c->out = NULL;
    if (c->ask == &c->other)
        free_other(c);
    c->asking = false;
    c->idle_ns = sim.now_ns;
    c->next_ns = sim.now_ns + (sim_one_in(20) ? sim_below(8000 * (uint64_t)MS) : sim_below(100 * (uint64_t)MS));
}

static void finish(struct client *c)
{
    sim_note("client %d: %s, %zu bytes of %s", (int)(c - clients), c->ended && c->clean ? "answered" : "cut", c->n_got,
             c->ask->path);
    if (strcmp(c->ask->path, "/v1/states")) /* which tells when files were written */
        sim_mix(c->got, c->n_got);
    if (!sim.chaos && c->ended && c->clean)
        ; /* alone: it is what others are held against */
    else if (c->ended && c->clean)
        judge_whole(c);
    else
        judge_cut(c);
    rest(c);
}

static void leave(struct client *c)
{
    sim_note("client %d leaves after %zu bytes", (int)(c - clients), c->read);
    if (c->ask->alone && c->head_there)
        judge_cut(c);
    hang_up(c, c->manner == RESETS);
    rest(c);
}

/* What is no request for an answer of the engine's. */
static void ask_other(struct client *c)
{
    static const struct {
        const char *method, *path, *body;
    } of[] = {{"GET", "/metrics", NULL},      {"GET", "/health", NULL},        {"GET", "/v1/sequences", NULL},
              {"GET", "/v1/models", NULL},    {"POST", "/admin/reload", ""},   {"GET", "/v1/states", NULL},
              {"DELETE", "/v1/states/s0", NULL}, {"POST", "/tokenize", "{\"prompt\":\"a b\"}"},
              {"POST", "/v1/completions", "{\"prompt\":"}, {"GET", "/nothing", NULL}, {"PUT", "/v1/completions", NULL},
              {"DELETE", "/v1/sequences/seq_%llu", NULL}, {"DELETE", "/v1/sequences/seq_%llu", NULL}};
    static char paths[CLIENTS][64];
    const size_t i = sim_below(DEQ_COUNT(of));
    char *path = paths[c - clients];
    if (!strcmp(of[i].path, "/admin/reload") && !sim_one_in(8)) {
        snprintf(path, 64, "/health");
        c->other = (struct ask){.method = "GET", .path = path};
        return;
    }
    const char *number = strstr(of[i].path, "%llu");
    snprintf(path, 64, "%.*s", number ? (int)(number - of[i].path) : 63, of[i].path);
    if (number) {
        snprintf(path + strlen(path), 32, "%llu", (unsigned long long)check_recent_number());
        deletes++;
    }
    reloads += !strcmp(path, "/admin/reload");
    c->other = (struct ask){.method = of[i].method, .path = path};
    if (of[i].body) {
        c->other.body = sim_alloc(strlen(of[i].body) + 1);
        strcpy(c->other.body, of[i].body);
    }
}

static void write_request(struct client *c)
{
    char head[512];
    const size_t body = c->ask->body ? strlen(c->ask->body) : 0;
    static uint64_t number;
    int n = snprintf(head, sizeof head,
                     "%s %s HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: r%llu\r\nAuthorization: Bearer k%u\r\n",
                     c->ask->method, c->ask->path, (unsigned long long)++number,
                     c->ask == &c->other ? 0 : (unsigned)sim_below(4));
    if (c->deadline_ms)
        n += snprintf(head + n, sizeof head - (size_t)n, "X-Request-Timeout-Ms: %llu\r\n",
                      (unsigned long long)c->deadline_ms);
    if (c->ask->body)
        n += snprintf(head + n, sizeof head - (size_t)n, "Content-Length: %zu\r\n", body);
    n += snprintf(head + n, sizeof head - (size_t)n, "\r\n");
    c->n_out = (size_t)n + body;
    c->out = sim_alloc(c->n_out + 1);
    memcpy(c->out, head, (size_t)n);
    memcpy(c->out + n, c->ask->body ? c->ask->body : "", body);
    if (c->manner == NEVER_SENDS)
        c->n_out = sim_between(1, c->n_out - 1);
}

static enum manner a_manner(void)
{
    static const enum manner weighted[] = {PROMPT, PROMPT, PROMPT, PROMPT, PROMPT, PROMPT, SLOW, STALLED, LEAVES,
                                           LEAVES, RESETS, HALF_CLOSES, DRIPS, NEVER_SENDS};
    const enum manner m = weighted[sim_below(DEQ_COUNT(weighted))];
    return (m == STALLED || m == NEVER_SENDS) && !sim_one_in(3) ? PROMPT : m;
}

static void begin(struct client *c, struct ask *ask, enum manner manner)
{
    const bool reuse = c->socket && !c->closed;
    if (!reuse) {
        if (c->socket)
            hang_up(c, false);
        struct socket *s = socket_new(c);
        if (!mhd_connect(s)) { /* nobody listens */
            s->client = NULL;
            socket_close(s->fd);
            socket_unref(s);
            c->next_ns = sim.now_ns + 50 * MS;
            return;
        }
        c->socket = s;
    }
    c->manner = manner;
    c->ask = ask;
    if (!ask) {
        c->ask = &c->other;
        ask_other(c);
    }
    c->reused = reuse;
    c->head_there = c->ended = c->clean = c->closed = c->close_after = false;
    c->asking = true;
    c->status = 0;
    c->sent = c->n_got = c->read = 0;
    c->deadline_ms = sim.chaos && ask && sim_one_in(8) ? sim_between(1, 300) : 0;
    c->leave_at = sim_one_in(2) ? sim_below(2000) : SIZE_MAX;
    c->leave_ns = sim.now_ns + sim_below(sim_one_in(2) ? 30 * (uint64_t)MS : 600 * (uint64_t)MS);
    c->asked_ns = c->next_ns = c->sent_ns = sim.now_ns;
    c->drains = sim.serving ? drains : UINT64_MAX; /* one is under way */
    c->deletes = deletes;
    asked++;
    write_request(c);
    sim_note("client %d asks %s %s, manner %d, deadline %llu ms", (int)(c - clients), c->ask->method, c->ask->path,
             manner, (unsigned long long)c->deadline_ms);
}

/* --- A client's turn --- */

static void send_some(struct client *c)
{
    const size_t left = c->n_out - c->sent;
    const size_t n = c->manner == DRIPS ? sim_between(1, DEQ_MIN(left, (size_t)120)) : left;
    socket_send(c->socket, c->out + c->sent, n);
    c->sent += n;
    c->sent_ns = sim.now_ns;
    c->next_ns = sim.now_ns + (c->manner == DRIPS ? sim_below(60 * MS) : sim_below(4 * MS));
    if (c->sent == c->n_out && c->manner == HALF_CLOSES)
        c->socket->fin = true;
}

static void read_some(struct client *c)
{
    const size_t there = c->n_got - c->read;
    size_t n = there;
    if (c->manner == SLOW)
        n = DEQ_MIN(there, (size_t)sim_between(1, 400));
    else if (c->manner == STALLED && c->read >= DEQ_MIN(c->leave_at, (size_t)500))
        n = 0;
    c->read += n;
    c->socket->room += n;
    const bool slowly = c->manner == SLOW || c->manner == STALLED;
    c->next_ns = sim.now_ns + (slowly ? sim_between(1, 80) * MS : 400 * (uint64_t)MS);
}

static void go(struct client *c)
{
    const bool leaves = c->manner == LEAVES || c->manner == RESETS;
    if (!c->asking) {
        if (!sim.chaos || resting) {
            c->next_ns = sim.now_ns + 500 * (uint64_t)MS;
            return;
        }
        begin(c, sim_one_in(10) ? NULL : ask_number(sim_below(ASKS)), a_manner());
        return;
    }
    if (leaves && (sim.now_ns >= c->leave_ns || c->read >= c->leave_at)) {
        leave(c);
        return;
    }
    if (c->closed || (c->ended && c->read == c->n_got)) {
        c->read = c->n_got;
        finish(c);
        return;
    }
    if (c->sent < c->n_out)
        send_some(c);
    else
        read_some(c);
    if (sim.now_ns - c->asked_ns > PATIENCE_S * 1000000000ull)
        sim_fail("client %d has had no end of its answer for %d s (manner %d, %zu of %zu bytes read)",
                 (int)(c - clients), PATIENCE_S, c->manner, c->read, c->n_got);
}

bool clients_go(void)
{
    struct client *can[CLIENTS];
    size_t n = 0;
    for (struct client *c = clients; c < clients + CLIENTS; c++)
        if (c->next_ns <= sim.now_ns)
            can[n++] = c;
    if (!n)
        return false;
    go(can[sim_below(n)]);
    return true;
}

uint64_t clients_next_ns(void)
{
    uint64_t next = UINT64_MAX;
    for (const struct client *c = clients; c < clients + CLIENTS; c++)
        next = DEQ_MIN(next, c->next_ns);
    return next;
}

bool clients_rehearse(void)
{
    struct client *c = clients;
    if (c->asking)
        return true;
    if (rehearsed) {
        struct ask *before = ask_number(rehearsed - 1);
        if (!before->alone_status) {
            char *said = answer_canonical(before, c->got, c->n_got, false);
            if (!said || !c->status)
                sim_fail("no answer alone to %s", before->body);
            sim_note("alone %zu: %u", rehearsed - 1, c->status);
            before->alone_status = c->status;
            if (c->status == 503 || c->status == 429) /* there is never room for it */
                free(said);
            else
                before->alone = said;
        }
    }
    if (rehearsed == ASKS)
        return false;
    begin(c, ask_number(rehearsed), PROMPT);
    rehearsed += c->asking;
    return true;
}
