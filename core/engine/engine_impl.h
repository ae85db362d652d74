/* What the files of the engine share: engine_open.c, sequence.c (the life of a sequence), blocks.c (what it shares with
 * others), engine.c (the step), fill.c (what enters), readout.c (from states to picks), allowed.c (the form that picks
 * must fit), trace.c (what is told of rows), jacobian.c (how stable a state is); state.c, prefix_copy.c, prefix_file.c
 * (what outlives the engine). */
#ifndef DEQ_ENGINE_ENGINE_IMPL_H
#define DEQ_ENGINE_ENGINE_IMPL_H

#include "core/engine/engine.h"
#include "core/engine/pages.h"
#include "core/engine/prefix.h"
#include "core/engine/sampler.h"
#include "core/form/form.h"
#include "core/solve/solver.h"

enum { NO_TOKEN = UINT32_MAX, BROYDEN_MEMORY = 8 };

struct row {
    float *z, *fz, *u, *best; /* [D] [D] [U] [D]; best: the best iterate since it leads */
    float *y;                 /* [Y] what the head reads: of a cell with layers behind the loop theirs, else fz */
    float *before;            /* [D] what the evaluation before gave, where the rule asks for it */
    float *seen;              /* [Y] that whose logits were computed last */
    struct deq_solver solver;
    size_t position;
    uint32_t token;
    uint32_t guess;       /* the token that its state picked when last asked, or NO_TOKEN */
    uint32_t evaluations; /* since it entered */
    uint32_t lead;        /* evaluations since every row before it was final */
    uint32_t entered;     /* its sequence's step */
    float *residuals;     /* [DEQ_TRACE_RESIDUALS] of its evaluations, where they are told; else NULL */
    float residual, best_residual;
    bool finite, converged;
    bool last;            /* the next evaluation is the last: commit whatever comes */
    bool restarted;       /* went back after NaN once */
    bool start_cached;    /* began from a state of the prefix cache, or of the request */
    bool given;           /* its state came with the request: it is read as it is */
    bool guess_due;       /* at this step */
    bool exact;           /* what it picks is final, and more is needed for it than the most probable word */
    bool remembers;       /* logits of `seen` stand in a place of its own */
    bool rounded;         /* they are from a head in bytes */
    float *logits;        /* [V] of this step, or NULL */
    uint32_t *allowed;    /* bits [V] of this readout: the tokens that its pick is from; NULL: all */
    float *tails;         /* [n_tails] of this step */
    uint32_t best_word, stable; /* of rule argmax: at the last evaluation; how often it stayed, in a row */
    uint32_t known, need; /* clusters of the vocabulary whose words stand in logits (bits); the one
                           * that its pick waits for, or 0 */
};

/* The power iteration of a sequence's last position, once its state is found. */
struct deq_power {
    float *z, *found;   /* [D] the state as it was last evaluated, what that gave; NULL: nothing was asked for */
    float *fz;          /* [D] f(z), now that all before it is final */
    double step;        /* length of the step from z that stands for a vector of length 1 */
    double log_growth;  /* sum over the later half of the products */
    uint32_t done;      /* products so far */
    bool begun, based, over; /* based: fz is there */
};

struct sequence {
    uint64_t id;      /* of its request; 0: free */
    uint32_t choice;  /* of the request's n */
    bool waiting;     /* a further choice, until choice 0 has solved the prompt */
    bool paused, expired;
    bool approximate; /* began behind blocks that generation produced: what it solves is not canonical */
    bool from_cache;  /* the next row starts from a cached state */
    bool given;       /* and that state is its own */
    bool other_tol;   /* its text has another tolerance than its request said: nobody else may take what that solves */
    struct deq_request req;
    struct deq_solver_opts solver;
    struct deq_ring ring;
    uint32_t *tokens; /* [n_prompt + max_tokens] */
    float *logprob;   /* [V] of the evaluation before, of rule kl; else NULL */
    struct deq_form *form;         /* that the text fits; NULL: any */
    struct deq_readings *readings; /* [window + 1] where in it positions are; NULL without one */
    float *state;     /* [D] f(z) of the last committed position, for the warm start */
    float *residuals; /* [window, DEQ_TRACE_RESIDUALS] of its rows, where they are told; else NULL */
    uint32_t step;    /* that it took part in last (trace.h) */
    size_t n_known, n_committed, last_position;
    size_t n_explicit; /* positions whose layers before the loop have run, for the tokens that stand there now */
    struct deq_power power;
    size_t prompt_positions;      /* of the prompt, solved here; and what they took */
    uint64_t prompt_evaluations, text_evaluations; /* text: at positions behind the prompt */
    float tol_max;    /* largest tolerance of a position so far, at first the request's */
    struct deq_reached reached, prompt_reached; /* up to the last committed position; of these, the prompt's */
    struct deq_hash key_exact, key_approximate; /* prefix keys of the text up to the last whole block */
    uint32_t row[DEQ_ROW_WINDOW_MAX]; /* slots, front first */
    uint32_t n_rows, rows_reserved;
};

