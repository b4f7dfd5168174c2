/* A job copied into memory of its own, for a child that is not waited for: it execs beside its parent, which goes on, and
 * may free or change what the job was made from. flight_linux.c says how such a child is started and when it is done. */
#include "internal.h"

#include <stdlib.h>
#include <string.h>

typedef struct arena {
    char *at, *end; /* at == NULL: only the sum is taken */
    size_t used;
} arena;

static void *take(arena *to, const void *from, size_t size, size_t align)
{
    to->used = (to->used + align - 1) / align * align;
    void *copy = to->at ? to->at + to->used : NULL;
    to->used += size;
    if (copy && size)
        memcpy(copy, from, size);
    return copy;
}

static const char *take_text(arena *to, const char *text)
{
    return text ? take(to, text, strlen(text) + 1, 1) : NULL;
}

static const char **take_strings(arena *to, const char *const *strings)
{
    size_t count = 0;
    while (strings[count])
        count++;
    const char **copy = take(to, strings, (count + 1) * sizeof *strings, sizeof *strings);
    for (size_t i = 0; i < count; i++) {
        const char *text = take_text(to, strings[i]);
        if (copy)
            copy[i] = text;
    }
    return copy;
}

/* The same calls for measuring and for copying, so that the two cannot differ. */
static void take_all(arena *to, const cl__job *from, cl__job *job, cl_command *command)
{
    const cl_command *source = from->command;
    *job = *from;
    *command = *source;
    job->command = command;
    job->moves = take(to, from->moves, from->move_count * sizeof *from->moves, sizeof *from->moves);
    job->env = take_strings(to, from->env);
    job->paths = take_strings(to, (const char *const *)from->paths);
    command->argv = take_strings(to, source->argv);
    command->cwd = take_text(to, source->cwd);
    command->limits = take(to, source->limits, source->limit_count * sizeof *source->limits, sizeof(uint64_t));
    command->cpus = source->cpus ? take(to, source->cpus, source->cpus_size, sizeof(uint64_t)) : NULL;
    command->nodes = source->nodes ? take(to, source->nodes, source->nodes_size, sizeof(uint64_t)) : NULL;
    command->program = NULL; /* these four have done their work: they are in the paths, the environment and the moves */
    command->env = NULL;
    command->env_changes = NULL;
    command->moves = NULL;
}

size_t cl__job_size(const cl__job *job)
{
    arena sum = {.at = NULL};
    cl__job unused_job;
    cl_command unused;
    take_all(&sum, job, &unused_job, &unused);
    return sum.used;
}

void cl__job_copy(const cl__job *from, cl__job *job, cl_command *command, void *memory)
{
    arena to = {.at = memory};
    take_all(&to, from, job, command);
}
