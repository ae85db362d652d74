/* Perplexity as the code of the DEQ authors measures it: the text cut into streams that are read side by side, each in segments with memory. */
#ifndef DEQ_MODELS_CLI_EVAL_SEGMENTS_H
#define DEQ_MODELS_CLI_EVAL_SEGMENTS_H

#include "models/cli/solve_flags.h"

struct segment_flags {
    const char *tgt_len, *mem_len, *streams, *limit;
};

#define SEGMENT_FLAGS(f)                                                                                                                        \
    {.name = "--tgt-len", .value = "N", .help = "solve segments of N positions jointly, as the authors' evaluation does (default: off)", .text = &(f).tgt_len}, \
    {.name = "--mem-len", .value = "N", .help = "positions of memory before a segment (default: the model's segment_memory)", .text = &(f).mem_len},           \
    {.name = "--streams", .value = "N", .help = "streams the text is cut into, with --tgt-len (default: 16, the authors' evaluation batch)", .text = &(f).streams}, \
    {.name = "--limit", .value = "N", .help = "the first N tokens of the text only", .text = &(f).limit}

/* Prints the result; the exit code. */
int eval_segments(const char *model_dir, const char *text_path, const struct segment_flags *f, const struct solve_flags *sf, bool json);

#endif
