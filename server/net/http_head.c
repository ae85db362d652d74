/* A request's head: who asks, by which id, whether it can be trusted. libmicrohttpd shows headers after it has cut
 * them; what it does not show is read off its buffer. */
#define _GNU_SOURCE
#include <netinet/in.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/rng.h"
#include "server/net/head.h"
#include "server/net/http_impl.h"

enum {
    HEADER_MAX_BYTES = 32 << 10,
    HEADERS_MAX = 100,
    TARGET_MAX_BYTES = 8 << 10,
};

static enum MHD_Result add_line(void *cls, enum MHD_ValueKind kind, const char *key, size_t key_len, const char *value,
                                size_t value_len)
{
    (void)kind;
    head_add(cls, key, key_len, value, value_len);
    return MHD_YES;
}

/* The request's target as it came, before libmicrohttpd cuts it: a zero byte in it, or controls, or more of it than
 * anybody needs. */
void *http_on_uri(void *cls, const char *uri, struct MHD_Connection *conn)
{
    const union MHD_ConnectionInfo *i = MHD_get_connection_info(conn, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    struct socket_state *s = i ? i->socket_context : NULL;
    const size_t n = strlen(uri);
    (void)cls;
    if (!s)
        return NULL;
    s->bad_target = strstr(uri, "%00") != NULL;
    for (size_t k = 0; k < n; k++)
        s->bad_target = s->bad_target || (unsigned char)uri[k] <= 0x20 || uri[k] == 0x7f;
    s->long_target = n > TARGET_MAX_BYTES;
    s->target_end = uri + n + 1;
    char *const version = (char *)(uintptr_t)uri + n + 1;
    const bool crlf = !strncmp(version, "HTTP/1.", 7) && strlen(version) == 8 && !version[9]; /* two zeros now */
    if (!s->bad_target && crlf)
        head_move_blanks(version + 10);
    /* No path of ours takes a query. Behind the '?' it would be cut into pieces that fill libmicrohttpd's memory; it is
     * ended here. */
    char *query = strchr((char *)(uintptr_t)uri, '?');
    if (query && query[1])
        query[1] = 0;
    return NULL;
}

void http_refuse(struct request_state *s, int status, const char *code, const char *message)
{
    if (!s->x.status) /* the first reason counts */
        s->http->handler.refuse(&s->x, status, code, NULL, message);
}

void http_refuse_body(struct request_state *s)
{
    char text[80];
    snprintf(text, sizeof text, "the body exceeds %zu bytes (%s)", s->x.body.max, s->x.body_limit);
    http_refuse(s, 413, "body_too_large", text);
}

static struct caller anonymous(struct MHD_Connection *conn)
{
    const union MHD_ConnectionInfo *i = MHD_get_connection_info(conn, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    const struct sockaddr *a = i ? i->client_addr : NULL;
    if (a && a->sa_family == AF_INET)
        return auth_anonymous(&((const struct sockaddr_in *)(const void *)a)->sin_addr, 4);
    if (a && a->sa_family == AF_INET6 &&
        IN6_IS_ADDR_V4MAPPED(&((const struct sockaddr_in6 *)(const void *)a)->sin6_addr))
        return auth_anonymous((const char *)&((const struct sockaddr_in6 *)(const void *)a)->sin6_addr + 12, 4);
    if (a && a->sa_family == AF_INET6)
        return auth_anonymous(&((const struct sockaddr_in6 *)(const void *)a)->sin6_addr, 8); /* one customer's */
    return auth_anonymous("", 0);
}

/* Who asks, and in whose name. */
static void take_page(struct request_state *s, const struct listener *l, struct head *c)
{
    struct exchange *x = &s->x;
    const struct conf *conf = s->http->conf;
    char host[HEAD_HOST_MAX_BYTES];
    x->path = head_path_of_target(x->path, &c->host_value, host);
    const struct origin_head h = {x->method, c->host_value, c->origin, c->origins, c->site, c->mode};
    x->wrong_host = (l->loopback || conf->hosts[0]) && !origin_host_allowed(conf->hosts, c->host_value);
    x->browser = c->browser;
    x->page = origin_judge(conf->cors_origins, &h);
    x->origin = x->page == ORIGIN_ALLOWED ? c->origin : NULL;
    x->preflight = !strcmp(x->method, "OPTIONS") && c->origin && c->ask_method && x->page != ORIGIN_FOREIGN;
    x->ask_headers = c->ask_headers;
    x->ask_private = c->ask_private && !strcasecmp(c->ask_private, "true");
}

/* Against the head as a whole, what single headers do not tell. */
static const char *problem_of(struct request_state *s, const struct head *c, const struct socket_state *from,
                              const char *version)
{
    const struct exchange *x = &s->x;
    const union MHD_ConnectionInfo *size = MHD_get_connection_info(s->conn, MHD_CONNECTION_INFO_REQUEST_HEADER_SIZE);
    if (c->content_length > 1 || c->transfer_encoding > 1 || (c->content_length && c->transfer_encoding))
        return "Content-Length or Transfer-Encoding given twice or together";
    if (from && (from->bad_target || x->method + strlen(x->method) + 1 != x->path || from->target_end != version ||
                 !head_is_token(x->method, strlen(x->method))))
        return "the request line holds a zero byte, a control character or further blanks";
    if (c->transfer_encoding && strcmp(version, "HTTP/1.1"))
        return "Transfer-Encoding in a request that is not HTTP/1.1";
    if (c->host > 1)
        return "Host given twice";
    /* behind the last header, or the request line, stands the empty line, all zeros by now, and there the head ends:
     * else the last header went on, or a line began with ':' or a zero byte, which libmicrohttpd takes for the end */
    const char *const end = c->end ? c->end : version + strlen(version);
    if (!size || end + 4 != x->method + size->header_size || end[1] || end[2])
        return "the last header line is folded, holds a zero byte or does not end in CRLF, or another has no name";
    return c->problem;
}

/* What the headers decide: an answer, or that the body is wanted. */
void http_check_head(struct request_state *s, const struct listener *l, const struct socket_state *from,
                     const char *version)
{
    struct http *h = s->http;
    struct exchange *x = &s->x;
    struct head c = {0};
    struct credential keys[2];
    size_t n_keys = 0;
    MHD_get_connection_values_n(s->conn, MHD_HEADER_KIND, add_line, &c);
    if (c.id && head_id_is_printable(c.id))
        snprintf(x->request_id, sizeof x->request_id, "%s", c.id);
    else
        snprintf(x->request_id, sizeof x->request_id, "%016llx",
                 (unsigned long long)deq_rng_u64(h->run_id, 0, atomic_fetch_add(&h->next_request, 1)));
    x->content_type = c.content_type && *c.content_type ? c.content_type : NULL; /* an empty one names no type */
    x->is_encoded = c.is_encoded;
    x->if_none_match = c.none_match;
    /* what is named goes before what is covered by an asterisk */
    x->wants_octets = c.octets.q && (c.octets.q > c.json.q || (c.octets.q == c.json.q && c.octets.specific == 3));
    (void)head_trace(c.traceparent, x->trace_id, x->parent_id);
    if (from && from->long_target)
        http_refuse(s, 414, "uri_too_long", "the request's target exceeds 8192 bytes");
    const char *problem = problem_of(s, &c, from, version);
    if (problem)
        http_refuse(s, 400, "invalid_header", problem);
    x->timeout_ms = c.timeout ? head_timeout_ms(c.timeout) : 0;
    if (c.timeout && !x->timeout_ms)
        http_refuse(s, 400, "invalid_header", "X-Request-Timeout-Ms is not a number from 1 to 86400000");
    if (c.count > HEADERS_MAX || c.bytes > HEADER_MAX_BYTES)
        http_refuse(s, 431, "headers_too_large", "the headers are too many or too large");
    take_page(s, l, &c);
    x->caller = anonymous(s->conn);
    s->close_after_reply = x->status != 0;
    s->body_bytes = c.transfer_encoding ? DISCARD_MAX_BYTES + 1 : c.length;
    /* the same header twice: a proxy in front may have looked at the other one */
    if (c.authorization == 1 && c.bearer.n)
        keys[n_keys++] = c.bearer;
    if (c.api_key == 1 && c.key.n && c.authorization < 2)
        keys[n_keys++] = c.key;
    h->handler.check(h->handler.ctx, x, keys, c.api_key > 1 ? 0 : n_keys);
    /* whoever asks first whether to send the body is told now, and then does not send it */
    const bool too_large = c.length > x->body.max;
    s->close_after_reply = s->close_after_reply || x->overfull || too_large || c.expect;
    if (too_large)
        http_refuse_body(s);
}
