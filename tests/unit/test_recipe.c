/* core/train/recipe.c: one file by one table, and what its values say together. */
#include "core/train/recipe.h"

#include "core/base/io.h"
#include "core/base/mem.h"
#include "core/cell/config.h"
#include "tests/unit/scratch.h"
#include "tests/unit/test.h"

#define FILES "data: {train: [a.txt], valid: b.txt}\n"

/* *ret: NULL where the file is refused; the caller's */
static enum deq_rc load(const char *text, struct deq_recipe **ret, struct deq_err *err)
{
    *ret = NULL;
    *err = (struct deq_err){0};
    scratch_put("r.yaml", text);
    const enum deq_rc rc = deq_recipe_load(scratch_path("r.yaml"), NULL, ret, err);
    return rc ? rc : deq_recipe_check(*ret, err);
}

TEST(recipe_refuses_by_name)
{
    static const struct {
        const char *text, *says;
    } t[] = {
        {"train: {steps: 5}\n", "data.train: missing; one text file can be given as --data FILE"},
        {"data: {train: [a.txt]}\n", "data.valid: missing, and data.valid_share is 0"},
        {FILES "train: {batch: 8, micro_batch: 3}\n", "train.batch: 8 is not a multiple of train.micro_batch 3"},
        {FILES "train: {seq_len: 33}\nmodel: {attention_window: 32}\n",
         "train.seq_len: 33 exceeds 32, all that a position of this model sees"},
        {FILES "train: {drawn_evaluations: 3}\n",
         "train.drawn_evaluations: 3 does not go with train.grad implicit, which needs the equilibrium"},
        {FILES "train: {steps: 5, shallow_steps: 6}\n",
         "train.shallow_steps: 6 exceeds train.steps 5; for so few write train.shallow_steps: 1, or 0 for none"},
        {FILES "train: {indexing: [1, x]}\n", "train.indexing: \"x\" is not a number in 0..9 (below solver.max_iter)"},
        {FILES "train: {indexing: [10]}\n", "train.indexing: \"10\" is not a number in 0..9 (below solver.max_iter)"},
        {FILES "train: {indexing: [32]}\nsolver: {max_iter: 99}\n",
         "train.indexing: \"32\" is not a number in 0..31 (below solver.max_iter)"},
        {FILES "train: {indexing: [0, 2]}\n",
         "train.indexing: 0, but no layers before the loop propose where iterates begin"},
        {FILES "train: {indexing: [1], grad: explicit}\n",
         "train.indexing: does not go with train.grad explicit, whose loss is the last state's"},
        {FILES "train: {indexing: [1], grad: unroll, drawn_evaluations: 3}\n",
         "train.indexing: does not go with train.drawn_evaluations 3, which takes the place of a solve"},
        {FILES "train: {grad: unroll, drawn_evaluations: 3}\npredictor: {joint: true}\n",
         "predictor.joint: does not go with train.drawn_evaluations 3, which takes the place of a solve"},
        {FILES "train: {grad: unroll, drawn_evaluations: 3}\nsolver: {tol_start: 0.1}\n",
         "solver.tol_start: does not go with train.drawn_evaluations 3, which takes the place of a solve"},
        {FILES "solver: {tol_start: 0.5, tol: 0}\n", "solver.tol_start: 0.5 has no way to solver.tol 0"},
        {FILES "train: {weight_dropout: 0.1}\n", "train.weight_dropout: a transformer knows none"},
        {FILES "train: {recompute: true}\n",
         "train.recompute: is for train.grad explicit, an equilibrium's memory does not grow with its evaluations"},
        {FILES "train: {grad: explicit, drawn_evaluations: 3}\n",
         "train.drawn_evaluations: 3 does not go with train.grad explicit, whose evaluations are solver.max_iter"},
        {FILES "train: {grad: explicit, recompute: true}\nsolver: {max_iter: 1}\n",
         "train.recompute: a network of one evaluation (solver.max_iter) has none to make again"},
        {FILES "model: {cutoffs: [10, x]}\n", "model.cutoffs: \"x\" is not an id above 0"},
        {FILES "model: {tie_projections: [yes]}\n", "model.tie_projections: \"yes\" is not true or false"},
        {FILES "model: {cutoffs: [10], div_val: 2, tie_projections: [true]}\n",
         "model.tie_projections: 1 of them, but the vocabulary has 2 clusters (model.cutoffs)"},
        {FILES "predictor: {hidden_size: 0}\n", "serve.warm_start: predictor, but predictor.hidden_size is 0"},
    };
    REQUIRE(scratch_begin());
    for (size_t i = 0; i < DEQ_COUNT(t); i++) {
        struct deq_recipe *r;
        struct deq_err err;
        CHECK_EQ(load(t[i].text, &r, &err), DEQ_EINVAL);
        CHECK_EQ(err.text, t[i].says);
        deq_recipe_free(r);
    }
    struct deq_recipe *r;
    struct deq_err err;
    CHECK_EQ(load(FILES "model: {type: gru}\n", &r, &err), DEQ_EINVAL);
    CHECK_MSG(strstr(err.text, "r.yaml: model.type: gru is not one of transformer"), "%s", err.text);
    CHECK_EQ(load(FILES "model: {type: trellis, hidden_size: 8, state_size: 4}\n", &r, &err), DEQ_EFORMAT);
    CHECK_EQ(err.text, "model: state_size: 4 is less than the 8 that the head reads of it");
    deq_recipe_free(r);
    static const char *const types[] = {"model.type=trellis", "model.type=gru"}; /* as --set says it, behind the file */
    for (size_t i = 0; i < DEQ_COUNT(types); i++) {
        REQUIRE(!load(FILES, &r, &err) && !deq_opt_assign(&r->table, r, types[i], &err));
        CHECK_EQ(deq_recipe_check(r, &err), DEQ_EINVAL);
        CHECK_MSG(strstr(err.text, "the file is a recipe of a transformer") && strstr(err.text, "transformer, trellis"),
                  "%s", err.text);
        deq_recipe_free(r);
    }
    CHECK_EQ(load(FILES "train: {optimizer: sgd}\n", &r, &err), DEQ_EINVAL);
    CHECK_MSG(strstr(err.text, "r.yaml: line 2, column 20") && strstr(err.text, "train.optimizer"), "%s", err.text);
    CHECK(!r);
    scratch_end("r.yaml", NULL);
}

