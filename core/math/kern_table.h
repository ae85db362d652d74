/* The table of a level KERN. What is no product of integers may be another level's, KERN_OF, which computes it with the
 * same instructions; else it is the level's own, and named for others. */
#define KERN_PASTE2(level, name) deq_##level##_##name
#define KERN_PASTE(level, name) KERN_PASTE2(level, name)
#ifdef KERN_OF
#define KERN_NAMED(name) KERN_PASTE(KERN_OF, name)
#define KERN_SHARED(type, name) extern type KERN_NAMED(name);
#else
#define KERN_NAMED(name) KERN_PASTE(KERN, name)
#define KERN_SHARED(type, name) extern type KERN_NAMED(name) __attribute__((alias(#name)));
#endif

#define KERN_EACH(K)                                                                                              \
    K(attn) K(attn_i16) K(pack_i16) K(layernorm) K(layernorm_vjp) K(rmsnorm) K(rmsnorm_vjp) K(dot) K(diff_sumsq)  \
    K(axpy) K(add) K(sub) K(mul) K(add_relu) K(max) K(exp_sum) K(scale) K(sigmoid) K(tanh_of) K(swiglu)           \
    K(swiglu_vjp) K(relu2) K(relu2_vjp) K(rope)
#define KERN_DECLARE(name) KERN_SHARED(__typeof__(*((struct deq_kern *)0)->name), name)
#define KERN_ENTRY(name) .name = KERN_NAMED(name),

KERN_EACH(KERN_DECLARE)
KERN_SHARED(__typeof__(*((struct deq_kern *)0)->mm[0]), mm_f32)
KERN_SHARED(__typeof__(*((struct deq_kern *)0)->mm[0]), mm_bf16)

#define KERN_STR2(x) #x
#define KERN_STR(x) KERN_STR2(x)
const struct deq_kern KERN_PASTE(kern, KERN);
const struct deq_kern KERN_PASTE(kern, KERN) = {
    .name = KERN_STR(KERN),
    .mm = {[DEQ_FORMAT_F32] = KERN_NAMED(mm_f32), [DEQ_FORMAT_BF16] = KERN_NAMED(mm_bf16), [DEQ_FORMAT_I16] = mm_i16,
           [DEQ_FORMAT_I8] = mm_i8},
    .quantise = quantise,
    KERN_EACH(KERN_ENTRY)
};
