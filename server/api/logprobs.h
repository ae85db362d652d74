/* Log-probabilities of tokens on their way into an answer. Where a token is picked they are numbers, found in its
 * logits; where the answer is written they become JSON lists that grow by an entry a token, in one of two forms. The
 * completions endpoint has four lists side by side: tokens, their values, maps of alternatives, offsets in the text.
 * Chats, and /v1/responses, have one list of objects. On the thread of whoever owns the lists. */
#ifndef DEQ_SERVER_LOGPROBS_H
#define DEQ_SERVER_LOGPROBS_H

#include "core/base/buf.h"
#include "server/api/request.h"

/* A comma stands behind every entry. */
struct logprob_lists {
    struct deq_buf tokens; /* strings; of chats objects, and the other lists stay empty */
    struct deq_buf values, top, offsets;
};

struct logprob {
    uint32_t token;
    float value;
};

struct logprob_entry {
    struct logprob token;
    bool predicted;            /* else it is the first of a text, and has no value */
    size_t offset;             /* where its text begins, in characters */
    const struct logprob *top; /* [n_top] tokens that could have stood there, each once */
    size_t n_top;
};

void logprobs_init(struct logprob_lists *l, size_t max_bytes, struct deq_allowance *allowance);
void logprobs_free(struct logprob_lists *l);
/* Appends the alternatives that r asks for, as struct logprob: the most probable tokens, and those of
 * logprob_token_ids. Returns how many. logits: [vocab_size]; n: their normaliser. */
size_t logprobs_find(const struct completion_request *r, const float *logits, uint32_t vocab_size,
                     const struct deq_log_normaliser *n, struct deq_buf *out);
void logprobs_add(struct logprob_lists *l, const struct completion_request *r, const struct deq_model *model,
                  const struct logprob_entry *e);
/* Behind what `to` has, all of `from`. */
void logprobs_append(struct logprob_lists *to, const struct logprob_lists *from);

#endif
