/* libdeq: deep equilibrium language models, loaded, solved and sampled. The one door into the library.
 *
 *     struct deq_err err;
 *     struct deq_model *model;
 *     struct deq_engine *engine;
 *     if (deq_model_load("models/stories", NULL, &model, &err) ||
 *         deq_engine_new(model, &(struct deq_engine_opts){.threads = 2}, &engine, &err))
 *         return fprintf(stderr, "%s\n", err.text), 1;
 *     struct deq_tokens prompt = {0};
 *     deq_encode(model, "Once upon a time", 16, false, &prompt, &err);
 *     struct deq_request request = deq_request_defaults(model);
 *     request.prompt = prompt.ids;
 *     request.n_prompt = prompt.n;
 *     request.max_tokens = 100;
 *     request.event = on_event;           // enum deq_verdict on_event(void *ctx, const struct deq_event *e):
 *                                         // print e->token's bytes
 *     deq_submit(engine, &request, NULL, &err);
 *     while (deq_active(engine))
 *         deq_step(engine);               // one evaluation of the cell on every open row of every sequence
 *     deq_engine_free(engine);
 *     deq_tokens_free(&prompt);
 *     deq_model_free(model);
 *
 * A deep equilibrium model (Bai, Kolter, Koltun, NeurIPS 2019) has one cell f instead of a stack of layers; the state
 * of position t is the root z*_t of z = f(z; tokens up to t). The engine seeks the roots of many positions of many
 * sequences at once, one evaluation of f a step for all of them; see core/engine/engine.h.
 *
 * Errors: functions return DEQ_OK or a negative code and fill the caller's struct deq_err (may be NULL). Nothing is
 * logged, nothing exits. Results are written only on success.
 * Ownership: *_new and *_load give an object to the caller, *_free takes it (NULL too). Pointers in requests are
 * borrowed until deq_submit returns; pointers in events until the callback returns; strings of a model are the model's.
 * What is made of a model (engines, states, forms) is freed before it.
 * Threads: a model is immutable and may be used by any thread. An engine belongs to one thread at a time; it
 * brings its own compute threads, which a fork does not take along.
 * Versions: a program runs with the minor version that it was compiled with, which the soname has (libdeq.so.0.1);
 * within it nothing changes. In the next one structs may have more fields: one that is made zero or by
 * deq_request_defaults means the same there. */
#ifndef DEQ_H
#define DEQ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/rc.h" /* this and what follows is of the door too: core/one_header.awk makes one header of all */
#include "core/base/bytes.h"
#include "core/base/tokens.h"
#include "core/base/pin.h"
#include "core/base/stop.h"
#include "core/math/class.h"
#include "core/solve/terms.h"
#include "core/text/stream.h"
#include "core/form/kinds.h"
#include "core/engine/state.h"
#include "core/engine/trace.h"
#include "core/engine/logprob.h"
#include "core/engine/stats.h"

const char *deq_version(void); /* of the library that runs: "0.1.0" */

/* --- Models --- */

struct deq_model;

/* Loads config.json, model.safetensors and tokenizer.json of a directory, checks everything, packs the weights.
 * numeric: the class to compute in; NULL: the model's own. */
enum deq_rc deq_model_load(const char *dir, const enum deq_class *numeric, struct deq_model **ret_model,
                           struct deq_err *err);
/* The same, given up by DEQ_ECANCELED when stop says so, which is asked before each tensor. */
enum deq_rc deq_model_load_until(const char *dir, const enum deq_class *numeric, const struct deq_stop *stop,
                                 struct deq_model **ret_model, struct deq_err *err);
void deq_model_free(struct deq_model *model);

/* What a kind of cell says of itself: a key of config.json and its value as in JSON, texts without quotes. */
enum deq_fact_type { DEQ_FACT_NUMBER, DEQ_FACT_BOOL, DEQ_FACT_TEXT };
struct deq_fact {
    const char *key;
    enum deq_fact_type type;
    char value[32];
};
enum { DEQ_FACTS_MAX = 32 };

