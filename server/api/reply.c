#include "server/api/reply.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/json.h"
#include "core/base/utf8.h"

enum {
    FLOAT_DIGITS = 9,  /* a float survives the way through text */
    ERROR_BYTES = 160, /* of most errors, beside the message */
};

static const char *error_type(int status)
{
    switch (status) {
    case 401: return "authentication_error";
    case 403: return "permission_error";
    case 404: return "not_found_error";
    case 408:
    case 504: return "timeout_error";
    case 429: return "rate_limit_error";
    case 501: return "not_supported_error";
    case 503: return "unavailable_error";
    default: return status >= 500 ? "server_error" : "invalid_request_error";
    }
}

void reply_json(struct deq_buf *out, json_t *object)
{
    char *text = deq_json_text(object, JSON_COMPACT | JSON_REAL_PRECISION(FLOAT_DIGITS));
    if (text)
        deq_buf_str(out, text);
    else
        deq_buf_fail(out);
    free(text); /* jansson's */
    json_decref(object);
}

/* A C string or null; what is not UTF-8 makes out fail. */
static void add_value(struct deq_buf *out, const char *before, const char *s)
{
    deq_buf_str(out, before);
    if (!s)
        deq_buf_str(out, "null");
    else if (deq_utf8_valid(s, strlen(s)))
        reply_string(out, s, strlen(s));
    else
        deq_buf_fail(out);
}

static void begin_error(struct deq_buf *out, int status, const char *code, const char *param, const char *message)
{
    deq_buf_reserve(out, out->len + strlen(message) + ERROR_BYTES);
    add_value(out, "{\"error\":{\"message\":", message);
    add_value(out, ",\"type\":", error_type(status));
    add_value(out, ",\"param\":", param);
    add_value(out, ",\"code\":", code);
}

void reply_error(struct deq_buf *out, int status, const char *code, const char *param, const char *message)
{
    begin_error(out, status, code, param, message);
    deq_buf_str(out, "}}");
}

void reply_length_error(struct deq_buf *out, const char *param, const char *message, size_t n_prompt_tokens,
                        size_t n_ctx)
{
    begin_error(out, 400, "context_length_exceeded", param, message);
    deq_buf_fmt(out, ",\"n_prompt_tokens\":%zu,\"n_ctx\":%zu}}", n_prompt_tokens, n_ctx);
}

json_t *reply_setting(float x)
{
    char text[32];
    snprintf(text, sizeof text, "%.6g", (double)x);
    return json_real(strtod(text, NULL));
}

json_t *reply_text(const char *s, size_t n)
{
    return json_stringn(s ? s : "", n);
}

void reply_string(struct deq_buf *out, const char *s, size_t n)
{
    size_t plain = 0;
    deq_buf_add(out, "\"", 1);
    for (size_t i = 0; i < n; i++) {
        const unsigned char c = (unsigned char)s[i];
        if (c >= 0x20 && c != '"' && c != '\\')
            continue;
        deq_buf_add(out, s + plain, i - plain);
        plain = i + 1;
        if (c == '"' || c == '\\')
            deq_buf_fmt(out, "\\%c", c);
        else if (c == '\n')
            deq_buf_add(out, "\\n", 2);
        else
            deq_buf_fmt(out, "\\u%04x", c);
    }
    deq_buf_add(out, s + plain, n - plain);
    deq_buf_add(out, "\"", 1);
}

void reply_buf(struct deq_buf *out, const struct deq_buf *s)
{
    if (deq_buf_carry(out, s))
        reply_string(out, s->data ? s->data : "", s->len);
}

void reply_list(struct deq_buf *out, const struct deq_buf *entries)
{
    const struct deq_buf list = {
        .data = entries->data, .len = entries->len - (entries->len > 0), .failed = entries->failed};
    deq_buf_str(out, "[");
    deq_buf_append(out, &list);
    deq_buf_str(out, "]");
}

void reply_residual(struct deq_buf *out, float x)
{
    if (isnan(x))
        deq_buf_str(out, "null");
    else
        reply_number(out, x);
}

void reply_number(struct deq_buf *out, float x)
{
    if (isfinite(x))
        deq_buf_fmt(out, "%.9g", (double)x);
    else
        deq_buf_str(out, "-9999.0");
}

void reply_base64(struct deq_buf *out, const void *bytes, size_t n)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const unsigned char *b = bytes;
    deq_buf_add(out, "\"", 1);
    for (size_t i = 0; i < n; i += 3) {
        const size_t have = DEQ_MIN(n - i, (size_t)3);
        const uint32_t x = (uint32_t)b[i] << 16 | (have > 1 ? (uint32_t)b[i + 1] << 8 : 0) | (have > 2 ? b[i + 2] : 0u);
        char four[4] = {digits[x >> 18], digits[x >> 12 & 63], digits[x >> 6 & 63], digits[x & 63]};
        memset(four + have + 1, '=', 3 - have);
        deq_buf_add(out, four, sizeof four);
    }
    deq_buf_add(out, "\"", 1);
}

void reply_reached_add(struct reply_reached *r, const struct deq_event *e)
{
    r->positions++;
    r->iters_sum += e->evaluations;
    r->iters_max = DEQ_MAX(r->iters_max, e->evaluations);
    r->residual_max = fmax(r->residual_max, (double)e->residual);
    r->missed = r->missed || !e->converged;
}

void reply_reached(struct deq_buf *out, float tol, const struct reply_reached *r)
{
    reply_json(out, json_pack("{s:o, s:f, s:i, s:o, s:b}", "tol", reply_setting(tol), "iters_mean",
                              r->iters_sum / (double)r->positions, "iters_max", (int)r->iters_max, "residual_max",
                              r->iters_max ? json_real(r->residual_max) : json_null(), "converged", (int)!r->missed));
}
