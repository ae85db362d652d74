/* One request for text, from parsing to its last byte: prompts, their choices, and how they become JSON. completion.c
 * is its life, completion_job.c that of its jobs; choice.c what its tokens add up to; completion_json.c and
 * completion_responses.c the two shapes of its answer.
 *
 * After submission two threads have it. The engine's takes tokens as they are picked: it finds their text, which may
 * end the choice, and their log-probabilities, and leaves both as news. The connection's thread takes the news when it
 * comes for bytes, and makes JSON of it (channel.h). What a struct below does not call the connection's belongs to the
 * engine's thread, and is guarded by the completion's lock until the choice or the whole is over. */
#ifndef DEQ_SERVER_COMPLETION_H
#define DEQ_SERVER_COMPLETION_H

#include "core/base/utf8.h"
#include "server/api/exchange.h"
#include "server/api/logprobs.h"
#include "server/api/service.h"
#include "server/api/timings.h"
#include "server/api/trace.h"
#include "server/net/channel.h"

struct completion;

/* Of a token, where more than its text is asked for. */
struct token_news {
    uint32_t token, evaluations;
    float residual, logprob;
    uint32_t offset;  /* of its text, in characters */
    uint16_t n_top;   /* its alternatives, in `top` behind those of the tokens before */
    uint8_t start;    /* enum deq_warm */
    bool start_cached, predicted;
};

/* What the engine's thread leaves for the connection's. */
struct news {
    struct deq_buf text;
    struct deq_buf tokens; /* struct token_news[] */
    struct deq_buf top;    /* struct logprob[] */
    struct trace_news trace; /* of the rows behind them */
};

/* How positions were solved: JSON lists with a comma behind each entry. */
struct solve_lists {
    struct deq_buf iters, residuals, starts;
};

/* One continuation of one prompt. */
struct choice {
    struct completion *c;
    size_t prompt;           /* number of its prompt */
    struct deq_text *text;   /* bytes of tokens -> text that may be shown */
    struct news news;
    size_t announced;        /* bytes of it, about, that the channel knows of */
    bool over;               /* its finish is to be told */
    struct deq_utf8_place place; /* where its text has got to: text_offset */
    int64_t prev;            /* the token that its text ends with */
    uint32_t tokens;
    uint32_t dropped;        /* rows of its trace that were not final */
    bool begun;              /* has its prompt's text, with echo */
    enum deq_finish finish;
    int stopped;             /* index of the stop string, or -1 */
    int64_t stop_token;      /* of stop_token_ids, or -1 */
    double logprob_sum, iters_sum;
    uint32_t iters_max;
    float residual_max;      /* of its tokens, and of the prompt before them */
    float tol_max;           /* the largest tolerance of these */
    bool converged;
    size_t prompt_positions; /* of the prompt, solved for this choice */
    uint64_t prompt_evaluations, text_evaluations; /* text: behind the prompt */
    /* the connection's */
    struct news taken;       /* being rendered */
    struct deq_buf shown;    /* not yet sent (stream), or all of it */
    struct logprob_lists logprobs; /* since the last chunk, or all */
    struct deq_buf ids;      /* token ids, comma after each; since the last chunk, or all */
    struct solve_lists solves, prompt_solves; /* telemetry, the same; of its prompt's tokens, with echo and logprobs */
    struct trace_lists trace; /* the same */
    /* of a stream of /v1/responses, whose end repeats all: what is sent of `shown` and of the tokens of `logprobs` */
    size_t told, told_logprobs;
    uint32_t taken_tokens;   /* so many of `tokens` are in what it took: usage */
    bool taken_begun, taken_over; /* those flags as it took them */
    bool echoed;             /* has its prompt's log-probabilities, with echo */
    bool sent;               /* its first chunk is out */
    bool finished;           /* its last chunk is */
};

/* One prompt: a job of the scheduler's, with best_of choices. */
struct prompt {
    struct job job; /* first: the scheduler's callbacks get it */
    struct completion *c;
    size_t index;
    struct news news;        /* of its tokens, with echo */
    struct deq_buf echo;     /* its text, but for: */
    char cut[4];             /* [n_cut] the beginning of a character that an answer may go on with */
    size_t n_cut;
    struct deq_utf8_place place; /* where the tokens seen so far have got to */
    int64_t prev;            /* the token before, -1: none */
    size_t cached;           /* of its tokens, once it is admitted */
    /* the connection's */
    struct news taken;
    size_t taken_cached;
    struct logprob_lists logprobs;
    struct solve_lists solves;
};