struct deq_engine {
    struct deq_cell *cell;
    struct deq_vocab vocab;
    struct deq_serving serving;
    struct deq_pool *pool;
    struct deq_engine_opts opts;
    struct deq_pages pages;
    struct deq_prefix prefix;
    struct deq_hash secret;   /* names in the prefix cache cannot be forged without it */
    void *memory;             /* one block; every array below lies in it */
    struct row *rows;         /* [max_rows] */
    float *row_mem;
    uint32_t *free_rows;
    uint32_t n_free_rows;
    struct sequence *seqs;    /* [max_sequences] */
    float *seq_state;         /* [max_sequences, D] */
    uint32_t rows_reserved;   /* sum of the sequences' */
    uint64_t next_id;
    size_t n_active, n_paused;
    /* the step under way; all [max_rows] */
    struct row **batch;
    struct sequence **batch_seq;
    size_t n_batch, n_evaluated; /* the first of them; the others answer from their starts */
    const float **z;
    float **fz, **u_in, **u_out, **y;
    size_t *position;
    const struct deq_ring **ring;
    uint32_t *new_tokens;
    struct row **new_rows;
    struct sequence **new_seq;
    const float **prev;
    struct row **head;        /* rows that need logits: [n_head], at most head_max at a time */
    struct sequence **head_seq;
    size_t n_head, n_quick;   /* n_quick: the first of them, which something quicker is tried for */
    size_t n_coda;            /* rows for the layers behind the loop: z, u_in, y, position, ring of them are set */
    struct row **judged;      /* [max_sequences] rows whose rule reads them out, one a sequence */
    struct sequence **judged_seq;
    size_t n_judged;
    uint32_t head_max;
    float *logits, *tails;    /* [head_max, V], [max_rows, n_tails] */
    uint32_t *allowed;        /* [head_max, deq_form_words(V)] */
    bool remember;            /* every row has logits of its own: a later pick may be told from them */
    float **logits_of, **tails_of;
    struct deq_sample_scratch *scratch; /* [threads] */
    struct deq_engine_stats stats;
};

/* Takes part in steps. */
static inline bool deq_seq_in_step(const struct sequence *s)
{
    return s->id && !s->waiting && !s->paused;
}

/* The start of r is its state, and all that was asked for. */
static inline bool deq_row_is_given(const struct sequence *s, const struct row *r)
{
    return r->given || !s->solver.max_iter;
}

/* The next evaluation of r, the front of s, is its last: its position's budget ends there, or that of the text. */
static inline bool deq_row_next_is_last(const struct sequence *s, const struct row *r)
{
    const uint64_t most = s->req.solve.max_evaluations;
    const bool spent = most && r->position >= s->req.n_prompt && s->text_evaluations + r->evaluations + 1 >= most;
    return spent || r->lead + 1 >= s->solver.max_iter;
}

/* What r is solved to. */
static inline float deq_row_tol(const struct sequence *s, const struct row *r)
{
    return r->position < s->req.n_prompt ? s->req.solve.tol : s->solver.tol;
}

/* As the front of s, r commits at this evaluation whatever the residual. */
static inline bool deq_row_must_commit(const struct sequence *s, const struct row *r)
{
    return r->last || s->expired;
}

/* engine_open.c */

/* The model's options with the method that a request names, whose memory is that method's. */
struct deq_solver_opts deq_engine_solver(const struct deq_solver_opts *model, enum deq_solver_method method);

/* check.c */

/* Tokens that are known beforehand: of the state, then the prompt. */
size_t deq_request_length(const struct deq_request *q);
/* DEQ_EINVAL says what is wrong. */
enum deq_rc deq_request_check(const struct deq_engine *e, const struct deq_request *q, struct deq_err *err);

/* fill.c */

/* Layers before the loop run ahead of the windows of prompts, up to the end of the block that is read: in one batch of
 * at most max_rows positions a step, so that a long prompt does not hold up the others. */
void deq_fill_ahead(struct deq_engine *e);
/* The next row into every window that takes one, in a round behind `entered` others of this step; returns how many. */
size_t deq_fill_round(struct deq_engine *e, uint32_t entered);

/* readout.c */

/* Which rows need logits: of the sequences from `from` on, as many as there is room for.
 * Returns the one behind them. */
uint32_t deq_readout_choose(struct deq_engine *e, uint32_t from);
/* The layers behind the loop where these rows or final ones need them; logits, and what each picks: row.guess. */
void deq_readout_run(struct deq_engine *e);

/* jacobian.c */

/* Room for the products of s, where its request asks for them. */
enum deq_rc deq_jacobian_reserve(const struct deq_engine *e, struct sequence *s, struct deq_err *err);
/* r has its state, but products with the Jacobian there are still to be made before it is final. */
bool deq_jacobian_open(const struct sequence *s, const struct row *r);
/* What r is evaluated at is a step of the power iteration, and what was known of its state stays. */
bool deq_jacobian_begun(const struct sequence *s, const struct row *r);
/* r has its state, and will be evaluated there once more. Once it has begun, nothing. */
void deq_jacobian_begin(const struct deq_engine *e, struct sequence *s, struct row *r);
/* r was evaluated at its state, or at a step: the next one. Behind the last product it is evaluated at its state again,
 * which leaves its pages as they were, and then is final with what was found. */
