/* A job as the argv of the exec trampoline, and back.
 *
 *     argv[0]  the trampoline        argv[2]  cwd, or ""
 *     argv[1]  numbers, in hex       argv[3..] the paths to try, then the program's own argv
 *
 * The environment needs no place: it is the trampoline's own. Both ends are built from one tree and installed together,
 * so the only version check is the count of numbers. */
#include "internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HEAD = 38, NUMBER_ROOM = 17 /* 16 digits and a blank */ };

/* One list of the fixed numbers for both directions: `visit` stores or loads each. */
typedef void (*visit_fn)(void *cursor, uint64_t *number);

typedef struct numbers {
    uint64_t contained, own_group, process_group, parent, cgroup_fd, report_fd, moves, paths, argc, has_cwd;
} numbers;

static void visit_all(cl_command *c, numbers *n, visit_fn visit, void *cursor)
{
    uint64_t *wide[] = {&c->options, &c->signal_mask, &c->signal_defaults, &c->signal_ignores,
                        &c->runtime_ns, &c->deadline_ns, &c->period_ns,
                        &n->contained, &n->own_group, &n->process_group, &n->parent, &n->cgroup_fd, &n->report_fd,
                        &n->moves, &n->paths, &n->argc, &n->has_cwd};
    uint32_t *counts[] = {&c->limit_count, &c->cpus_size, &c->nodes_size, &c->group_count, &c->uid, &c->gid};
    int32_t *ints[] = {&c->cwd_fd, &c->umask, &c->terminal_fd, &c->nice, &c->sched_policy, &c->sched_priority,
                       &c->io_priority, &c->oom_score_adj, &c->death_signal, &c->contain, &c->process_group,
                       &c->util_min, &c->util_max, &c->memory_policy, &c->autogroup};
    for (size_t i = 0; i < sizeof wide / sizeof *wide; i++)
        visit(cursor, wide[i]);
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        uint64_t number = *counts[i];
        visit(cursor, &number);
        *counts[i] = (uint32_t)number;
    }
    for (size_t i = 0; i < sizeof ints / sizeof *ints; i++) {
        uint64_t number = (uint32_t)*ints[i];
        visit(cursor, &number);
        *ints[i] = (int32_t)(uint32_t)number;
    }
}

static void put_number(void *cursor, uint64_t *number)
{
    char **at = cursor;
    *at += sprintf(*at, "%llx ", (unsigned long long)*number);
}

static void get_number(void *cursor, uint64_t *number)
{
    char **at = cursor;
    *number = strtoull(*at, at, 16);
}

static size_t count_strings(const char *const *strings)
{
    size_t count = 0;
    while (strings[count])
        count++;
    return count;
}