struct completion {
    struct completion_request req;
    struct service *service;
    struct served *served;   /* held */
    struct channel *channel; /* held */
    struct exchange_state state; /* that all prompts follow, or none */
    _Atomic unsigned refs;   /* the jobs, together, and the channel's source */
    pthread_mutex_t lock;
    char request_id[132], trace_id[33], parent_id[17];
    int64_t created;
    uint64_t arrived_ns;
    struct deq_buf head;     /* {"id": ..., up to the choices */
    struct prompt *prompts;  /* [n_prompts] */
    struct choice *choices;  /* [n_prompts * best_of]: prompt i's are i * best_of.. */
    size_t open_jobs;
    bool admitted;           /* a job of it */
    uint64_t ended_ns;       /* of all jobs */
    bool ended;              /* all jobs have: what follows is final */
    bool failed;             /* it is answered when all jobs have ended */
    struct exchange_failure failure; /* the first */
    /* the connection's */
    struct deq_buf chunk;    /* of a stream, the one being written: its memory serves the next */
    uint64_t events;         /* of a stream of /v1/responses, so far */
    bool answered;
};

static inline size_t completion_choices(const struct completion *c)
{
    return c->req.n_prompts * (size_t)c->req.best_of;
}
/* completion.c. Gives back one of its references. Any thread. */
void completion_unref(void *completion);
/* completion_job.c: what is called of a prompt's job. */
void completion_set_callbacks(struct job *j, bool stream);

/* choice.c, on the engine's thread and with the completion's lock */

/* p: with its completion and its job. With echo its text is there from now on. */
void prompt_init(struct prompt *p);
void prompt_free(struct prompt *p);
/* ch: zeroed, number i of c's. False: no memory. */
bool choice_init(struct completion *c, size_t i);
void choice_free(struct choice *ch);
/* The tokens of one position: text, logprobs, telemetry. e: a TOKEN event. */
void choice_add(struct choice *ch, const struct deq_event *e);
/* A row that was not final has left: a DROPPED event. */
void choice_dropped(struct choice *ch, const struct deq_event *e);
/* A prompt's token; e: the PROMPT event of the position before, which foresaw it (NULL: the first). */
void prompt_add(struct prompt *p, uint32_t token, const struct deq_event *e);
/* Gives the choice its prompt's text, with echo; once. */
void choice_begin(struct choice *ch);
/* Its text ends: what was held back is shown, but for what begins with a stop string. */
void choice_end(struct choice *ch);
/* Bytes of an answer, about, that came since it was last asked. */
size_t choice_announce(struct choice *ch);

/* choice.c, on the connection's thread */

/* Takes the news of both; with the completion's lock. */
void prompt_take(struct prompt *p);
void choice_take(struct choice *ch);
/* Makes text and JSON lists of what was taken; of the prompt before its choices. */
void prompt_render(struct prompt *p);
void choice_render(struct choice *ch);

/* completion_json.c, on the connection's thread */

/* What every chunk and answer begins with. */
void completion_head(struct completion *c);
/* Whether there is something for a chunk. */
bool choice_has_news(const struct choice *ch);
/* A chunk with what there is (finish NULL), or the last one, without text but with the reason. False: nobody reads. */
bool choice_send(struct choice *ch, const char *finish);
const char *finish_word(enum deq_finish f);
/* The whole answer, or the end of a stream. */
void completion_answer(struct completion *c);
void completion_error(struct completion *c); /* that it failed by */
/* "deq": what was asked of the solver and what it reached, over n choices. */
void completion_report(const struct completion *c, const struct choice *ch, size_t n, struct deq_buf *out);

/* completion_responses.c: the same for /v1/responses */

void response_begin(struct completion *c); /* of a stream */
bool response_delta(struct choice *ch);
void response_answer(struct completion *c);
void response_error(struct completion *c); /* in a stream */

#endif