void deq_jacobian_advance(const struct deq_engine *e, struct sequence *s, struct row *r);
/* NaN where nothing was asked for, or no product was finite. */
float deq_jacobian_radius(const struct sequence *s);

/* allowed.c */

/* Takes the request's form, at its beginning. */
enum deq_rc deq_allowed_open(struct sequence *s, const struct deq_request *q, struct deq_err *err);
void deq_allowed_close(struct sequence *s);
/* `token` stands at a position behind the prompt, the one before it being known or in the window. False: nothing but
 * the end of the text may follow. Without a form: true. */
bool deq_allowed_take(struct sequence *s, size_t position, uint32_t token);
/* Whether anything may follow the token at that position. */
bool deq_allowed_any(const struct sequence *s, size_t position);
/* The masks of the head rows. */
void deq_allowed_mask(struct deq_engine *e);
/* The pick of a row that has one: from `adjusted` (which may be scratch->adjusted), made of logits. */
uint32_t deq_allowed_pick(const struct sequence *s, const struct row *r, const float *logits, const float *adjusted,
                          uint32_t vocab_size, struct deq_sample_scratch *scratch);

/* rules.c */

/* Whether r, just evaluated and finite, has converged by a rule that needs no logits. */
bool deq_rule_rests(const struct deq_engine *e, const struct sequence *s, struct row *r);
/* The same of the rows that are judged by theirs, once these are there: row.converged. */
void deq_rule_judge(struct deq_engine *e);

/* trace.c */

/* Room for the residuals of s, where its request asks for them. */
enum deq_rc deq_trace_open(struct sequence *s, struct deq_err *err);
/* r enters the window of s: at which step, and where its residuals go. */
void deq_trace_enter(const struct deq_engine *e, struct sequence *s, struct row *r);
/* A residual is there. */
static inline void deq_trace_residual(struct row *r)
{
    if (r->residuals)
        r->residuals[DEQ_MIN(r->evaluations, (uint32_t)DEQ_TRACE_RESIDUALS) - 1] = r->residual;
}
/* A step begins for every sequence with rows in the batch. */
void deq_trace_step(struct deq_engine *e);
/* What is to be told of r, which leaves at this step; false: nothing. */
bool deq_trace_of(const struct sequence *s, const struct row *r, enum deq_fate fate, struct deq_trace *ret);
/* r leaves, not final: its event. */
void deq_trace_dropped(const struct sequence *s, const struct row *r, enum deq_fate fate);

/* blocks.c */

/* The page of `position` becomes the sequence's own; blocks of the prefix cache make room. */
void deq_seq_make_writable(struct deq_engine *e, struct sequence *s, size_t position);
/* Begins s behind the longest prefix whose blocks are cached, as far back as a row reads. The last position of a
 * prompt is always solved: its logits are wanted. DEQ_ENOMEM or DEQ_OK. */
enum deq_rc deq_seq_take_blocks(struct deq_engine *e, struct sequence *s, struct deq_admission *ret);
/* The block that ends with the last committed position goes to the prefix cache, with the state there. */
void deq_seq_keep_block(struct deq_engine *e, struct sequence *s, const float *state);

/* sequence.c */

/* The sequence's next position, ev->position, is final: state is f(z) there. Whole blocks go to the prefix cache. */
void deq_seq_committed(struct deq_engine *e, struct sequence *s, const struct deq_event *ev, const float *state);
/* state.c: s becomes the state of its first tokens, all of which are final; and s, just begun, goes on behind it. */
void deq_seq_keep(const struct deq_engine *e, const struct sequence *from, struct deq_state *s);
void deq_seq_resume(struct deq_engine *e, struct sequence *s, const struct deq_state *from);
/* Further choices of s take its prompt over: pages, state. */
void deq_seq_fork(struct deq_engine *e, const struct sequence *s);
/* Rows from..n_rows-1 leave, not final; why is told where it was asked for. */
void deq_seq_drop_rows(struct deq_engine *e, struct sequence *s, uint32_t from, enum deq_fate why);
/* Ends s, and the choices that wait for it. */
void deq_seq_finish(struct deq_engine *e, struct sequence *s, enum deq_finish how, const char *message);
/* The token after r's position, from logits of its state, or NO_TOKEN: *ret_need is the cluster that must be known
 * first. Window rows before it are looked back at. thread: whose scratch. */
uint32_t deq_seq_sample(struct deq_engine *e, const struct sequence *s, const struct row *r, const float *logits,
                        unsigned thread, uint32_t *ret_need);

/* How many rows of a prompt enter its window in a step. Where its width is not said, all. Else an eighth of it, so that
 * a row starts from one that was evaluated before, and is not solved for long behind rows that are far from their
 * equilibria. It takes about the evaluations of one of half its width that is filled at once, in fewer steps. */
static inline uint32_t deq_prefill_pace(uint32_t window, uint32_t prefill_window)
{
    return prefill_window ? (prefill_window + 7) / 8 : window;
}

#endif