/* Whatever config.json can say of a kind, its recipes can: every model that is served is trained. */
TEST(recipe_has_every_key_of_an_architecture)
{
    static const char *const titles[] = {"transformer", "trellis", "looped"};
    for (size_t k = 0; k < DEQ_COUNT(titles); k++) {
        const struct deq_kind *kind = deq_kind_by_title(titles[k]);
        REQUIRE(kind && kind->config.n);
        for (size_t i = 0; i < kind->config.n; i++) {
            const struct deq_opt *o = &kind->config.opt[i];
            bool known = false;
            for (size_t j = 0; j < kind->recipe.n && !known; j++)
                known = kind->recipe.opt[j].offset == o->offset;
            CHECK_MSG(known, "%s: %s", kind->title, o->name);
        }
    }
}

/* A recipe that starts from a model has its architecture, vocabulary, chat and settings, but for what it says. */
TEST(recipe_of_a_model)
{
    static const char *const models[] = {
        "'model_type': 'deq_transformer', 'num_attention_heads': 2, 'head_dim': 6, 'intermediate_size': 16, "
        "'attention_window': 24, 'norm': 'post', 'vocab_size': 300, 'hidden_size': 12, 'cutoffs': [100, 200], "
        "'embedding_size': 8, 'div_val': 2, 'head_bias': true, 'tie_projections': [false, true, true], "
        "'eos_token_id': 7, 'bos_token_id': 3, 'deq': {'solver': 'broyden', 'stop_mode': 'abs', 'tol': 0.5, "
        "'window': 3}",
        "'model_type': 'deq_trellis', 'state_size': 20, 'dilation': 2, 'vocab_size': 290, 'hidden_size': 12, "
        "'output_size': 16, 'tie_word_embeddings': false, 'deq': {'max_iter': 70}",
        "'model_type': 'deq_looped', 'num_attention_heads': 2, 'head_dim': 6, 'intermediate_size': 16, "
        "'num_prelude_layers': 1, 'num_core_layers': 2, 'num_coda_layers': 1, 'max_position_embeddings': 64, "
        "'injection': 'linear', 'norm': 'sandwich', 'ffn': 'swiglu', 'core_norm': true, 'vocab_size': 310, "
        "'hidden_size': 12, 'logit_softcap': 15, 'chat': {'message': '{role}: {content}'}, "
        "'deq': {'window': 2, 'prefill_window': 5}",
    };
    REQUIRE(scratch_begin());
    for (size_t i = 0; i < DEQ_COUNT(models); i++) {
        char text[800], *config[2];
        struct deq_arch *a, *b;
        struct deq_recipe *r;
        struct deq_err err = {0};
        size_t len[2];
        snprintf(text, sizeof text, "{%s}", models[i]);
        for (char *c = text; *c; c++)
            *c = *c == '\'' ? '"' : *c;
        scratch_put("config.json", text);
        REQUIRE(!deq_config_load(scratch_path("config.json"), &a, &err));
        scratch_put("r.yaml", FILES "serve: {memory: 2}\ntrain: {seq_len: 16}\n");
        const enum deq_rc rc = deq_recipe_load(scratch_path("r.yaml"), scratch_dir(), &r, &err);
        REQUIRE(!rc && !deq_recipe_check(r, &err) && !deq_recipe_arch(r, 280, &b, &err));
        CHECK_EQ(b->serving.solver.memory, 2u);
        b->serving.solver.memory = a->serving.solver.memory;
        for (int k = 0; k < 2; k++) {
            CHECK(!deq_config_save(scratch_path("c.json"), k ? b : a, NULL, &err));
            REQUIRE(!deq_io_read(scratch_path("c.json"), 1 << 16, &config[k], &len[k], &err));
        }
        CHECK_MSG(len[0] == len[1] && !memcmp(config[0], config[1], len[0]), "%s\n%s", config[0], config[1]);
        scratch_put("r.yaml", i ? "model: {type: transformer}\n" : "model: {type: trellis}\n");
        deq_recipe_free(r);
        CHECK_EQ(deq_recipe_load(scratch_path("r.yaml"), scratch_dir(), &r, &err), DEQ_EINVAL);
        CHECK_MSG(strstr(err.text, "but the model to start from is a "), "%s", err.text);
        deq_free(config[0]);
        deq_free(config[1]);
        deq_free(a);
        deq_free(b);
    }
    scratch_end("r.yaml", "c.json", "config.json", NULL);
}