struct deq_model_info {
    const char *model_type;        /* "deq_transformer" */
    const struct deq_fact *facts;  /* [n_facts] the kind's own */
    size_t n_facts;
    uint32_t vocab_size, d_model, state_dim, lookback; /* lookback: positions before its own that a position reads */
    uint32_t max_positions;        /* a text has at most as many; 0: any number */
    uint64_t parameters;           /* of these, outside embedding, head and predictor; and the predictor's: */
    uint64_t non_embedding_parameters, predictor_parameters;
    uint64_t step_madds;           /* multiply-adds of one evaluation of a row, in matrix products */
    uint64_t weight_bytes;         /* packed, as held in memory */
    uint64_t cache_bytes_per_token;
    int64_t eos_id, bos_id;        /* what ends a text; what stands before one that begins a sequence. -1: none */
    int64_t start_id;              /* what a text of no tokens is: bos_id, else eos_id */
    const char *dtype;             /* of its file: "bf16" */
    enum deq_class numeric;        /* what it is computed in */
    const char *kernels;           /* CPU level: "avx512" */
    enum deq_solver_method solver; /* the model's defaults; core/solve/terms.h */
    enum deq_warm warm_start;
    enum deq_stop_rule stop;
    float tol, tol_fast, tol_exact; /* the default; what the presets fast and exact stand for */
    uint32_t max_iter, memory, window, prefill_window;
    bool has_predictor, has_proposal; /* it can start from them */
    const char *fingerprint;       /* of weights and configuration, 16 hexadecimal digits */
    /* the model's template of a chat (models/FORMAT.md); "": none */
    const char *chat_begin, *chat_message, *chat_reply, *chat_stop;
};
struct deq_model_info deq_model_info(const struct deq_model *model);

/* Chooses a CPU level (all give the same bits) before any model is loaded; false when this machine lacks it. */
bool deq_kern_force(const char *level);

/* --- Text (struct deq_text, which shows generated bytes up to a stop string: core/text/stream.h) --- */

/* Appends the tokens of text. parse_special: the names of special tokens in it become those tokens. */
enum deq_rc deq_encode(const struct deq_model *model, const char *text, size_t len, bool parse_special,
                       struct deq_tokens *out, struct deq_err *err);
/* The same, where only ranges of the text are the caller's own: special tokens are recognised within one of the n,
 * which ascend and are apart. */
enum deq_rc deq_encode_ranges(const struct deq_model *model, const char *text, size_t len,
                              const struct deq_range *special, size_t n, struct deq_tokens *out, struct deq_err *err);
/* The token that stands before a text which begins a sequence is put there, unless the model has none or the text
 * begins with it. False: no memory, and the text is as it was. */
bool deq_begin_text(const struct deq_model *model, struct deq_tokens *text);
/* The bytes of a token (any bytes: a token may hold part of a character); NULL when there is no such token. */
const char *deq_token_bytes(const struct deq_model *model, uint32_t id, size_t *ret_len);
bool deq_token_is_special(const struct deq_model *model, uint32_t id);
/* What the token adds to a shown text in which token prev stands before it (-1: none): its bytes; of a word-level model
 * also the blank before a word. NULL for a special token, unless the tokenizer makes text of it (a line end). */
const char *deq_token_text(const struct deq_model *model, int64_t prev, uint32_t id, size_t *ret_len);

/* --- Engine --- */

struct deq_engine;

struct deq_engine_opts { /* 0 means the default */
    uint32_t threads;       /* compute threads, the caller's included (default: 1) */
    enum deq_pin pin;       /* whether each keeps to a core of its own (default: auto; core/base/cores.h) */
    uint32_t max_sequences; /* active at once (default: 32) */
    uint32_t max_rows;      /* rows of one evaluation (default: max_sequences * 8, at least 64) */
    uint32_t max_positions; /* prompt + generated tokens (default: 8 times what a position sees, at least 2048); never
                             * more than the model's own */
    uint64_t cache_bytes;   /* pages of positions (default: what max_sequences full windows need) */
    uint32_t prefill_block; /* a prompt's window drains at multiples of this, and the prefix cache holds such blocks
                             * (default: 128; a multiple of 16) */
};
enum deq_rc deq_engine_new(const struct deq_model *model, const struct deq_engine_opts *opts,
                           struct deq_engine **ret_engine, struct deq_err *err);
/* Checks all that deq_model_load and deq_engine_new would check of a directory, but for the weights' values, and says
 * what they would reserve. Reads configuration, tokenizer and headers only. */
