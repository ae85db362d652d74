/* deq import: a PyTorch checkpoint becomes a model directory. The work is core/import's. */
#include <stdio.h>

#include "core/base/io.h"
#include "core/import/import.h"
#include "models/cli/cli.h"

static void on_progress(void *ctx, size_t done, size_t total, const char *name)
{
    (void)ctx;
    cli_progress("%zu of %zu tensors  %s", done, total, name);
}

static void on_note(void *ctx, const char *line)
{
    (void)ctx;
    cli_progress_end();
    fprintf(stderr, "%s\n", line);
}

static void print_parts(const struct deq_vocab *v)
{
    printf("head             %s", v->head_untied ? "weights of its own" : "tied to the embedding");
    for (unsigned c = 0; deq_projects(v) && c < deq_clusters(v); c++)
        printf("%s%u %s", c ? ", " : "; projections: ", c, v->proj_untied[c] ? "its own" : "tied");
    printf("\n");
}

static const struct deq_opt flags[] = {
    {"--config", DEQ_OPT_ARG, offsetof(struct deq_import_opts, config), 0, 0, NULL, "FILE",
     "JSON: model_type and the constructor's arguments; by default config.json in the directory"},
    {"--vocab", DEQ_OPT_ARG, offsetof(struct deq_import_opts, vocab), 0, 0, NULL, "FILE",
     "the vocabulary the model was trained with, a word a line in the order of ids"},
    {"--out", DEQ_OPT_ARG, offsetof(struct deq_import_opts, out_dir), 0, 0, NULL, "MODEL_DIR",
     "the directory to write; it must not exist (required)"},
};

int cmd_import(int argc, char **argv)
{
    char known[256], about[768];
    deq_import_list(known, sizeof known);
    snprintf(about, sizeof about,
             "Makes a model directory of what the code of locuslab/deq, locuslab/trellisnet, "
             "torchdeq or of a looped model saved: a state dict's file, or a directory with config.json and the "
             "weights (safetensors, pytorch_model.bin, model.pt). No Python is needed and nothing in the file is "
             "executed. model_type is one of %s.",
             known);
    const struct deq_command command = {.usage = "deq import CHECKPOINT [--config FILE] [--vocab FILE] --out MODEL_DIR",
                                        .about = about,
                                        .flags = {flags, DEQ_COUNT(flags)},
                                        .min_args = 1,
                                        .max_args = 1};
    const char *args[1];
    size_t n;
    struct deq_import_opts o = {.progress = on_progress, .note = on_note};
    int code = cli_parse("import", &command, argc, argv, &o, args, &n);
    if (code >= 0)
        return code;
    o.checkpoint = args[0];
    if (!o.out_dir)
        return cli_usage("import", "--out is required: the model directory to write");
    if (!o.config && !deq_io_is_dir(o.checkpoint))
        return cli_usage("import", "--config is required with a state dict's file: JSON with model_type and the "
                                   "arguments of the model's constructor");
    struct deq_err err;
    struct deq_import_report r;
    if (deq_import(&o, &r, &err)) {
        cli_progress_end();
        return cli_fail("import", err.text);
    }
    cli_progress_end();
    printf("model            %s  (%s)\nparameters       %llu in %zu tensors; %zu entries ignored\n", o.out_dir,
           r.variant, (unsigned long long)r.parameters, r.tensors, r.ignored);
    printf("vocabulary       %u tokens%s\n", r.vocab.size,
           r.no_words ? "; without --vocab or a tokenizer.json they are shown as <0>, <1>, ..." : "");
    print_parts(&r.vocab);
    return CLI_OK;
}
