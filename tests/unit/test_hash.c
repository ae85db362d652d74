/* core/base/hash.c: SipHash. */
#include "core/base/hash.h"

#include "tests/unit/test.h"

/* The reference vectors of SipHash-2-4 with 128 bits: key 00..0f, message 00 01 .. of n bytes. */
TEST(siphash_vectors)
{
    const struct deq_hash key = {{0x0706050403020100u, 0x0f0e0d0c0b0a0908u}};
    unsigned char message[64];
    for (int i = 0; i < 64; i++)
        message[i] = (unsigned char)i;
    static const struct {
        size_t n;
        unsigned char out[16];
    } vectors[] = {
        {0, {0xa3, 0x81, 0x7f, 0x04, 0xba, 0x25, 0xa8, 0xe6, 0x6d, 0xf6, 0x72, 0x14, 0xc7, 0x55, 0x02, 0x93}},
        {1, {0xda, 0x87, 0xc1, 0xd8, 0x6b, 0x99, 0xaf, 0x44, 0x34, 0x76, 0x59, 0x11, 0x9b, 0x22, 0xfc, 0x45}},
    };
    for (size_t i = 0; i < 2; i++) {
        const struct deq_hash h = deq_siphash(&key, message, vectors[i].n);
        unsigned char got[16];
        for (int k = 0; k < 16; k++)
            got[k] = (unsigned char)(h.h[k / 8] >> (8 * (k % 8)));
        CHECK_MSG(!memcmp(got, vectors[i].out, 16), "message of %zu bytes", vectors[i].n);
    }
    struct deq_hash a = deq_siphash(&key, message, 15), b = deq_siphash(&key, message, 16);
    CHECK(!deq_hash_equal(&a, &b));
    CHECK(deq_hash_key(&a) && deq_hash_key(&b) && !deq_hash_equal(&a, &b));
}
