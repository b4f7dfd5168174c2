/* A snapshot of the environment: one block of strings and one table of pointers, reused from capture to capture. */
#include "internal.h"

#include <stdlib.h>
#include <string.h>

struct cl_environ {
    char *text;
    const char **strings;
    size_t text_room, string_room;
};

int64_t cl_environ_new(cl_environ **out)
{
    *out = calloc(1, sizeof **out);
    return *out ? 0 : -ENOMEM;
}

void cl_environ_free(cl_environ *snapshot)
{
    if (!snapshot)
        return;
    free(snapshot->text);
    free(snapshot->strings);
    free(snapshot);
}

static int64_t make_room(cl_environ *snapshot, size_t text, size_t strings)
{
    if (text > snapshot->text_room) {
        char *grown = realloc(snapshot->text, text * 2);
        if (!grown)
            return -ENOMEM;
        snapshot->text = grown;
        snapshot->text_room = text * 2;
    }
    if (strings > snapshot->string_room) {
        const char **grown = realloc(snapshot->strings, strings * 2 * sizeof *grown);
        if (!grown)
            return -ENOMEM;
        snapshot->strings = grown;
        snapshot->string_room = strings * 2;
    }
    return 0;
}

int64_t cl_environ_load(cl_environ *snapshot, const char *const *from)
{
    size_t used = 0, count = 0;
    int64_t rc = make_room(snapshot, 1, 1);
    if (rc < 0)
        return rc;
    for (; from && from[count]; count++)
        used += strlen(from[count]) + 1;
    rc = make_room(snapshot, used, count + 1);
    if (rc < 0)
        return rc;
    char *at = snapshot->text;
    for (size_t i = 0; i < count; i++) {
        size_t length = strlen(from[i]) + 1;
        memcpy(at, from[i], length);
        snapshot->strings[i] = at;
        at += length;
    }
    snapshot->strings[count] = NULL;
    return (int64_t)count;
}

int64_t cl_environ_capture(cl_environ *snapshot)
{
    return cl_environ_load(snapshot, (const char *const *)cl__sys_environ());
}

const char *const *cl__environ_strings(const cl_environ *snapshot)
{
    static const char *const nothing[] = {NULL}; /* not captured yet; or after clearenv() */
    const char *const *strings = snapshot ? snapshot->strings : (const char *const *)cl__sys_environ();
    return strings ? strings : nothing;
}

static size_t name_length(const char *text)
{
    return strcspn(text, "=");
}

static int same_name(const char *a, const char *b)
{
    size_t length = name_length(a);
    return length == name_length(b) && memcmp(a, b, length) == 0;
}

static int is_named_again(const char *const *changes, size_t at)
{
    for (size_t later = at + 1; changes[later]; later++)
        if (same_name(changes[at], changes[later]))
            return 1;
    return 0;
}

/* `base` with each change applied: "NAME=value" replaces or adds, "NAME" removes. The table is the caller's to free;
 * the strings stay where they are. */
int64_t cl__environ_change(const char *const *base, const char *const *changes, const char ***out)
{
    size_t count = 0, extra = 0, kept = 0;
    while (base[count])
        count++;
    while (changes[extra])
        extra++;
    const char **merged = malloc((count + extra + 1) * sizeof *merged);
    if (!merged)
        return -ENOMEM;
    for (size_t i = 0; i < count; i++) {
        size_t c = 0;
        while (c < extra && !same_name(base[i], changes[c]))
            c++;
        if (c == extra)
            merged[kept++] = base[i];
    }
    for (size_t c = 0; c < extra; c++)
        if (changes[c][name_length(changes[c])] == '=' && !is_named_again(changes, c))
            merged[kept++] = changes[c];
    merged[kept] = NULL;
    *out = merged;
    return 0;
}
