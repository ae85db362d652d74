/* Wire JSON becomes plain structs here and nowhere else; nothing downstream sees JSON. Every field is checked for type and range; the error names it. */
#ifndef DEQ_SERVER_REQUEST_H
#define DEQ_SERVER_REQUEST_H

#include "core/deq.h"
#include "server/conf.h"

enum { REQUEST_STOPS_MAX = 64, JSON_DEPTH_MAX = 16, JSON_KEYS_MAX = 64, JSON_ARRAY_MAX = 1 << 20 };

struct request_error {
    int status;            /* 0: none */
    const char *code;
    char param[64];        /* JSON path, "" when none */
    char message[480];
    size_t n_prompt_tokens, n_ctx; /* of context_length_exceeded */
};

/* The model to answer with and what it allows. */
struct request_context {
    const struct deq_model *model;
    const struct conf *conf;
    const char *model_name;
    uint32_t max_positions;
};

struct completion_request {
    struct deq_tokens prompt;
    uint32_t max_tokens;
    bool stream, include_usage, ignore_eos;
    int logprobs;          /* -1: none */
    struct deq_sampling sampling;
    struct deq_solve_params solve;
    size_t n_stops;
    char *stop[REQUEST_STOPS_MAX]; /* owned */
    size_t stop_len[REQUEST_STOPS_MAX];
};

struct logits_request {
    struct deq_tokens prompt;
    bool all_positions;
    struct deq_solve_params solve;
};

struct tokenize_request {
    struct deq_tokens tokens;
};

struct detokenize_request {
    struct deq_tokens tokens;
};

/* Each fills the struct and returns true, or fills *err (and leaves nothing to free). */
bool request_completion(const struct request_context *c, const char *body, size_t len, struct completion_request *ret, struct request_error *err);
bool request_logits(const struct request_context *c, const char *body, size_t len, struct logits_request *ret, struct request_error *err);
bool request_tokenize(const struct request_context *c, const char *body, size_t len, struct tokenize_request *ret, struct request_error *err);
bool request_detokenize(const struct request_context *c, const char *body, size_t len, struct detokenize_request *ret, struct request_error *err);
void completion_request_free(struct completion_request *r);

#endif
