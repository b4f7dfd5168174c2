/* What to exec, in order: the program itself if it has a slash, else one candidate per directory of the child's PATH.
 * Built in the parent; the child only tries them, after its chdir, so relative entries mean the child's directory. */
#include "internal.h"

#include <string.h>

static const char *path_of(const char *const *env)
{
    for (; *env; env++)
        if (strncmp(*env, "PATH=", 5) == 0)
            return *env + 5;
    return "/bin:/usr/bin"; /* what execvp falls back to */
}

/* An empty program has a candidate too: exec says ENOENT, as for any other name that is not there. */
static int is_searched(const char *program)
{
    return *program && !strchr(program, '/');
}

static size_t count_entries(const char *path)
{
    size_t count = 1;
    for (; *path; path++)
        count += *path == ':';
    return count;
}

size_t cl__paths_size(const char *program, const char *const *env)
{
    if (!is_searched(program))
        return 2 * sizeof(char *);
    const char *path = path_of(env);
    size_t entries = count_entries(path);
    return (entries + 1) * sizeof(char *) + strlen(path) + entries * (strlen(program) + 2);
}

void cl__paths_build(const char *program, const char *const *env, void *memory, size_t size, const char ***out)
{
    const char **paths = memory;
    *out = paths;
    if (!is_searched(program)) {
        paths[0] = program;
        paths[1] = NULL;
        return;
    }
    const char *path = path_of(env);
    size_t length = strlen(program);
    char *text = (char *)memory + (count_entries(path) + 1) * sizeof(char *);
    const char *limit = (const char *)memory + size; /* another thread cannot have grown PATH: env is a snapshot */
    for (;;) {
        size_t span = strcspn(path, ":");
        if (text + span + length + 2 > limit)
            break;
        *paths++ = text;
        memcpy(text, path, span);
        text += span;
        if (span)
            *text++ = '/';
        memcpy(text, program, length + 1);
        text += length + 1;
        path += span;
        if (!*path++)
            break;
    }
    *paths = NULL;
}
