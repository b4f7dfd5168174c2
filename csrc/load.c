/* Files of counters: their lines about CPUs as rows of numbers. Made by hand because that is what a sample
 * costs: hundreds of lines with ten numbers each, beside the kernel's own work of printing them. */
#include "internal.h"

#include <limits.h>
#include <string.h>

enum { SCHEDSTAT_COLUMNS = 3, SCHEDSTAT_NUMBERS = 9, FIRST_VERSION = 15 };

static const char *after_line(const char *at, const char *end)
{
    const char *newline = memchr(at, '\n', (size_t)(end - at));
    return newline ? newline + 1 : end;
}

/* A number, moving `at` behind it. What is too large for 63 bits is no counter. Returns -EBADMSG where none stands. */
static int64_t take_number(const char **at)
{
    uint64_t value = 0;
    const char *digit = *at;
    for (; *digit >= '0' && *digit <= '9'; digit++) {
        unsigned next = (unsigned)(*digit - '0');
        if (value > ((uint64_t)INT64_MAX - next) / 10)
            return -EBADMSG;
        value = value * 10 + next;
    }
    if (digit == *at)
        return -EBADMSG;
    *at = digit;
    return (int64_t)value;
}

/* Up to `most` numbers with spaces before each, until the end of the line; how many, or -EBADMSG if anything else stands
 * there. Those beyond `most` are looked at and dropped. */
static int64_t take_numbers(const char **at, int64_t *numbers, int64_t most)
{
    int64_t count = 0;
    for (;;) {
        const char *before = *at;
        while (**at == ' ')
            ++*at;
        if (**at == '\n' || **at == '\0')
            return count;
        int64_t value = before == *at ? -EBADMSG : take_number(at);
        if (value < 0)
            return value;
        if (count < most)
            numbers[count] = value;
        count++;
    }
}

/* The start of a line "cpuN" with a number: the one without is the sum of all. */
static int is_of_cpu(const char *line)
{
    return memcmp(line, "cpu", 3) == 0 && line[3] >= '0' && line[3] <= '9';
}

int64_t cl_load_stat(const cl_text *text, int64_t *rows, int64_t most, int64_t *where)
{
    const char *line = text->data, *end = text->data + text->size;
    int64_t count = 0;
    /* They are the first lines: those about interrupts, which can be as long again, are not looked at. */
    for (; text->size && strncmp(line, "cpu", 3) == 0; line = after_line(line, end)) {
        if (!is_of_cpu(line))
            continue;
        int64_t row[CL_LOAD_COLUMNS] = {0};
        const char *at = line + 3;
        row[CL_LOAD_CPU] = take_number(&at);
        int64_t numbers = row[CL_LOAD_CPU] < 0 ? -EBADMSG : take_numbers(&at, row + 1, CL_LOAD_COLUMNS - 1);
        for (int i = 1; i < CL_LOAD_COLUMNS; i++)
            if (row[i] > INT64_MAX / CL_LOAD_COLUMNS) /* whose sum would be below 0 */
                numbers = -EBADMSG;
        if (numbers < CL_LOAD_IDLE) { /* 2.4 had as many */
            *where = line - text->data;
            return -EBADMSG;
        }
        if (count < most)
            memcpy(rows + count * CL_LOAD_COLUMNS, row, sizeof row);
        count++;
    }
    return count;
}

int64_t cl_load_schedstat(const cl_text *text, int64_t *rows, int64_t most, int64_t *where)
{
    const char *line = text->data, *end = text->data + text->size;
    int64_t count = 0;
    *where = 0;
    if (text->size < 8 || memcmp(line, "version ", 8) != 0)
        return -EBADMSG;
    line += 8;
    int64_t version = take_number(&line);
    if (version < FIRST_VERSION)
        return version < 0 ? version : -ENOTSUP;
    for (line = after_line(line, end); line < end; line = after_line(line, end)) {
        if (end - line < 4 || !is_of_cpu(line))
            continue;
        int64_t number[SCHEDSTAT_NUMBERS];
        const char *at = line + 3;
        int64_t cpu = take_number(&at);
        if (cpu < 0 || take_numbers(&at, number, SCHEDSTAT_NUMBERS) < SCHEDSTAT_NUMBERS) {
            *where = line - text->data;
            return -EBADMSG;
        }
        if (count < most) {
            int64_t *row = rows + count * SCHEDSTAT_COLUMNS;
            row[0] = cpu;
            row[1] = number[6];
            row[2] = number[7];
        }
        count++;
    }
    return count;
}
