/* What the recipe of a run that goes on says otherwise than the one it began with, which its checkpoint holds. */
#include <stdio.h>
#include <string.h>

#include "core/base/buf.h"
#include "core/base/mem.h"
#include "core/train/train_impl.h"

enum { TEXT_MAX = 256 << 10, VALUE_MAX = 4400, VALUE_SHOWN = 48 };

/* Keys, and sections, that leave the run what it is: how far it goes, what is told of it and when, the same gradients
 * by other means, and what is done with the weights in the end. */
static const char *const may_change[] = {"train.steps", "train.eval_every", "train.eval_tokens",
                                         "train.checkpoint_every", "train.log_every", "train.recompute",
                                         "predictor.steps", "predictor.lr", "predictor.tol", "serve.", "tune."};

static bool is_free(const char *key)
{
    for (size_t i = 0; i < DEQ_COUNT(may_change); i++) {
        const size_t n = strlen(may_change[i]);
        if (may_change[i][n - 1] == '.' ? !strncmp(key, may_change[i], n) : !strcmp(key, may_change[i]))
            return true;
    }
    return false;
}

enum deq_rc deq_train_recipe_text(const struct deq_recipe *r, char **ret, struct deq_err *err)
{
    struct deq_buf text;
    char value[VALUE_MAX];
    deq_buf_init(&text, TEXT_MAX);
    bool ok = true;
    for (size_t i = 0; i < r->table.n && ok; i++) {
        deq_opt_text(&r->table.opt[i], r, value, sizeof value);
        ok = deq_buf_fmt(&text, "%s: %s\n", r->table.opt[i].name, value);
    }
    if (ok)
        ok = (*ret = deq_strdup(text.data)) != NULL;
    deq_buf_free(&text);
    return ok ? DEQ_OK : deq_fail(err, DEQ_ENOMEM, "no memory for the recipe's text");
}

/* "KEY was A, is B", as many as there is room for. */
struct changes {
    char text[320];
    size_t n, told;
};

static void add(struct changes *c, const char *key, const char *was, const char *is)
{
    char one[4 * VALUE_SHOWN];
    const size_t have = strlen(c->text);
    const int n = snprintf(one, sizeof one, "%s%.*s was %.*s, is %.*s", have ? "; " : "", VALUE_SHOWN, key, VALUE_SHOWN,
                           was, VALUE_SHOWN, is);
    c->n++;
    if (n < 0 || have + (size_t)n >= sizeof c->text - sizeof "; and 100 more")
        return;
    memcpy(c->text + have, one, (size_t)n + 1);
    c->told++;
}

static const char *finish(struct changes *c)
{
    const size_t have = strlen(c->text);
    if (c->n > c->told)
        snprintf(c->text + have, sizeof c->text - have, "; and %zu more", c->n - c->told);
    return c->text;
}

/* Row by row, as text: what is told is what differs. */
static void compare(const struct deq_recipe *old, const struct deq_recipe *now, struct changes *free_,
                    struct changes *other)
{
    char was[VALUE_MAX], is[VALUE_MAX];
    for (size_t i = 0; i < now->table.n; i++) {
        const struct deq_opt *o = &now->table.opt[i];
        deq_opt_text(o, old, was, sizeof was);
        deq_opt_text(o, now, is, sizeof is);
        if (strcmp(was, is))
            add(is_free(o->name) ? free_ : other, o->name, was, is);
    }
}

enum deq_rc deq_train_compare_recipes(struct deq_train *r, const char *path, void (*note)(void *ctx, const char *text),
                                      struct deq_err *err)
{
    char *text = NULL, line[640];
    struct deq_recipe *old = NULL;
    struct changes may = {0}, other = {0};
    enum deq_rc rc = deq_checkpoint_recipe(path, &text, err);
    if (!rc && !text)
        note(r, "the checkpoint does not say by which recipe it was made: it is not compared");
    if (rc || !text)
        return rc;
    rc = deq_recipe_new(r->recipe->kind, &old, err);
    if (!rc)
        rc = deq_opt_parse(&old->table, old, text, strlen(text), path, err); /* of another kind: an unknown key */
    if (!rc)
        compare(old, r->recipe, &may, &other);
    if (may.n) {
        snprintf(line, sizeof line, "goes on with a changed recipe: %s", finish(&may));
        note(r, line);
    }
    if (other.n && r->opts->new_recipe) {
        snprintf(line, sizeof line, "goes on as another run than it began: %s", finish(&other));
        note(r, line);
    } else if (other.n) {
        rc = deq_fail(err, DEQ_EINVAL, "%s began with another recipe: %s. --new-recipe goes on with the new values",
                      path, finish(&other));
    }
    deq_recipe_free(old);
    deq_free(text);
    return rc;
}
