/* A request's head: who asks, by which id, whether it can be trusted. Refuses what could mean one thing to us and another to a proxy in front (request
 * smuggling), and what no honest client sends. libmicrohttpd shows headers after it has cut them; what it does not show is read off its buffer. */
#define _GNU_SOURCE
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/rng.h"
#include "server/http_impl.h"
#include "server/reply.h"

enum {
    HEADER_MAX_BYTES = 32 << 10,
    HEADERS_MAX = 100,
    TARGET_MAX_BYTES = 8 << 10,
    TIMEOUT_MAX_MS = 86400000,
};

/* Refuses what could mean one thing to us and another to a proxy in front (request smuggling), and headers that no honest client sends. */
struct header_check {
    unsigned content_length, transfer_encoding, host, keys, count;
    size_t bytes;
    uint64_t length;
    const char *problem;
    const char *key; /* of the Authorization or x-api-key header */
    size_t key_len;
    const char *end; /* of the value before, in libmicrohttpd's buffer */
};

/* RFC 9110: a name is a token. */
static bool is_token(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!strchr("!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz", s[i]) || !s[i])
            return false;
    return n > 0;
}

static bool is_name(const char *key, size_t n, const char *name)
{
    return n == strlen(name) && !strcasecmp(key, name);
}

static enum MHD_Result check_header(void *cls, enum MHD_ValueKind kind, const char *key, size_t key_len, const char *value, size_t value_len)
{
    struct header_check *c = cls;
    (void)kind;
    c->count++;
    c->bytes += key_len + value_len;
    /* Lines lie in the buffer one behind the other, two zeros between them where CRLF stood. A gap is what libmicrohttpd does not show: a zero byte in
     * the line, which cuts the value; a folded line, which it takes for part of the name; a bare LF. */
    if (c->end && key != c->end + 2)
        c->problem = "a header line is folded, holds a zero byte or does not end in CRLF";
    c->end = value + value_len;
    if (key + key_len >= value)
        c->problem = "a header is folded";
    for (const char *p = key + key_len + 1; p < value; p++)
        if (*p != ' ' && *p != '\t')
            c->problem = "a header is folded";
    for (size_t i = 0; i < value_len; i++)
        if (((unsigned char)value[i] < 0x20 && value[i] != '\t') || value[i] == 0x7f)
            c->problem = "a header holds a control character";
    if (!is_token(key, key_len))
        c->problem = "a header's name holds what no name may hold";
    c->host += is_name(key, key_len, "Host");
    if (is_name(key, key_len, "Content-Length")) {
        c->content_length++;
        if (!value_len || value_len > 18 || strspn(value, "0123456789") != value_len)
            c->problem = "Content-Length is not a number";
        else
            c->length = strtoull(value, NULL, 10);
    }
    if (is_name(key, key_len, "Authorization")) {
        const bool bearer = value_len > 7 && !strncasecmp(value, "Bearer ", 7);
        c->keys++;
        c->key = bearer ? value + 7 : "";
        c->key_len = bearer ? value_len - 7 : 0;
    }
    if (is_name(key, key_len, "x-api-key")) {
        c->keys++;
        c->key = value;
        c->key_len = value_len;
    }
    if (is_name(key, key_len, "Transfer-Encoding")) {
        c->transfer_encoding++;
        if (!is_name(value, value_len, "chunked"))
            c->problem = "Transfer-Encoding other than chunked";
    }
    return MHD_YES;
}

/* The request's target as it came, before libmicrohttpd cuts it: a zero byte in it, or controls, or more of it than anybody needs. */
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
    /* No path of ours takes a query. Behind the '?' it would be cut into pieces that fill libmicrohttpd's memory; it is ended here. */
    char *query = strchr((char *)(uintptr_t)uri, '?');
    if (query && query[1])
        query[1] = 0;
    return NULL;
}

static bool printable_id(const char *id)
{
    size_t n = 0;
    for (; id[n]; n++)
        if (id[n] < 0x21 || id[n] > 0x7e || id[n] == '"' || id[n] == '\\')
            return false;
    return n > 0 && n <= 128;
}

/* W3C Trace Context, version 00: 00-<32 hex>-<16 hex>-<2 hex>, ids not all zero; anything else counts as absent. */
static void take_traceparent(struct exchange *x, const char *v)
{
    static const int dashes[] = {2, 35, 52};
    if (!v || strlen(v) != 55 || strncmp(v, "00-", 3) || strspn(v, "0123456789abcdef-") != 55)
        return;
    size_t n_dashes = 0;
    for (size_t i = 0; i < 55; i++)
        n_dashes += v[i] == '-';
    for (size_t i = 0; i < DEQ_COUNT(dashes); i++)
        if (v[dashes[i]] != '-')
            return;
    if (n_dashes != 3 || strspn(v + 3, "0") >= 32 || strspn(v + 36, "0") >= 16)
        return;
    memcpy(x->trace_id, v + 3, 32);
    memcpy(x->parent_id, v + 36, 16);
}

