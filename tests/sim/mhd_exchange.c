/* A request and its response on one connection, as libmicrohttpd 0.9.75 leads them: a head is cut in its buffer; the
 * handler is called for the head, for pieces of the body, and for the answer until there is one; the answer's bytes go
 * as far as the socket has room. What libmicrohttpd documents as misuse is a failure: to have no answer and not to
 * sleep, to resume who is awake. */
#define _GNU_SOURCE
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/mhd.h"

enum { HEAD_BYTES = 64 << 10 };

int __wrap_close(int fd);

/* --- Responses --- */

static struct MHD_Response *response_new(void)
{
    if (sim.chaos && sim.now_ns <= sim.armed_to_ns && sim_one_in(8))
        return NULL; /* its memory is not ours, but may be short too */
    struct MHD_Response *r = sim_alloc(sizeof *r);
    r->refs = 1;
    return r;
}

struct MHD_Response *MHD_create_response_from_callback(uint64_t size, size_t block, MHD_ContentReaderCallback reader,
                                                       void *ctx, MHD_ContentReaderFreeCallback done)
{
    struct MHD_Response *r = response_new();
    if (r) {
        r->size = size;
        r->block = block;
        r->reader = reader;
        r->ctx = ctx;
        r->done = done;
    }
    return r;
}

struct MHD_Response *MHD_create_response_from_buffer_with_free_callback_cls(size_t size, void *data,
                                                                            MHD_ContentReaderFreeCallback done,
                                                                            void *ctx)
{
    struct MHD_Response *r = response_new();
    if (r) {
        r->size = size;
        r->data = data;
        r->done = done;
        r->ctx = ctx;
    }
    return r;
}

enum MHD_Result MHD_add_response_header(struct MHD_Response *r, const char *name, const char *value)
{
    if (!strcmp(name, "Connection") && !strcmp(value, "close"))
        r->close = true;
    if (!strcmp(name, "retry-after-ms"))
        r->retry_ms = (unsigned)strtoul(value, NULL, 10);
    return MHD_YES;
}

void MHD_destroy_response(struct MHD_Response *r)
{
    if (--r->refs)
        return;
    if (r->done)
        r->done(r->ctx);
    free(r);
}

enum MHD_Result MHD_queue_response(struct MHD_Connection *c, unsigned status, struct MHD_Response *r)
{
    if (c->response)
        sim_fail("a request is answered twice");
    r->refs++;
    c->response = r;
    c->status = status;
    return MHD_YES;
}

/* --- Connections --- */

const union MHD_ConnectionInfo *MHD_get_connection_info(struct MHD_Connection *c, enum MHD_ConnectionInfoType what, ...)
{
    static union MHD_ConnectionInfo i;
    switch (what) {
    case MHD_CONNECTION_INFO_SOCKET_CONTEXT: i.socket_context = c->socket_context; break;
    case MHD_CONNECTION_INFO_CONNECTION_FD: i.connect_fd = c->socket->fd; break;
    case MHD_CONNECTION_INFO_CLIENT_ADDRESS: i.client_addr = (struct sockaddr *)&c->address; break;
    case MHD_CONNECTION_INFO_REQUEST_HEADER_SIZE: i.header_size = c->head_bytes; break;
    default: sim_fail("connection info %d", (int)what);
    }
    return &i;
}

int MHD_get_connection_values_n(struct MHD_Connection *c, enum MHD_ValueKind kind, MHD_KeyValueIteratorN each,
                                void *cls)
{
    for (size_t i = 0; i < c->n_headers; i++)
        (void)each(cls, kind, c->header[i].key, strlen(c->header[i].key), c->header[i].value,
                   strlen(c->header[i].value));
    return (int)c->n_headers;
}

enum MHD_Result MHD_set_connection_option(struct MHD_Connection *c, enum MHD_CONNECTION_OPTION option, ...)
{
    va_list ap;
    va_start(ap, option);
    c->timeout_s = va_arg(ap, unsigned);
    va_end(ap);
    return MHD_YES;
}

void MHD_suspend_connection(struct MHD_Connection *c)
{
    if (!c->used || c->suspended)
        sim_fail("a connection is suspended that is asleep or not there");
    c->suspended = true;
    c->claimed_ns = 0;
}

