/* What libFuzzer calls; and with --seeds DIRECTORY, as another program, what it begins with. See image.h and `make fuzz`. */
#include "image.h"

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t all);
int LLVMFuzzerInitialize(int *count, char ***arguments);

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t all)
{
    use_image(input, all);
    return 0;
}

static void write_seeds(const char *directory)
{
    char path[4096];
    for (int seed = 0; seed < 20 * KINDS; seed++) {
        size_t all;
        uint8_t *input = make_input(seed % KINDS, (uint64_t)seed, &all);
        snprintf(path, sizeof path, "%s/%d", directory, seed);
        int fd = MUST(__real_open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
        CHECK_IS(write(fd, input, all), all);
        close(fd);
        free(input);
    }
}

int LLVMFuzzerInitialize(int *count, char ***arguments)
{
    if (*count == 3 && strcmp((*arguments)[1], "--seeds") == 0) {
        write_seeds((*arguments)[2]);
        _exit(0);
    }
    return 0;
}