void http_refuse(struct exchange *x, int status, const char *code, const char *message)
{
    if (x->status)
        return; /* the first reason counts */
    x->status = status;
    reply_error(&x->reply, status, code, NULL, message);
}

static struct caller anonymous(struct MHD_Connection *conn)
{
    const union MHD_ConnectionInfo *i = MHD_get_connection_info(conn, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    const struct sockaddr *a = i ? i->client_addr : NULL;
    if (a && a->sa_family == AF_INET)
        return auth_anonymous(&((const struct sockaddr_in *)(const void *)a)->sin_addr, 4);
    if (a && a->sa_family == AF_INET6 && IN6_IS_ADDR_V4MAPPED(&((const struct sockaddr_in6 *)(const void *)a)->sin6_addr))
        return auth_anonymous((const char *)&((const struct sockaddr_in6 *)(const void *)a)->sin6_addr + 12, 4);
    if (a && a->sa_family == AF_INET6)
        return auth_anonymous(&((const struct sockaddr_in6 *)(const void *)a)->sin6_addr, 8); /* the /64: one customer's */
    return auth_anonymous("", 0);
}

/* What the headers decide: an answer, or that the body is wanted. */
void http_check_head(struct request_state *s, const struct socket_state *from, const char *version)
{
    struct http *h = s->http;
    struct exchange *x = &s->x;
    struct header_check c = {0};
    MHD_get_connection_values_n(s->conn, MHD_HEADER_KIND, check_header, &c);
    const char *id = MHD_lookup_connection_value(s->conn, MHD_HEADER_KIND, "X-Request-Id");
    if (id && printable_id(id))
        snprintf(x->request_id, sizeof x->request_id, "%s", id);
    else
        snprintf(x->request_id, sizeof x->request_id, "%016llx",
                 (unsigned long long)deq_rng_u64(h->run_id, 0, atomic_fetch_add(&h->next_request, 1)));
    x->accept = MHD_lookup_connection_value(s->conn, MHD_HEADER_KIND, "Accept");
    x->content_type = MHD_lookup_connection_value(s->conn, MHD_HEADER_KIND, "Content-Type");
    take_traceparent(x, MHD_lookup_connection_value(s->conn, MHD_HEADER_KIND, "traceparent"));
    /* behind the last header stands the empty line, and there the head ends: else the last header went on, or a line began with ':' or a zero byte, which
     * libmicrohttpd takes for the end */
    const union MHD_ConnectionInfo *size = MHD_get_connection_info(s->conn, MHD_CONNECTION_INFO_REQUEST_HEADER_SIZE);
    if (c.end && (!size || c.end + 4 != x->method + size->header_size))
        c.problem = "the last header line is folded, holds a zero byte or does not end in CRLF, or another has no name";
    if (c.host > 1)
        c.problem = "Host given twice";
    if (c.transfer_encoding && strcmp(version, "HTTP/1.1"))
        c.problem = "Transfer-Encoding in a request that is not HTTP/1.1";
    if (from && (from->bad_target || x->method + strlen(x->method) + 1 != x->path || from->target_end != version || !is_token(x->method, strlen(x->method))))
        c.problem = "the request line holds a zero byte, a control character or further blanks";
    if (c.content_length > 1 || c.transfer_encoding > 1 || (c.content_length && c.transfer_encoding))
        c.problem = "Content-Length or Transfer-Encoding given twice or together";
    const char *timeout = MHD_lookup_connection_value(s->conn, MHD_HEADER_KIND, "X-Request-Timeout-Ms");
    if (timeout) {
        const size_t n = strlen(timeout);
        x->timeout_ms = n && n < 9 && strspn(timeout, "0123456789") == n ? (uint32_t)strtoul(timeout, NULL, 10) : 0;
        if (!x->timeout_ms || x->timeout_ms > TIMEOUT_MAX_MS)
            c.problem = "X-Request-Timeout-Ms is not a number from 1 to 86400000";
    }
    if (from && from->long_target)
        http_refuse(x, 414, "uri_too_long", "the request's target exceeds 8192 bytes");
    if (c.problem)
        http_refuse(x, 400, "invalid_header", c.problem);
    if (c.count > HEADERS_MAX || c.bytes > HEADER_MAX_BYTES)
        http_refuse(x, 431, "headers_too_large", "the headers are too many or too large");
    x->caller = anonymous(s->conn);
    s->last_word = x->status != 0;
    s->body_bytes = c.transfer_encoding ? DISCARD_MAX_BYTES + 1 : c.length;
    h->handler.check(h->handler.ctx, x, c.keys == 1 ? c.key : NULL, c.keys > 1 ? 1 : c.keys ? c.key_len : 0);
    /* whoever asks first whether to send the body is told now, and then does not send it */
    s->last_word = s->last_word || x->overfull || c.length > h->conf->max_body_bytes || MHD_lookup_connection_value(s->conn, MHD_HEADER_KIND, "Expect");
    if (c.length > h->conf->max_body_bytes)
        http_refuse(x, 413, "body_too_large", "the body exceeds server.max_body_bytes");
}
