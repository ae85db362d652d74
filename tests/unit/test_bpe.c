/* core/text/bpe.c: bytes as characters; merges are tested through the tokenizer. */
#include "core/text/bpe.h"

#include "tests/unit/tokenizers.h"

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
