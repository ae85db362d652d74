/* Shapes that are measured where no model is at hand: directories with seeded random weights.
 *
 *     S  2.1 M parameters   D 256, 8 heads of 32, F 1024, V 4,096
 *     M  7.9 M              D 512, 8 heads of 64, F 2048, V 8,192
 *     W  97.8 M             D 700, 10 heads of 70, F 48,000, V 267,735 in four clusters: the paper's on WikiText-103
 *
 * are of locuslab/deq's form (post-norm, one block), see 2,048 positions, and are solved to 1e-3 as their authors
 * do; float32. The published models with layers before their loop (core/cell/looped.h), V 32,768, of 2,048 positions,
 * in bf16, computed in int16 as an import of them:
 *
 *     attractor-140m  134 M   D 1024, 8 heads of 128, F 4096, 7 layers before the loop, 1 in it
 *     attractor-770m  769 M   D 1280, 10 heads of 128, F 5120, 35 and 2
 *     parcae-140m     144 M   D 768, 6 heads of 128, F 3072, 2 before, 2 in it, 2 behind, value embeddings
 *
 * The cell's own part is small beside the token's: the equilibrium is reached in about ten evaluations, of attractor in
 * three; parcae loops the eight times that it does at most. */
#ifndef DEQ_MODELS_CLI_BENCH_SHAPE_H
#define DEQ_MODELS_CLI_BENCH_SHAPE_H

#include "core/cell/kind.h"

#define BENCH_SHAPES "S, M, W, attractor-140m, attractor-770m, parcae-140m"

struct bench_shape;
const struct bench_shape *bench_shape_find(const char *name); /* NULL: there is none */
/* In its own numeric class; the caller's, deq_free. NULL: no memory */
struct deq_arch *bench_shape_architecture(const struct bench_shape *s);
/* The files of a model directory that exists, in memory of a piece of a tensor. */
enum deq_rc bench_shape_write(const struct bench_shape *s, const struct deq_arch *a, const char *dir,
                              struct deq_err *err);

#endif
