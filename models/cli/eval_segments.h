/* Perplexity as the code of the DEQ authors measures it: the text cut into streams that are read side by side,
 * each in segments with memory. */
#ifndef DEQ_MODELS_CLI_EVAL_SEGMENTS_H
#define DEQ_MODELS_CLI_EVAL_SEGMENTS_H

#include "models/cli/solve_flags.h"

struct segment_flags {
    uint32_t tgt_len, streams; /* 0: not given */
    uint32_t mem_len;          /* UINT32_MAX: not given */
};

#define SEGMENT_FLAGS_NONE {.mem_len = UINT32_MAX}
#define SEGMENT_FLAGS(at)                                                                            \
    {"--tgt-len", DEQ_OPT_U32, (at) + offsetof(struct segment_flags, tgt_len), 1, 65536, NULL, NULL, \
     "solve segments of N positions jointly, as the authors' evaluation does; else off"},            \
    {"--mem-len", DEQ_OPT_U32, (at) + offsetof(struct segment_flags, mem_len), 0, 65536, NULL, NULL, \
     "positions that a transformer remembers before a segment, 0: no kind remembers any; else the "  \
     "model's segment_memory"},                                                                      \
    {"--streams", DEQ_OPT_U32, (at) + offsetof(struct segment_flags, streams), 1, 4096, NULL, NULL,  \
     "streams the text is cut into, with --tgt-len; else 16, the authors' evaluation batch"}

/* Reads at most `limit` tokens of the text and prints the result; the exit code. */
int eval_segments(const char *model_dir, const char *text_path, const struct segment_flags *f,
                  const struct solve_flags *sf, uint64_t limit, bool json);

#endif