void MHD_resume_connection(struct MHD_Connection *c)
{
    if (!c->used || !c->suspended || c->resuming)
        sim_fail("a connection is resumed that is awake or not there");
    c->resuming = true;
    thread_maybe_switch();
}

static void end_request(struct MHD_Connection *c, enum MHD_RequestTerminationCode code)
{
    struct MHD_Daemon *d = c->daemon;
    if (c->suspended)
        sim_fail("a request ends whose connection sleeps");
    d->completed(d->completed_cls, c, &c->request, code);
    if (c->response)
        MHD_destroy_response(c->response);
    free(c->head);
    free(c->piece);
    c->head = c->piece = NULL;
    c->response = NULL;
    c->request = NULL;
    c->n_headers = c->n_piece = c->piece_sent = c->looked_at = 0;
    c->at = c->body_left = 0;
    c->head_sent = c->asked = false;
    c->state = IN_HEAD;
}

void exchange_close(struct MHD_Connection *c, enum MHD_RequestTerminationCode code)
{
    struct MHD_Daemon *d = c->daemon;
    const int fd = c->socket->fd;
    end_request(c, code);
    d->connection(d->connection_cls, c, &c->socket_context, MHD_CONNECTION_NOTIFY_CLOSED);
    c->used = false;
    (void)__wrap_close(fd);
}

/* --- Reading --- */

static void consume(struct socket *s, size_t n)
{
    memmove(s->in, s->in + n, s->n_in -= n);
}

/* Cuts the head as libmicrohttpd does: zeros where blanks, colons and line ends stood. */
static void cut_head(struct MHD_Connection *c)
{
    char *p = c->head, *end;
    c->method = p;
    c->url = p = strchr(p, ' ') + 1;
    p[-1] = 0;
    c->version = p = strchr(p, ' ') + 1;
    p[-1] = 0;
    end = strstr(p, "\r\n");
    end[0] = end[1] = 0;
    p = end + 2;
    (void)c->daemon->uri(c->daemon->cls, c->url, c);
    while ((end = strstr(p, "\r\n")) != p) {
        char *colon = memchr(p, ':', (size_t)(end - p));
        if (!colon || c->n_headers == HEADERS)
            sim_fail("a head that the simulation does not know");
        *colon = end[0] = end[1] = 0;
        c->header[c->n_headers].key = p;
        c->header[c->n_headers++].value = colon + 1 + strspn(colon + 1, " ");
        if (!strcasecmp(p, "Content-Length"))
            c->body_left = strtoull(colon + 1, NULL, 10);
        p = end + 2;
    }
    end[0] = end[1] = 0;
}

static bool call_handler(struct MHD_Connection *c, const char *piece, size_t *n)
{
    struct MHD_Daemon *d = c->daemon;
    const enum MHD_Result ok = d->handler(d->cls, c, c->url, c->method, c->version, piece, n, &c->request);
    if (ok != MHD_YES)
        exchange_close(c, MHD_REQUEST_TERMINATED_WITH_ERROR);
    else if (c->response && !c->suspended)
        c->state = ANSWERING;
    return ok == MHD_YES;
}

static bool read_head(struct MHD_Connection *c)
{
    struct socket *s = c->socket;
    size_t none = 0;
    c->looked_at = s->n_in;
    const char *end = s->n_in ? memmem(s->in, s->n_in, "\r\n\r\n", 4) : NULL;
    if (!end) {
        if (s->fin)
            exchange_close(c, MHD_REQUEST_TERMINATED_CLIENT_ABORT);
        return false;
    }
    c->head_bytes = (size_t)(end + 4 - s->in);
    c->head = sim_alloc(HEAD_BYTES);
    memcpy(c->head, s->in, c->head_bytes);
    consume(s, c->head_bytes);
    cut_head(c);
    c->state = c->body_left ? IN_BODY : TO_ANSWER;
    return call_handler(c, NULL, &none);
}

static bool read_body(struct MHD_Connection *c)
{
    struct socket *s = c->socket;
    char piece[4096];
    size_t n = DEQ_MIN(DEQ_MIN(s->n_in, sizeof piece), c->body_left);
    if (!n) {
        if (s->fin)
            exchange_close(c, MHD_REQUEST_TERMINATED_CLIENT_ABORT);
        return false;
    }
    n = sim_between(1, n);
    memcpy(piece, s->in, n);
    consume(s, n);
    c->body_left -= n;
    c->state = c->body_left ? IN_BODY : TO_ANSWER;
    return call_handler(c, piece, &n);
}

