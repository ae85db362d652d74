/* Training data: one stream of tokens, cut into sequences of T that are visited in a new order every epoch.
 *
 * Which sequences step s sees is a function of (seed, s) alone, so a resumed run sees what an unbroken one would have
 * seen. In epoch e the stream is cut at a random offset below T and the n pieces are visited in the order of a random
 * permutation (Fisher-Yates with the counter-based generator); the permutation of the current epoch is kept. */
#ifndef DEQ_TRAIN_DATASET_H
#define DEQ_TRAIN_DATASET_H

#include "core/text/tokenizer.h"

#define DEQ_DATASET_TEXT_MAX ((size_t)4 << 30) /* bytes of one text file */

struct deq_dataset {
    struct deq_tokens tokens; /* owned */
    uint64_t text_bytes;      /* bytes of the documents */
    size_t seq_len, n_seq;    /* T; pieces an epoch */
    uint64_t seed, epoch;
    uint32_t *order;          /* [n_seq] of `epoch` */
};

/* The first of the '\n'-separated names, below dir unless it is absolute; *files moves past it. */
enum deq_rc deq_dataset_path(const char *dir, const char **files, char ret_path[4096], struct deq_err *err);
/* A file's text: all of it, without its last `share`, or only that (tail). */
enum deq_rc deq_dataset_read(const char *path, float share, bool tail, char **ret_text, size_t *ret_len,
                             struct deq_err *err);
/* The files are there, regular, not empty, and may be read. */
enum deq_rc deq_dataset_check(const char *dir, const char *files, struct deq_err *err);
/* Reads and encodes the files ('\n'-separated names below dir), each without its last `held_back`: bos and eos stand at
 * the ends of every document, -1: none does. Empty text is an error that names the file. */
enum deq_rc deq_dataset_load(const struct deq_tokenizer *tok, int64_t bos, int64_t eos, const char *dir,
                             const char *files, float held_back, size_t seq_len, uint64_t seed,
                             struct deq_dataset **ret, struct deq_err *err);
void deq_dataset_free(struct deq_dataset *d);
/* Inputs and targets of `batch` sequences of step `step`: both [batch, T]. */
void deq_dataset_batch(struct deq_dataset *d, uint64_t step, size_t batch, uint32_t *tokens, uint32_t *targets);

#endif