TEST(recipe_values)
{
    struct deq_recipe *r;
    struct deq_err err;
    REQUIRE(scratch_begin());
    REQUIRE(!load("data: {train: [a.txt, b.txt], valid_share: 0.1}\n"
                    "train: {grad: unroll, optimizer: muon, schedule: wsd, seed: 9}\n"
                    "solver: {method: broyden, tol: 0.5, max_iter: 7, memory: 2, beta: 0.25, reg: 0.125, "
                    "adjoint_tol: 0.75, adjoint_max_iter: 9}\n",
                    &r, &err));
    CHECK_EQ(r->train_files, "a.txt\nb.txt");
    CHECK(r->grad == DEQ_RECIPE_UNROLL && r->optimizer == DEQ_RECIPE_MUON && r->schedule == DEQ_RECIPE_WSD &&
          r->seed == 9);
    CHECK_EQ(deq_recipe_held_back(r), 0.1f);
    strcpy(r->valid_file, "v.txt");
    CHECK_EQ(deq_recipe_held_back(r), 0.0f); /* another file validates: all of these is trained on */
    struct deq_solver_opts o = deq_recipe_solver(r);
    CHECK(o.method == DEQ_BROYDEN && o.tol == 0.5f && o.max_iter == 7 && o.memory == 2 && o.beta == 0.25f &&
          o.reg == 0.125f);
    CHECK_EQ(deq_recipe_indexing(r), 0u);
    REQUIRE(!deq_opt_assign(&r->table, r, "train.indexing=[1, 2, 4]", &err) && !deq_recipe_check(r, &err));
    CHECK_EQ(deq_recipe_indexing(r), 2u | 4u | 16u);
    o = deq_recipe_adjoint(r);
    CHECK(o.method == DEQ_BROYDEN && o.tol == 0.75f && o.max_iter == 9 && o.memory == 2);
    deq_recipe_free(r);
    scratch_end("r.yaml", NULL);
}

/* One key makes an explicit network of any recipe: what concerns equilibria is passed over, and its model is served by
 * as many evaluations as it was trained with. */
TEST(recipe_of_an_explicit_network)
{
    static const char *const models[] = {"", "model: {type: trellis, levels: true}\n",
                                         "model: {type: looped}\n"};
    struct deq_err err;
    REQUIRE(scratch_begin());
    for (size_t i = 0; i < DEQ_COUNT(models); i++) {
        char text[400];
        struct deq_recipe *r;
        struct deq_arch *a;
        snprintf(text, sizeof text, FILES "%strain: {grad: explicit, steps: 5, shallow_steps: 6, seq_len: 16}\n"
                 "solver: {method: broyden, max_iter: 70}\npredictor: {hidden_size: 64}\n", models[i]);
        REQUIRE(!load(text, &r, &err) && !deq_recipe_arch(r, 300, &a, &err));
        CHECK_EQ(deq_recipe_phase(r, 0), "explicit");
        CHECK(deq_recipe_depth(r, 0) == 70 && deq_recipe_depth(r, 5) == 70 && !deq_recipe_tunes(r));
        const struct deq_serving *s = &a->serving;
        CHECK(s->solver.method == DEQ_PICARD && s->solver.tol == 0 && s->solver.max_iter == 70 && s->row_window == 1 &&
              s->warm == (i == 2 ? DEQ_WARM_PROPOSAL : DEQ_WARM_ZERO) && !a->predictor_hidden);
        deq_free(a);
        deq_recipe_free(r);
    }
    struct deq_recipe *r;
    REQUIRE(!load(FILES "train: {shallow_steps: 2, shallow_depth: 128}\n", &r, &err));
    CHECK(deq_recipe_depth(r, 1) == 128 && deq_recipe_depth(r, 2) == 0 && deq_recipe_tunes(r));
    CHECK_EQ(deq_recipe_phase(r, 1), "shallow");
    CHECK_EQ(deq_recipe_phase(r, 2), "deq");
    deq_recipe_free(r);
    CHECK_EQ(load(FILES "model: {type: trellis, levels: true}\n", &r, &err), DEQ_EFORMAT);
    CHECK_MSG(strstr(err.text, "levels: a fixed number"), "%s", err.text);
    deq_recipe_free(r);
    scratch_end("r.yaml", NULL);
}
