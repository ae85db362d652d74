/* The clients: who asks when, and how he sends, reads and leaves. What he got is judged in judge.c. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/client.h"

enum { CLIENTS = 28, PATIENCE_S = 240 };

static struct client clients[CLIENTS];
struct past clients_past;
static uint64_t asked;
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
    judge_count(ret_whole, ret_judged);
}

void clients_rest(bool yes)
{
    resting = yes;
}

void clients_saw_drain(void)
{
    clients_past.drains++;
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

/* --- Asking --- */

static void hang_up(struct client *c, bool reset)
{
    struct socket *s = c->socket;
    s->left = s->fin = true;
    s->left_ns = sim.now_ns;
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
    if (c->deadline_ms && c->manner == PROMPT && c->ended)
        judge_deadline(c);
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
        const uint64_t job = check_recent_number();
        snprintf(path + strlen(path), 32, "%llu", (unsigned long long)job);
        check_told_to_end(job);
        clients_past.deletes++;
    }
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
    const unsigned key = c->ask == &c->other ? 0 : (unsigned)sim_below(KEYS);
    int n = snprintf(head, sizeof head,
                     "%s %s HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: r%llu\r\nAuthorization: Bearer k%u\r\n",
                     c->ask->method, c->ask->path, (unsigned long long)++number, key);
    check_asked(number, key);
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
    return (m == STALLED || m == NEVER_SENDS) && sim_one_in(2) ? PROMPT : m;
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
    c->before = clients_past;
    c->before.drains = sim.serving ? clients_past.drains : UINT64_MAX; /* one is under way */
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
            const bool text = c->status == 200 && !strstr(said, "\"error\":{");
            if ((text && !before->judged) || c->status == 503 || c->status == 429) /* these: there is never room */
                free(said);
            else
                before->alone = said;
        }
    }
    if (rehearsed == ASKS) {
        size_t texts = 0;
        for (size_t i = 0; i < ASKS; i++)
            texts += ask_number(i)->alone_status == 200;
        if (2 * texts < ASKS) /* else nothing would be tried: refusals are all alike */
            sim_fail("%zu of %d requests have an answer alone; the last one's is %s", texts, ASKS, c->got);
        return false;
    }
    begin(c, ask_number(rehearsed), PROMPT);
    rehearsed += c->asking;
    return true;
}