struct deq_memory {
    uint64_t weight_bytes, engine_bytes;
    uint64_t load_bytes; /* while loading, beside the weights: given back before the engine takes its own */
};
enum deq_rc deq_check(const char *dir, const enum deq_class *numeric, const struct deq_engine_opts *opts,
                      struct deq_memory *ret, struct deq_err *err);
void deq_engine_free(struct deq_engine *engine); /* ends what is active, without events */

struct deq_logit_bias { uint32_t token; float bias; };

struct deq_sampling {
    float temperature; /* 0: greedy, the lowest id wins ties */
    float top_p;       /* 1: off; 0: the most probable token */
    float min_p;       /* 0: off; relative to the most probable token */
    uint32_t top_k;    /* 0: off */
    uint64_t seed;     /* the draw at a position is a function of (seed, choice, position) and the logits */
    /* What follows changes the logits that tokens are picked from, in this order; events carry them unchanged.
     * Arrays are borrowed until END. */
    const struct deq_logit_bias *bias; /* [n_bias] added; -100 and below forbids the token, 100 and above forces it */
    size_t n_bias;
    float repetition_penalty;          /* on tokens of prompt and text: positive logits are divided by it, negative
                                        * ones multiplied; 0, 1: off */
    float presence_penalty, frequency_penalty; /* subtracted, on tokens generated so far: once, and times their count */
    uint32_t min_tokens;               /* before that many are generated, eos and these are not picked: */
    const uint32_t *stop_ids;          /* [n_stop_ids] */
    size_t n_stop_ids;
};

enum deq_finish {
    DEQ_FINISH_LENGTH,
    DEQ_FINISH_EOS,
    DEQ_FINISH_STOP,
    DEQ_FINISH_CANCELED,
    DEQ_FINISH_NUMERIC,
    DEQ_FINISH_DEADLINE,
    DEQ_FINISH_BUDGET, /* max_evaluations */
    DEQ_FINISH_COUNT
};
/* "length", "stop" (both kinds), "cancelled", "numeric_error", "deadline", "budget" */
const char *deq_finish_name(enum deq_finish f);

/* Equilibria of whole blocks of a prompt are kept and found again, with the same bits as a fresh solve.
 * APPROXIMATE also takes blocks that generation produced, whose bits differ within the tolerance. OFF
 * neither takes nor leaves any. */
enum deq_cache { DEQ_CACHE_EXACT, DEQ_CACHE_APPROXIMATE, DEQ_CACHE_OFF, DEQ_CACHE_COUNT };

enum deq_event_kind { DEQ_EVENT_PROMPT, DEQ_EVENT_TOKEN, DEQ_EVENT_DROPPED, DEQ_EVENT_END };
struct deq_event {
    enum deq_event_kind kind;
    uint64_t id;
    uint32_t choice;       /* 0.. n-1 */
    /* PROMPT (with want_prompt or states): position p of the prompt is solved, and TOKEN: the token
     * after position p was picked; DROPPED (with want_trace): p's row left the window, not final */
    size_t position;
    const float *state;    /* [state_dim] f(z) there, of PROMPT and TOKEN */
    uint32_t token;        /* TOKEN: the pick; DROPPED: the guess that stood at p */
    const float *logits;   /* [V] at `position`; NULL unless want_prompt or want_logits */
    uint32_t evaluations;  /* of this row */
    float residual;        /* NaN: nothing was evaluated */
    bool converged;        /* residual < tol, or tol 0 */
    enum deq_warm start;   /* where its iterates began */
    bool start_cached;     /* the state that it began from came from the prefix cache */
    float spectral_radius; /* of PROMPT, with products: the estimate */
    const struct deq_trace *trace; /* of TOKEN and DROPPED with want_trace, else NULL */
    /* END */
    enum deq_finish finish;
    const char *message;   /* of NUMERIC */
    uint64_t prompt_evaluations; /* over the positions of the prompt that were solved for this request */
    uint64_t text_evaluations;   /* over those behind it */
    size_t prompt_positions;
    float prompt_residual_max; /* over all its positions, those that came from the prefix cache too; or NaN */
    bool prompt_converged;     /* all of them */
    float tol_max;             /* the largest tolerance of a position: the request's, or deq_set_tol's */
};
enum deq_verdict { DEQ_CONTINUE, DEQ_STOP };

