/* libmicrohttpd's place, from which server/net/http*.c are called: threads with connections each, which are suspended
 * and resumed, time out, and end; mhd_exchange.c leads what is asked on them. To stop while a connection sleeps is a
 * failure, since libmicrohttpd would abort. */
#define _GNU_SOURCE
#include <stdarg.h>
#include <string.h>

#include "tests/sim/mhd.h"

enum { CONNECTIONS = 128, DAEMONS = 4, LOST_NS = 2000000000, SLACK_NS = 1000000000 };
static const uint64_t LEFT_NS = 4000000000; /* within that it is found out that a client has left */

struct worker {
    struct MHD_Daemon *daemon;
    unsigned number;
};

static struct MHD_Connection connections[CONNECTIONS];
static struct MHD_Daemon daemons[DAEMONS]; /* handler NULL: free */
static struct worker workers[DAEMONS][WORKERS];

int __wrap_pthread_create(pthread_t *ret, const pthread_attr_t *attr, void *(*fn)(void *), void *arg);
int __wrap_pthread_join(pthread_t thread, void **ret);

static bool worker_ready(const void *on)
{
    const struct worker *w = on;
    if (w->daemon->stop)
        return true;
    for (const struct MHD_Connection *c = connections; c < connections + CONNECTIONS; c++)
        if (c->used && c->daemon == w->daemon && c->worker == w->number && exchange_can_go(c))
            return true;
    return false;
}

static uint64_t next_timeout(const struct worker *w)
{
    uint64_t next = UINT64_MAX;
    for (const struct MHD_Connection *c = connections; c < connections + CONNECTIONS; c++)
        if (c->used && c->daemon == w->daemon && c->worker == w->number && !c->suspended && c->timeout_s)
            next = DEQ_MIN(next, c->active_ns + c->timeout_s * 1000000000ull + 1);
    return next == UINT64_MAX ? 0 : next;
}

static void greet(struct MHD_Connection *c)
{
    struct MHD_Daemon *d = c->daemon;
    d->connection(d->connection_cls, c, &c->socket_context, MHD_CONNECTION_NOTIFY_STARTED);
    c->active_ns = sim.now_ns;
}

static void *worker_main(void *arg)
{
    const struct worker *w = arg;
    struct MHD_Daemon *d = w->daemon;
    while (!d->stop) {
        thread_wait(worker_ready, w, next_timeout(w));
        for (struct MHD_Connection *c = connections; c < connections + CONNECTIONS && !d->stop; c++) {
            if (!c->used || c->daemon != d || c->worker != w->number)
                continue;
            if (!c->active_ns)
                greet(c);
            else if (exchange_can_go(c))
                exchange_go(c);
        }
    }
    for (struct MHD_Connection *c = connections; c < connections + CONNECTIONS; c++) {
        if (!c->used || c->daemon != d || c->worker != w->number)
            continue;
        if (!c->active_ns)
            greet(c);
        if (c->suspended && c->resuming)
            c->suspended = c->resuming = false;
        if (c->suspended)
            sim_fail("the server stops while a connection sleeps: libmicrohttpd would abort");
        exchange_close(c, MHD_REQUEST_TERMINATED_DAEMON_SHUTDOWN);
    }
    return NULL;
}

bool mhd_connect(struct socket *s)
{
    struct MHD_Daemon *d = daemons;
    while (d < daemons + DAEMONS && (!d->handler || d->quiesced || d->stop))
        d++;
    struct MHD_Connection *c = connections;
    while (c < connections + CONNECTIONS && c->used)
        c++;
    if (d == daemons + DAEMONS || c == connections + CONNECTIONS)
        return false;
    *c = (struct MHD_Connection){
        .used = true, .daemon = d, .socket = s, .timeout_s = d->timeout_s, .head_ns = sim.now_ns};
    c->worker = d->next_worker++ % d->workers;
    c->address.sin_family = AF_INET;
    c->address.sin_addr.s_addr = htonl(0x0a000001 + (uint32_t)sim_below(4));
    return true;
}

static void take_option(struct MHD_Daemon *d, const struct MHD_OptionItem *o)
{
    switch (o->option) {
    case MHD_OPTION_NOTIFY_COMPLETED:
        d->completed = (MHD_RequestCompletedCallback)o->value;
        d->completed_cls = o->ptr_value;
        break;
    case MHD_OPTION_NOTIFY_CONNECTION:
        d->connection = (MHD_NotifyConnectionCallback)o->value;
        d->connection_cls = o->ptr_value;
        break;
    case MHD_OPTION_URI_LOG_CALLBACK:
        d->uri = (void *(*)(void *, const char *, struct MHD_Connection *))o->value;
        break;
    case MHD_OPTION_THREAD_POOL_SIZE: d->workers = DEQ_MAX((unsigned)o->value, 1u); break;
    case MHD_OPTION_CONNECTION_TIMEOUT: d->timeout_s = (unsigned)o->value; break;
    default: break;
    }
}