/* --- Writing --- */

/* False: the connection is at its end. */
static bool next_piece(struct MHD_Connection *c)
{
    struct MHD_Response *r = c->response;
    c->piece_sent = c->n_piece = 0;
    if (r->data || c->at >= r->size) {
        c->n_piece = r->data ? r->size - c->at : 0;
        c->piece = sim_realloc(c->piece, c->n_piece + 1);
        memcpy(c->piece, r->data ? r->data + c->at : "", c->n_piece);
        c->at = r->size;
        return true;
    }
    c->piece = sim_realloc(c->piece, r->block);
    const ssize_t n = r->reader(r->ctx, c->at, c->piece, DEQ_MIN(r->block, r->size - c->at));
    if (n == MHD_CONTENT_READER_END_OF_STREAM) {
        c->at = r->size;
        return true;
    }
    if (n < 0) {
        exchange_close(c, MHD_REQUEST_TERMINATED_WITH_ERROR);
        return false;
    }
    if (!n && !c->suspended)
        sim_fail("a reader has nothing and does not sleep: libmicrohttpd would spin");
    c->n_piece = (size_t)n;
    c->at += (size_t)n;
    return true;
}

static bool write_some(struct MHD_Connection *c)
{
    struct socket *s = c->socket;
    if (!c->head_sent) {
        client_head(s->client, c->status, c->response->close, c->response->retry_ms);
        c->head_sent = true;
        socket_wrote(s);
    }
    if (c->piece_sent == c->n_piece) {
        if (c->at < c->response->size)
            return next_piece(c) && !c->suspended;
        client_end(s->client, true);
        const bool last = c->response->close || c->body_left || s->fin;
        if (last)
            exchange_close(c, MHD_REQUEST_TERMINATED_COMPLETED_OK);
        else
            end_request(c, MHD_REQUEST_TERMINATED_COMPLETED_OK);
        return !last;
    }
    const size_t n = DEQ_MIN(c->n_piece - c->piece_sent, s->room);
    if (!n)
        return false;
    client_bytes(s->client, c->piece + c->piece_sent, n);
    s->room -= n;
    c->piece_sent += n;
    socket_wrote(s);
    return true;
}

/* --- Turns --- */

static bool overdue(const struct MHD_Connection *c)
{
    return !c->suspended && c->timeout_s && sim.now_ns > c->active_ns + c->timeout_s * 1000000000ull;
}

bool exchange_can_go(const struct MHD_Connection *c)
{
    const struct socket *s = c->socket;
    if (!c->active_ns) /* nobody was told of it */
        return true;
    if (c->suspended)
        return c->resuming;
    if (s->reset || s->shut_read || overdue(c))
        return true;
    switch (c->state) {
    case IN_HEAD: return s->n_in > c->looked_at || s->fin;
    case IN_BODY: return s->n_in || s->fin;
    case TO_ANSWER: return true;
    case ANSWERING: break;
    }
    return !c->head_sent || c->piece_sent == c->n_piece || s->room;
}

/* One connection goes as far as it can, or some way. */
void exchange_go(struct MHD_Connection *c)
{
    bool more = true;
    if (c->suspended) {
        c->suspended = c->resuming = false;
        c->asked = false;
        c->active_ns = sim.now_ns; /* what it slept is no silence */
    }
    if (c->socket->reset || c->socket->shut_read || overdue(c)) {
        exchange_close(c, c->socket->reset ? MHD_REQUEST_TERMINATED_CLIENT_ABORT
                                             : MHD_REQUEST_TERMINATED_TIMEOUT_REACHED);
        return;
    }
    c->active_ns = sim.now_ns;
    while (more && !c->suspended && !sim_one_in(16)) {
        size_t none = 0;
        switch (c->state) {
        case IN_HEAD: more = read_head(c); break;
        case IN_BODY: more = read_body(c); break;
        case TO_ANSWER:
            if (c->asked)
                sim_fail("a request has no answer, and its connection does not sleep: libmicrohttpd would spin");
            c->asked = true;
            more = call_handler(c, NULL, &none);
            break;
        case ANSWERING: more = write_some(c); break;
        }
    }
}
