/* What the lines of a request's head say, and what there is to say against them: what could mean one thing to us and
 * another to a proxy in front (request smuggling), and what no honest client sends. Pure functions of the buffer in
 * which libmicrohttpd has the head, which is theirs to change: a value that is kept ends in a zero there. */
#ifndef DEQ_SERVER_HEAD_H
#define DEQ_SERVER_HEAD_H

#include "server/auth.h"
#include "server/net/header.h"

enum { HEAD_HOST_MAX_BYTES = 512 };

/* Zeroed, then head_add for every line. */
struct head {
    unsigned content_length, transfer_encoding, host, authorization, api_key, origins, count;
    size_t bytes;
    uint64_t length;
    const char *problem;
    const char *end; /* of the value before, in libmicrohttpd's buffer */
    struct credential bearer, key; /* of Authorization, of x-api-key */
    struct header_weight octets, json;
    bool is_encoded, browser;
    /* the first value of each, without the blanks round it; or NULL */
    const char *host_value, *origin, *site, *mode, *content_type, *none_match, *expect, *id, *traceparent, *timeout,
        *ask_method, *ask_headers, *ask_private;
};

/* A line as libmicrohttpd cuts it: value lies behind key in the buffer, two zeros behind it stand for CRLF. What is
 * wrong with it goes to c->problem. */
void head_add(struct head *c, const char *key, size_t key_len, const char *value, size_t value_len);
/* RFC 9110: what a name or a method may be. */
bool head_is_token(const char *s, size_t n);
/* libmicrohttpd reads Content-Length and Transfer-Encoding before it shows them, with the blanks behind them. Blanks
 * may stand before a value as well: they are moved there, in the lines that have come along with the request's first.
 * Behind what has come the buffer is zero; nothing past this page is looked at, since the buffer may end there. */
void head_move_blanks(char *line);
/* Whether a client's X-Request-Id may be repeated. */
bool head_id_is_printable(const char *id);
/* W3C Trace Context, version 00: 00-<32 hex>-<16 hex>-<2 hex>, ids not all zero; anything else, and NULL, counts as
 * absent. */
bool head_trace(const char *v, char ret_trace[33], char ret_parent[17]);
/* RFC 9112 3.2.2: the path behind http://HOST, and the host, which counts instead of the header's. Other targets stay
 * as they are. */
const char *head_path_of_target(const char *target, const char **host, char ret_host[HEAD_HOST_MAX_BYTES]);
/* X-Request-Timeout-Ms. 0: not a number in its range. */
uint32_t head_timeout_ms(const char *text);

#endif
