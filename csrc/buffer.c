/* A growing byte buffer that a run keeps from child to child. */
#include "internal.h"

#include <stdlib.h>

int64_t cl__buffer_room(cl__buffer *buffer, size_t least, size_t first)
{
    size_t wanted = buffer->size + least;
    if (wanted <= buffer->capacity)
        return 0;
    size_t capacity = buffer->capacity ? buffer->capacity * 2 : first;
    while (capacity < wanted)
        capacity *= 2;
    uint8_t *grown = realloc(buffer->data, capacity);
    if (!grown)
        return -ENOMEM;
    buffer->data = grown;
    buffer->capacity = capacity;
    return 0;
}

void cl__buffer_trim(cl__buffer *buffer, size_t keep)
{
    buffer->size = 0;
    if (buffer->capacity <= keep)
        return;
    free(buffer->data);
    buffer->data = NULL;
    buffer->capacity = 0;
}
