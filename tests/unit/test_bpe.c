/* core/text/bpe.c: the merges of a piece against their definition, for short pieces and long ones; bytes as
 * characters. */
#include "core/text/bpe.h"

#include "core/base/mem.h"
#include "core/base/rng.h"
#include "tests/unit/test.h"

enum { LETTERS = 3, MERGES = 14, LONGEST = 300 };

/* Random merges over three letters, each of parts that are there already; no pair twice. */
static void draw_merges(uint64_t seed, struct deq_bpe *b)
{
    *b = (struct deq_bpe){.vocab_size = LETTERS + MERGES, .merge = DEQ_NEW_ARRAY(struct deq_bpe_merge, MERGES)};
    for (int i = 0; i < 256; i++)
        b->byte_id[i] = i >= 'a' && i < 'a' + LETTERS ? i - 'a' : DEQ_BPE_NONE;
    for (uint64_t draw = 0; b->n_merges < MERGES; draw++) {
        const uint32_t n = (uint32_t)b->n_merges, have = LETTERS + n;
        const struct deq_bpe_merge m = {(uint32_t)deq_rng_below(seed, 0, draw, have),
                                        (uint32_t)deq_rng_below(seed, 1, draw, have), n, have};
        bool twice = false;
        for (size_t i = 0; i < n; i++)
            twice = twice || (b->merge[i].left == m.left && b->merge[i].right == m.right);
        if (!twice)
            b->merge[b->n_merges++] = m;
    }
}

/* Again and again the leftmost of the pairs whose merge has the lowest rank. */
static size_t by_definition(const struct deq_bpe_merge *merge, const char *s, size_t n, uint32_t *ids)
{
    for (size_t i = 0; i < n; i++)
        ids[i] = (uint32_t)(s[i] - 'a');
    for (uint32_t rank = 0; rank < MERGES;) {
        size_t at = n;
        for (size_t i = n; i-- > 1;)
            if (ids[i - 1] == merge[rank].left && ids[i] == merge[rank].right)
                at = i;
        if (at == n) {
            rank++;
            continue;
        }
        ids[at - 1] = merge[rank].id;
        memmove(ids + at, ids + at + 1, (--n - at) * sizeof *ids);
        rank = 0;
    }
    return n;
}

TEST(bpe_merges_as_defined)
{
    struct deq_bpe_work work = {0};
    for (uint64_t seed = 0; seed < 300; seed++) {
        struct deq_bpe b;
        struct deq_bpe_merge in_order[MERGES];
        char s[LONGEST];
        uint32_t want[LONGEST];
        draw_merges(seed, &b);
        memcpy(in_order, b.merge, sizeof in_order);
        CHECK_EQ(deq_bpe_index(&b), -1);
        for (uint64_t k = 0; k < 4; k++) {
            struct deq_tokens t = {0};
            const size_t n = 1 + deq_rng_below(seed, 2, k, k % 2 ? 12 : LONGEST);
            for (size_t i = 0; i < n; i++)
                s[i] = (char)('a' + deq_rng_below(seed, 3 + k, i, LETTERS));
            const size_t n_want = by_definition(in_order, s, n, want);
            CHECK(!deq_bpe_encode(&b, s, n, &work, &t, NULL));
            CHECK_MSG(t.n == n_want && !memcmp(t.ids, want, n_want * sizeof *want), "seed %d: %.*s", (int)seed, (int)n,
                      s);
            deq_tokens_free(&t);
        }
        deq_bpe_free(&b);
    }
    deq_bpe_work_free(&work);
}

TEST(bpe_refuses)
{
    struct deq_bpe b;
    struct deq_bpe_work work = {0};
    struct deq_tokens t = {0};
    struct deq_err err;
    draw_merges(1, &b);
    b.merge[5] = (struct deq_bpe_merge){b.merge[2].left, b.merge[2].right, 5, 8};
    CHECK_EQ(deq_bpe_index(&b), 5); /* the pair of merge 2 again */
    deq_bpe_free(&b);
    draw_merges(1, &b);
    deq_mem_fault(1, false);
    CHECK_EQ(deq_bpe_index(&b), -2);
    deq_mem_fault(0, false);
    CHECK_EQ(deq_bpe_index(&b), -1);
    CHECK(deq_bpe_encode(&b, "abxc", 4, &work, &t, &err) == DEQ_EINVAL && strstr(err.text, "0x78"));
    deq_tokens_free(&t);
    deq_bpe_work_free(&work);
    deq_bpe_free(&b);
}

TEST(byte_alphabet_is_a_bijection)
{
    bool seen[0x144] = {false};
    for (unsigned b = 0; b < 256; b++) {
        uint32_t cp = deq_byte_to_cp((uint8_t)b);
        CHECK(cp < 0x144 && !seen[cp] && deq_cp_to_byte(cp) == (int)b);
        seen[cp] = true;
    }
    CHECK(deq_byte_to_cp(' ') == 0x120 && deq_byte_to_cp('\n') == 0x10a && deq_byte_to_cp(173) == 0x143);
    CHECK(deq_cp_to_byte(' ') == -1 && deq_cp_to_byte(0x144) == -1 && deq_cp_to_byte(0x10ffff) == -1);
}
