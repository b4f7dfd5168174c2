/* Segments whose bytes are somebody else's, of fixed seeds, while they are written over: a small part of what `make fuzz` tries.
 * See tests/fuzz/image.h. */
#include "../fuzz/image.h"

enum { INPUTS = 1000, CHANGES = 8 };

/* Some bytes of it are others: numbers that somebody would choose. */
static void change(uint8_t *input, size_t all, uint64_t *state)
{
    for (uint64_t i = any(state) % CHANGES; i > 0; i--) {
        uint64_t value = any(state) & 1 ? any(state) : (any(state) & 1 ? 0 : ~0ULL) + any(state) % 32 - 16;
        /* Mostly where the header, the description and the words are. */
        size_t in = any(state) % 3 ? 512 + (any(state) & 1) * 4096 : all, at = any(state) % (in < all ? in : all);
        size_t size = 1ULL << any(state) % 4;
        if (any(state) % 4 == 0) { /* what it says of its geometry: others that could be */
            value = 1ULL << any(state) % 24;
            at = PREFIX + CL_SEGMENT_ABOUT + any(state) % 12 * 4;
            size = 4;
        }
        memcpy(input + at, &value, size < all - at ? size : all - at);
    }
}

int main(void)
{
    int fds = count_fds();
    for (uint64_t seed = 0; seed < INPUTS; seed++) {
        size_t all;
        uint64_t state = seed * 0x9e3779b97f4a7c15ULL + 1;
        say_about("input %d", (int)seed);
        uint8_t *input = make_input((int)(seed % KINDS), seed, &all);
        use_image(input, all);
        for (int i = 0; i < 4; i++) {
            change(input, all, &state);
            use_image(input, any(&state) % 8 ? all : PREFIX + any(&state) % (all - PREFIX));
        }
        free(input);
    }
    CHECK_IS(count_fds(), fds);
    printf("ok (%d inputs)\n", 5 * INPUTS);
    return 0;
}
