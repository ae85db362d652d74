/* deq inspect: what a model directory holds, after every check that loading makes. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/json.h"
#include "core/data/safetensors.h"
#include "core/base/io.h"
#include "core/deq.h"
#include "models/cli/cli.h"

struct flags {
    bool json, tensors;
};

static const struct deq_opt flags[] = {
    {"--tensors", DEQ_OPT_BOOL, offsetof(struct flags, tensors), 0, 0, NULL, NULL, "list the tensors too"},
    {"--json", DEQ_OPT_BOOL, offsetof(struct flags, json), 0, 0, NULL, NULL, "print one JSON object"},
};

static const struct deq_command command = {.usage = "deq inspect MODEL_DIR [options]",
                                           .about = "Loads a model with every check and tells what it is.",
                                           .flags = {flags, DEQ_COUNT(flags)}, .min_args = 1, .max_args = 1};

static json_t *fact(const struct deq_fact *f)
{
    json_t *v;
    json_error_t where;
    if (f->type == DEQ_FACT_TEXT)
        return json_string(f->value);
    return deq_json_parse(f->value, strlen(f->value), JSON_DECODE_ANY, &v, &where) ? NULL : v;
}

int cmd_inspect(int argc, char **argv)
{
    const char *args[1];
    size_t n;
    struct flags f = {0};
    int code = cli_parse("inspect", &command, argc, argv, &f, args, &n);
    if (code >= 0)
        return code;
    struct deq_err err;
    struct deq_model *model;
    struct deq_safetensors *file = NULL;
    char path[4096];
    if (deq_model_load(args[0], NULL, &model, &err))
        return cli_fail("inspect", err.text);
    if (f.tensors &&
        (!deq_io_join(path, sizeof path, args[0], "model.safetensors") || deq_safetensors_open(path, &file, &err))) {
        deq_model_free(model);
        return cli_fail("inspect", err.text);
    }
    code = CLI_OK;
    const struct deq_model_info i = deq_model_info(model);
    json_t *r =
        !f.json ? NULL
                : json_pack("{s:s, s:s, s:I, s:I, s:I, s:i, s:i, s:i, s:s, s:s, s:I, s:I, "
                            "s:{s:s, s:s, s:s, s:f, s:i, s:i, s:i, s:i, s:s, s:b, s:b}}",
                            "model_type", i.model_type, "fingerprint", i.fingerprint,
                            "parameters", (json_int_t)i.parameters, "non_embedding_parameters",
                            (json_int_t)i.non_embedding_parameters, "predictor_parameters",
                            (json_int_t)i.predictor_parameters, "vocab_size", (int)i.vocab_size,
                            "hidden_size", (int)i.d_model, "state_size", (int)i.state_dim, "dtype", i.dtype,
                            "kernels", i.kernels, "weight_bytes", (json_int_t)i.weight_bytes,
                            "cache_bytes_per_token", (json_int_t)i.cache_bytes_per_token, "deq",
                            "numeric_class", deq_class_name(i.numeric), "solver", deq_solver_name(i.solver), "stop",
                            deq_stop_rule_name(i.stop), "tol",
                            (double)i.tol, "max_iter", (int)i.max_iter, "memory", (int)i.memory, "window",
                            (int)i.window, "prefill_window", (int)i.prefill_window, "warm_start",
                            deq_warm_name(i.warm_start), "predictor", (int)i.has_predictor,
                            "proposal", (int)i.has_proposal);
    for (size_t k = 0; f.json && k < i.n_facts; k++)
        json_object_set_new(r, i.facts[k].key, fact(&i.facts[k]));
    if (f.json) {
        json_t *list = json_array();
        for (size_t k = 0; file && k < deq_safetensors_count(file); k++) {
            const struct deq_tensor *t = deq_safetensors_at(file, k);
            json_t *shape = json_array();
            for (unsigned d = 0; d < t->n_dims; d++)
                json_array_append_new(shape, json_integer((json_int_t)t->shape[d]));
            json_array_append_new(list, json_pack("{s:s, s:s, s:o}", "name", t->name, "dtype", deq_dtype_name(t->dtype),
                                                  "shape", shape));
        }
        if (f.tensors)
            json_object_set(r, "tensors", list);
        json_decref(list);
        code = cli_print_json("inspect", r, JSON_INDENT(2) | JSON_REAL_PRECISION(7));
    } else {
        printf("model            %s  (%s, %llu parameters, %llu of them outside embedding, head and predictor, "
               "fingerprint %s)\n", args[0], i.dtype, (unsigned long long)i.parameters,
               (unsigned long long)i.non_embedding_parameters, i.fingerprint);
        printf("cell             %s, state of %u", i.model_type, i.state_dim);
        for (size_t k = 0; k < i.n_facts; k++)
            printf(", %s %s", i.facts[k].key, i.facts[k].value);
        printf("\ntext             vocabulary %u, a position reads %u before it\n", i.vocab_size, i.lookback);
        printf("numeric class    %s\n"
               "solver           %s, tol %g, at most %u evaluations, memory %u, window %u, of a prompt %u, start %s\n",
               deq_class_name(i.numeric), deq_solver_name(i.solver), (double)i.tol, i.max_iter, i.memory, i.window,
               i.prefill_window, deq_warm_name(i.warm_start));
        printf("memory           weights %.1f MB, cache %llu bytes a token, kernels %s\n", (double)i.weight_bytes / 1e6,
               (unsigned long long)i.cache_bytes_per_token, i.kernels);
        for (size_t k = 0; file && k < deq_safetensors_count(file); k++) {
            const struct deq_tensor *t = deq_safetensors_at(file, k);
            printf("  %-36s %-5s [", t->name, deq_dtype_name(t->dtype));
            for (unsigned d = 0; d < t->n_dims; d++)
                printf("%s%llu", d ? ", " : "", (unsigned long long)t->shape[d]);
            printf("]\n");
        }
    }
    deq_safetensors_close(file);
    deq_model_free(model);
    return code;
}