int64_t cl__wire_pack(const cl__job *job, const cl__carried *carried, const char *trampoline, const char ***out)
{
    cl_command command = *job->command;
    if (!command.cpus)
        command.cpus_size = 0;
    if (!command.nodes)
        command.nodes_size = 0;
    if (!(command.options & CL_OPT_GROUPS))
        command.group_count = 0;
    size_t paths = count_strings(job->paths), argc = count_strings(command.argv);
    size_t strings = 3 + paths + argc + 1;
    size_t words = HEAD + job->move_count + 3 * (size_t)command.limit_count + command.cpus_size +
                   command.nodes_size + command.group_count;
    const char **argv = malloc(strings * sizeof *argv + words * NUMBER_ROOM + 1);
    if (!argv)
        return -ENOMEM;
    char *text = (char *)(argv + strings), *at = text;
    command.cwd_fd = carried->cwd_fd;
    command.terminal_fd = carried->terminal_fd;
    numbers n = {.contained = (uint64_t)job->contained, .own_group = (uint64_t)job->own_group,
                 .process_group = (uint64_t)job->process_group, .parent = (uint64_t)job->parent,
                 .cgroup_fd = (uint64_t)(uint32_t)carried->cgroup_fd, .report_fd = (uint64_t)carried->report_fd,
                 .moves = job->move_count, .paths = paths, .argc = argc, .has_cwd = command.cwd != NULL};
    visit_all(&command, &n, put_number, &at);
    for (size_t i = 0; i < job->move_count; i++)
        put_number(&at, &(uint64_t){(uint64_t)job->moves[i].target});
    for (uint32_t i = 0; i < command.limit_count; i++) {
        put_number(&at, &(uint64_t){(uint64_t)command.limits[i].resource});
        put_number(&at, &(uint64_t){command.limits[i].soft});
        put_number(&at, &(uint64_t){command.limits[i].hard});
    }
    for (uint32_t i = 0; command.cpus && i < command.cpus_size; i++)
        put_number(&at, &(uint64_t){command.cpus[i]});
    for (uint32_t i = 0; i < command.nodes_size; i++)
        put_number(&at, &(uint64_t){command.nodes[i]});
    for (uint32_t i = 0; i < command.group_count; i++)
        put_number(&at, &(uint64_t){command.groups[i]});
    argv[0] = trampoline;
    argv[1] = text;
    argv[2] = command.cwd ? command.cwd : "";
    memcpy(argv + 3, job->paths, paths * sizeof *argv);
    memcpy(argv + 3 + paths, command.argv, (argc + 1) * sizeof *argv);
    *out = argv; /* one block: free() it */
    return 0;
}

/* The trampoline's side; it ends in exec, so nothing is ever freed. */
int64_t cl__wire_unpack(int argc, char **argv, cl__job *job, cl_command *command)
{
    if (argc < 5)
        return -EINVAL;
    char *at = argv[1];
    numbers n;
    visit_all(command, &n, get_number, &at);
    if ((size_t)argc != 3 + n.paths + n.argc)
        return -EINVAL;
    cl__move *moves = calloc(n.moves + 1, sizeof *moves);
    cl_limit *limits = calloc(command->limit_count + 1, sizeof *limits);
    uint8_t *cpus = calloc(command->cpus_size + 8, 1), *nodes = calloc(command->nodes_size + 8, 1);
    uint32_t *groups = calloc(command->group_count + 1, sizeof *groups);
    const char **paths = calloc(n.paths + 1, sizeof *paths);
    if (!moves || !limits || !cpus || !nodes || !groups || !paths)
        return -ENOMEM;
    uint64_t number;
    for (size_t i = 0; i < n.moves; i++) {
        get_number(&at, &number);
        moves[i] = (cl__move){.source = (int)number, .target = (int)number}; /* posix_spawn has put it there */
    }
    for (uint32_t i = 0; i < command->limit_count; i++) {
        get_number(&at, &number);
        limits[i].resource = (int32_t)number;
        get_number(&at, &limits[i].soft);
        get_number(&at, &limits[i].hard);
    }
    for (uint32_t i = 0; i < command->cpus_size; i++) {
        get_number(&at, &number);
        cpus[i] = (uint8_t)number;
    }
    for (uint32_t i = 0; i < command->nodes_size; i++) {
        get_number(&at, &number);
        nodes[i] = (uint8_t)number;
    }
    for (uint32_t i = 0; i < command->group_count; i++) {
        get_number(&at, &number);
        groups[i] = (uint32_t)number;
    }
    memcpy(paths, argv + 3, n.paths * sizeof *paths);
    command->argv = (const char *const *)argv + 3 + n.paths;
    command->cwd = n.has_cwd ? argv[2] : NULL;
    command->limits = limits;
    command->cpus = command->cpus_size ? cpus : NULL;
    command->nodes = command->nodes_size ? nodes : NULL;
    command->groups = groups;
    *job = (cl__job){.command = command, .paths = paths, .moves = moves, .move_count = n.moves,
                     .contained = (int64_t)n.contained, .own_group = (int)n.own_group,
                     .process_group = (int)n.process_group, .parent = (int)n.parent,
                     .cgroup_fd = (int)(uint32_t)n.cgroup_fd, .report_fd = (int)n.report_fd};
    return 0;
}