struct MHD_Daemon *MHD_start_daemon(unsigned flags, uint16_t port, MHD_AcceptPolicyCallback accept, void *accept_cls,
                                    MHD_AccessHandlerCallback handler, void *cls, ...)
{
    struct MHD_Daemon *d = daemons;
    va_list ap;
    (void)flags;
    (void)port;
    (void)accept;
    (void)accept_cls;
    while (d->handler)
        d++;
    *d = (struct MHD_Daemon){.handler = handler, .cls = cls, .workers = 1};
    va_start(ap, cls);
    if (va_arg(ap, enum MHD_OPTION) == MHD_OPTION_ARRAY)
        for (const struct MHD_OptionItem *o = va_arg(ap, struct MHD_OptionItem *); o->option != MHD_OPTION_END; o++)
            take_option(d, o);
    va_end(ap);
    for (unsigned i = 0; i < d->workers; i++) {
        struct worker *w = &workers[d - daemons][i];
        *w = (struct worker){d, i};
        (void)__wrap_pthread_create(&d->thread[i], NULL, worker_main, w);
    }
    return d;
}

MHD_socket MHD_quiesce_daemon(struct MHD_Daemon *d)
{
    d->quiesced = true;
    return -1;
}

void MHD_stop_daemon(struct MHD_Daemon *d)
{
    d->stop = true;
    for (unsigned i = 0; i < d->workers; i++)
        (void)__wrap_pthread_join(d->thread[i], NULL);
    d->handler = NULL;
}

/* --- After each event: whoever sleeps has nothing to do, or is about to be woken; who takes nothing is dropped --- */

static void check_sleeper(struct MHD_Connection *c, const struct request_state *s)
{
    const struct channel *ch = s->x.channel;
    const bool unread = ch->streaming && (ch->bytes.len > ch->sent || ch->last_words);
    if (ch->suspended && !s->working && (ch->done || ch->failed || ch->news || unread))
        sim_fail("a connection sleeps though its channel has something for it (done %d, failed %d, news %d, %zu of "
                 "%zu bytes sent, last words \"%s\")", ch->done, ch->failed, ch->news, ch->sent, ch->bytes.len,
                 ch->last_words ? ch->last_words : "");
    if (ch->suspended)
        c->claimed_ns = 0;
    else if (!c->claimed_ns)
        c->claimed_ns = sim.now_ns;
    else if (sim.now_ns - c->claimed_ns > LOST_NS + sim.longest_step_ns)
        sim_fail("a connection was to be woken and sleeps on");
}

void mhd_check(void)
{
    for (struct MHD_Connection *c = connections; c < connections + CONNECTIONS; c++) {
        if (!c->used || c->state != IN_HEAD || c->socket->shut_read)
            c->head_ns = sim.now_ns;
        else if (sim.now_ns > c->head_ns + sim.head_ms * 1000000u + SLACK_NS)
            sim_fail("a head takes longer than server.header_timeout_ms");
        const struct request_state *s = c->used ? c->request : NULL;
        const struct channel *ch = s ? s->x.channel : NULL;
        if (!ch || !mutex_is_free(&ch->lock))
            continue;
        const size_t unread = ch->bytes.len - DEQ_MIN(ch->sent, ch->bytes.len) + ch->unrendered;
        const uint64_t limit_ns = s->http->conf->stream_stall_ms * 1000000ull + SLACK_NS;
        if ((ch->streaming || ch->sending) && !ch->failed && unread && sim.now_ns > ch->last_read_ns + limit_ns)
            sim_fail("a reader took nothing for longer than stream.stall_ms, and is not dropped");
        if (ch->streaming && !ch->gone && !ch->done && unread > ch->limit && !ch->paused)
            sim_fail("%zu bytes lie unread, of %zu, and who writes them is not told to wait", unread, ch->limit);
        if (c->socket->left && ch->dispatched && !ch->done && !ch->gone && sim.now_ns > c->socket->left_ns + LEFT_NS)
            sim_fail("a client left long ago, and its request goes on");
        if (c->suspended && !c->resuming)
            check_sleeper(c, s);
    }
}