/* PROMPT events without logits: of the last position, or of all, and then nothing is taken from the cache. */
enum deq_states { DEQ_STATES_NONE, DEQ_STATES_LAST, DEQ_STATES_ALL };

struct deq_request {
    const uint32_t *prompt; /* [n_prompt], at least one token, or none behind a state */
    size_t n_prompt;
    const struct deq_state *state; /* what stands before the prompt, or NULL; then nothing is left in the cache */
    struct deq_state *keep; /* of all tokens before the answer: receives their state; borrowed until END; or NULL */
    uint32_t max_tokens;    /* 0: solve the prompt only */
    bool ignore_eos;
    struct deq_form *form;  /* that each choice fits (core/form/kinds.h); NULL: any text. The engine shares it */
    uint32_t n; /* choices: the prompt is solved once, then continued n times; 0 means 1. n needs max_tokens */
    bool want_prompt;       /* PROMPT events with logits for every position but the last of a prompt that is continued;
                             * nothing is taken from the cache */
    bool want_logits;       /* TOKEN events carry logits */
    bool want_trace;        /* TOKEN events carry traces, and there are DROPPED ones */
    enum deq_states states; /* of a prompt that is not continued */
    uint32_t products;      /* with states: by so many products the spectral radius of f's Jacobian is estimated at the
                             * last position (core/engine/jacobian.c); 0: none */
    struct deq_sampling sampling;
    struct deq_solve_params solve;
    enum deq_cache cache;
    const char *cache_salt; /* [cache_salt_len] requests share cached blocks only with the same salt; may be NULL */
    size_t cache_salt_len;
    /* Called inside deq_step, TOKENs in order of positions; DEQ_STOP after a TOKEN ends the choice with
     * DEQ_FINISH_STOP. END comes exactly once for each choice. */
    enum deq_verdict (*event)(void *ctx, const struct deq_event *e);
    void *ctx;
};
/* max_tokens 16, temperature 0, the model's solver defaults. */
struct deq_request deq_request_defaults(const struct deq_model *model);

struct deq_admission {
    uint64_t id;
    size_t cached_tokens; /* of the prompt, taken from the prefix cache or its state */
    bool approximate;     /* some of them were produced by generation */
};
/* DEQ_EINVAL: the request can never run here; DEQ_EFULL: not now (sequences, rows or cache pages are
 * taken). Not from inside deq_step, except in an END event. ret may be NULL. */
enum deq_rc deq_submit(struct deq_engine *engine, const struct deq_request *request, struct deq_admission *ret,
                       struct deq_err *err);
/* These four: not from inside deq_step (an event returns DEQ_STOP instead); all choices of the request; DEQ_ENOTFOUND
 * when it has ended already. */
/* Ends it; END events (CANCELED) come before this returns. */
enum deq_rc deq_cancel(struct deq_engine *engine, uint64_t id);
/* Its time is up: the position in front commits its iterate at the next step, whatever the residual, and gives a last
 * token; in the midst of the prompt there is nothing to give. It ends with DEADLINE. */
enum deq_rc deq_expire(struct deq_engine *engine, uint64_t id);
/* Positions behind its prompt count as solved at this tol > 0 from now on, whatever the request said (whose own must be
 * above 0 too, and its rule look at one). They leave nothing in the prefix cache. */
enum deq_rc deq_set_tol(struct deq_engine *engine, uint64_t id, float tol);
/* Takes no part in steps until it is resumed; keeps rows, pages and bits. */
enum deq_rc deq_pause(struct deq_engine *engine, uint64_t id, bool paused);
size_t deq_active(const struct deq_engine *engine); /* sequences */
bool deq_runnable(const struct deq_engine *engine); /* some sequence is not paused */
/* One evaluation of the cell on all open rows, one solver step of each, commits and events. Allocates nothing. */
void deq_step(struct deq_engine *engine);

uint32_t deq_engine_max_positions(const struct deq_engine *engine); /* of one sequence: prompt and text */

#define DEQ_ENGINE_STAT(name, dimension, kind, help) uint64_t name dimension;
struct deq_engine_stats {
    DEQ_ENGINE_STATS(DEQ_ENGINE_STAT)
};
#undef DEQ_ENGINE_STAT
struct deq_engine_stats deq_engine_stats(const struct deq_engine *engine);

#endif
