/* JSON that goes out. Small objects are built with jansson; what is written for every token is appended as text, which
 * costs a twentieth. All functions append to a buffer and report failure through it. Any thread. */
#ifndef DEQ_SERVER_REPLY_H
#define DEQ_SERVER_REPLY_H

#include <jansson.h>

#include "core/base/buf.h"
#include "core/deq.h"

/* {"error": {"message", "type", "param", "code"}}; type follows from the status. param: JSON path of the field, or
 * NULL. */
void reply_error(struct deq_buf *out, int status, const char *code, const char *param, const char *message);
/* Two more numbers for context_length_exceeded. */
void reply_length_error(struct deq_buf *out, const char *param, const char *message, size_t n_prompt_tokens,
                        size_t n_ctx);
/* Takes the object. */
void reply_json(struct deq_buf *out, json_t *object);
/* A setting as somebody wrote it: 0.01, not the 0.00999999978 that the float holds. */
json_t *reply_setting(float x);
/* Text that is valid UTF-8 already. */
json_t *reply_text(const char *s, size_t n);

/* "..." with its escapes; s is valid UTF-8. */
void reply_string(struct deq_buf *out, const char *s, size_t n);
/* The same of a buffer's bytes; when that failed, so does out. */
void reply_buf(struct deq_buf *out, const struct deq_buf *s);
/* [...] of entries that have a comma behind each. */
void reply_list(struct deq_buf *out, const struct deq_buf *entries);
/* 9 digits: a float survives the way through text. What is not finite becomes -9999, which clients know for log(0). */
void reply_number(struct deq_buf *out, float x);
/* The same of a residual, which of a state that nothing was evaluated at is NaN: null. */
void reply_residual(struct deq_buf *out, float x);

/* Bytes as a string of base64. */
void reply_base64(struct deq_buf *out, const void *bytes, size_t n);

/* What the solver reached at the positions whose numbers are an answer. Zeroed: none yet. */
struct reply_reached {
    size_t positions;
    double iters_sum, residual_max;
    uint32_t iters_max;
    bool missed; /* some did not converge */
};
void reply_reached_add(struct reply_reached *r, const struct deq_event *e);
/* {"tol", "iters_mean", "iters_max", "residual_max", "converged"}; of a tolerance as it was asked for. */
void reply_reached(struct deq_buf *out, float tol, const struct reply_reached *r);

#endif
