/* The table of what an engine counts; struct deq_engine_stats (core/deq.h) and /metrics are made of it. */
#ifndef DEQ_ENGINE_STATS_H
#define DEQ_ENGINE_STATS_H

#include "core/solve/terms.h"

/* X(name, dimension, kind, help). dimension: none, or that of a statistic with a value for each
 * of an enum; help: what /metrics says. A counter only grows, a gauge is as of now; those of several engines add up. */
enum deq_stat_kind { DEQ_COUNTER, DEQ_GAUGE };
#define DEQ_ENGINE_STATS(X)                                                                                 \
    X(steps, , DEQ_COUNTER, "Evaluations of the cell on a batch.")                                          \
    X(rows, , DEQ_COUNTER, "Rows in those evaluations.")                                                    \
    X(explicit_rows, , DEQ_COUNTER, "Positions through the layers before the loop.")                        \
    X(coda_rows, , DEQ_COUNTER, "Rows through the layers behind the loop.")                                 \
    X(head_rows, , DEQ_COUNTER, "Rows through the whole output head.")                                      \
    X(near_rows, , DEQ_COUNTER, "Rows whose pick was sought near an earlier one's logits.")                 \
    X(screen_rows, , DEQ_COUNTER, "Rows through the output head rounded to bytes.")                         \
    X(positions, , DEQ_COUNTER, "Positions committed.")                                                     \
    X(nonconverged, , DEQ_COUNTER, "Positions committed above their tolerance.")                            \
    X(numeric_errors, , DEQ_COUNTER, "Sequences ended because a state was not finite.")                     \
    X(restarts, , DEQ_COUNTER, "Rows started again because a guessed token changed.")                       \
    X(starts, [DEQ_WARM_COUNT], DEQ_COUNTER, "Rows that entered, by where their iterates began.")           \
    X(starts_cached, , DEQ_COUNTER, "Of them, from a state of the prefix cache.")                           \
    X(prefix_entries, , DEQ_GAUGE, "Blocks in the prefix cache.")                                           \
    X(prefix_bytes, , DEQ_GAUGE, "Their size.")                                                             \
    X(prefix_queries_tok, , DEQ_COUNTER, "Prompt tokens looked up.")                                        \
    X(prefix_hits_tok, , DEQ_COUNTER, "Prompt tokens found.")                                               \
    X(prefix_approximate_tok, , DEQ_COUNTER, "Of them, produced by generation.")                            \
    X(prefix_evictions, , DEQ_COUNTER, "Blocks that made room.")                                            \
    X(state_tok, , DEQ_COUNTER, "Prompt tokens that came with a state.")                                    \
    X(sequences, , DEQ_GAUGE, "Choices in the engine.")                                                     \
    X(max_sequences, , DEQ_GAUGE, "Their limit.")                                                           \
    X(rows_open, , DEQ_GAUGE, "Rows being solved.")                                                         \
    X(rows_reserved, , DEQ_GAUGE, "Rows that the windows of sequences may take.")                           \
    X(max_rows, , DEQ_GAUGE, "Rows of the largest batch.")                                                  \
    X(pages, , DEQ_GAUGE, "Pages of the cache.")                                                            \
    X(pages_used, , DEQ_GAUGE, "Pages that sequences hold.")                                                \
    X(pages_reserved, , DEQ_GAUGE, "Pages that sequences may come to hold.")                                \
    X(memory_bytes, , DEQ_GAUGE, "Reserved for rows, cache and scratch.")

#endif
