/* Wire JSON becomes plain structs here and nowhere else; nothing downstream sees JSON. Every field stands in a table
 * with its type and range; an error names the field. Any thread: model and configuration are read-only. */
#ifndef DEQ_SERVER_REQUEST_H
#define DEQ_SERVER_REQUEST_H

#include "core/deq.h"
#include "server/conf.h"
#include "server/depth.h"
#include "server/work/states.h"

enum { REQUEST_STOPS_MAX = 65, JSON_DEPTH_MAX = 32, JSON_KEYS_MAX = 128, JSON_ARRAY_MAX = 4096 };
enum { BIAS_MAX = 1024, SALT_MAX_BYTES = 1024 };

struct request_error {
    int status;            /* 0: none */
    const char *code;
    char param[64];        /* JSON path, "" when none */
    char message[480];
    size_t n_prompt_tokens, n_ctx; /* of context_length_exceeded */
};

/* Prompts share cached blocks only with the same one; len 0: none. */
struct cache_salt {
    size_t len;
    char bytes[SALT_MAX_BYTES];
};

/* The model to answer with and what it allows. */
struct request_context {
    const struct deq_model *model;
    const struct conf *conf;
    const char *model_name;
    uint32_t max_positions; /* of a sequence */
    uint32_t max_rows;      /* of all choices' windows together */
};

/* What a deq object says of depth under load. */
struct depth_request {
    enum depth_mode mode;
    bool names_tol; /* tol or preset */
};

/* Fields are int64_t, float or bool, as the table in request.c fills them. */
struct completion_request {
    bool chat;      /* of messages */
    bool responses; /* /v1/responses: chat in another shape */
    struct deq_tokens *prompts; /* [n_prompts], owned */
    size_t n_prompts;
    int64_t max_tokens, n, best_of, logprobs /* -1: none */, min_tokens, truncate, priority, deadline_ms /* 0: none */,
        top_k, seed;
    bool max_given, seed_given;
    bool stream, include_usage, continuous_usage, echo, ignore_eos, token_ids, tokens_as_ids, telemetry, trace, timings,
        add_special; /* a prompt's text begins with the token for that */
    float temperature, top_p, min_p, presence_penalty, frequency_penalty, repetition_penalty;
    struct deq_solve_params solve;
    struct depth_request depth;
    enum deq_cache cache;
    size_t n_stops;
    char *stop[REQUEST_STOPS_MAX]; /* owned, like the arrays that follow */
    size_t stop_len[REQUEST_STOPS_MAX];
    struct deq_tokens stop_ids, logprob_ids;
    struct deq_form *form; /* that answers fit, owned; NULL: any */
    struct deq_logit_bias *bias;
    size_t n_bias;
    struct cache_salt salt;
    char state[STATE_NAME_MAX + 1]; /* name of the saved state that the prompts follow; "": none */
    char *told; /* what an object of /v1/responses repeats of its request: JSON members, a comma behind each; owned */
    size_t told_len;
    uint64_t token_bytes, echo_bytes; /* estimates: of a token in an answer, of the prompts' part of it */
    uint64_t user_hash; /* of `user`, for the log; 0: none */
};

struct logits_request {
    struct deq_tokens prompt;
    bool all_positions, add_special;
    struct cache_salt salt;
    struct deq_solve_params solve;
};

/* Of /v1/equilibria, which has one prompt, and /v1/embeddings. */
struct equilibria_request {
    bool embeddings;
    struct deq_tokens *prompts; /* [n_prompts], owned */
    size_t n_prompts;
    bool all_positions, mean; /* of each prompt: a row a position, or their mean; else the last one's */
    bool base64, add_special, jacobian;
    struct cache_salt salt;
    struct deq_solve_params solve;
};

struct state_request {
    struct deq_tokens prompt;
    bool add_special;
    char name[STATE_NAME_MAX + 1];  /* to save it under; "": its bytes are the answer */
    char state[STATE_NAME_MAX + 1]; /* of what stands before the prompt, or "" */
    struct cache_salt salt;
    struct deq_solve_params solve;
};

struct tokenize_request {
    struct deq_tokens tokens;
};

enum endpoint { ON_COMPLETIONS, ON_CHAT, ON_RESPONSES };

/* Each fills the struct and returns true, or fills *err (and leaves nothing to free). */
bool request_completion(const struct request_context *c, enum endpoint at, const char *body, size_t len,
                        struct completion_request *ret, struct request_error *err);
bool request_logits(const struct request_context *c, const char *body, size_t len, struct logits_request *ret,
                    struct request_error *err);
bool request_equilibria(const struct request_context *c, bool embeddings, const char *body, size_t len,
                        struct equilibria_request *ret, struct request_error *err);
void equilibria_request_free(struct equilibria_request *r);
bool request_state(const struct request_context *c, const char *body, size_t len, struct state_request *ret,
                   struct request_error *err);
bool request_tokenize(const struct request_context *c, const char *body, size_t len, struct tokenize_request *ret,
                      struct request_error *err);
bool request_detokenize(const struct request_context *c, const char *body, size_t len, struct tokenize_request *ret,
                        struct request_error *err);
/* Whether a prompt and max_tokens fit, of whatever the prompt is made; a max_tokens that was not asked for need not. */
bool request_fits(const struct request_context *c, size_t n_prompt, struct completion_request *r,
                  struct request_error *err);
void completion_request_free(struct completion_request *r);
/* What those bodies may hold. */
struct fields; /* fields.h */
extern const struct fields completion_fields, chat_fields, responses_fields, logits_fields, equilibria_fields,
    embeddings_fields, state_fields, tokenize_fields, detokenize_fields;
/* Tolerances of deq.preset for a model, within the server's bounds: fast, balanced, exact. */
enum { PRESETS = 3 };
extern const char *const request_preset_names[PRESETS];
/* How a chat becomes text here: the configuration's template, the model's own, or the default. */
struct chat_template {
    const char *source; /* configuration, model, default */
    const char *begin, *message, *reply, *stop; /* "": nothing */
};
struct chat_template request_chat_template(const struct request_context *c);
/* The same as a template of Jinja2, as tokenizers have them. */
void request_chat_jinja(const struct chat_template *t, struct deq_buf *out);
float request_preset_tol(const struct conf *c, const struct deq_model_info *i, int preset);

#endif
