/* core/train/overlap.c: documents of the validation text that also stand in the training text. */
#include "core/train/overlap.h"

#include <stdio.h>

#include "tests/unit/scratch.h"
#include "tests/unit/test.h"

#define MARK "<|endoftext|>\n"

/* A line just long enough, by its letter; short: one byte less. */
static const char *line_of(char letter, bool is_short)
{
    static char text[8][DEQ_OVERLAP_LINE_MIN + 2];
    static unsigned next;
    char *t = text[next++ % DEQ_COUNT(text)];
    snprintf(t, sizeof *text, "%0*d\n", DEQ_OVERLAP_LINE_MIN - is_short, 0);
    t[0] = letter;
    return t;
}

static struct deq_overlap find(const char *valid, const char *train)
{
    struct deq_overlap o = {9, 9, 9};
    struct deq_err err;
    scratch_put("v.txt", valid);
    CHECK_MSG(!deq_overlap_find(scratch_dir(), "v.txt", train, &o, &err), "%s", err.text);
    return o;
}

TEST(overlap_of_documents)
{
    char a[2000], valid[2000];
    REQUIRE(scratch_begin());
    snprintf(a, sizeof a, "%s%s%s", line_of('a', false), line_of('b', false), line_of('s', true));
    scratch_put("a.txt", a);
    snprintf(a, sizeof a, "%s" MARK "%s", line_of('c', false), line_of('d', false));
    scratch_put("b.txt", a);
    /* the second has half of its long lines in a file, the third all of them, in two files; the first a third */
    snprintf(valid, sizeof valid, "%s%s%s" MARK "title\n%s%s" MARK "%s%s", line_of('x', false), line_of('y', false),
             line_of('c', false), line_of('a', false), line_of('z', false), line_of('b', false), line_of('d', false));
    struct deq_overlap o = find(valid, "a.txt\nb.txt");
    CHECK(o.documents == 3 && o.shared == 2);
    CHECK_EQ(o.line, (size_t)5);
    o = find(valid, "a.txt");
    CHECK(o.documents == 3 && o.shared == 2 && o.line == 5); /* 'b' is half of the third */
    o = find(valid, "b.txt");
    CHECK(o.documents == 3 && o.shared == 1 && o.line == 9);
    /* short lines prove nothing, and a text of none has no documents to compare */
    o = find(line_of('s', true), "a.txt\nb.txt");
    CHECK(!o.documents && !o.shared);
    snprintf(valid, sizeof valid, "%s%s", line_of('s', true), line_of('x', false));
    o = find(valid, "a.txt\nb.txt");
    CHECK(o.documents == 1 && !o.shared);
    struct deq_err err;
    CHECK_EQ(deq_overlap_find(scratch_dir(), "v.txt", "a.txt\nnone.txt", &o, &err), DEQ_ENOTFOUND);
    CHECK_MSG(strstr(err.text, "none.txt"), "%s", err.text);
    scratch_end("v.txt", "a.txt", "b.txt", NULL);
}
