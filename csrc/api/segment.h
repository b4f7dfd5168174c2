/* Segments: pieces of memory that processes share. A memfd that is passed on, or a file in memory that is attached by
 * its name; both begin with a header that says what they are. On macOS, and in the portable build, ordinary files. */

enum cl_segment_kind {
    CL_SEGMENT_ANY = 0, /* for attaching: whatever it is */
    CL_SEGMENT_BYTES = 1,
    CL_SEGMENT_ARRAY = 2,
    CL_SEGMENT_RING = 3,
    CL_SEGMENT_QUEUE = 4,
    CL_SEGMENT_BROADCAST = 5,
    CL_SEGMENT_MUTEX = 6,
    CL_SEGMENT_SEMAPHORE = 7,
    CL_SEGMENT_EVENT = 8,
    CL_SEGMENT_BARRIER = 9,
    CL_SEGMENT_DEQUE = 10,
    CL_SEGMENT_BUFFERS = 11
};

/* What is wrong with a file that was to be attached; the call returned -EBADMSG. */
enum cl_segment_fault {
    CL_SEGMENT_FINE = 0,
    CL_SEGMENT_NO_FILE = 1,    /* a directory, a device, a pipe */
    CL_SEGMENT_SHORT = 2,      /* found, expected: bytes; not even a header */
    CL_SEGMENT_FOREIGN = 3,    /* found: its first 8 bytes; not ours, or of a machine with another byte order */
    CL_SEGMENT_VERSION = 4,    /* found, expected: of the layout */
    CL_SEGMENT_NOT_READY = 5,  /* whoever makes it is not done, or has died over it */
    CL_SEGMENT_RESIZED = 6,    /* found: the file's bytes, expected: the header's */
    CL_SEGMENT_BOUNDS = 7,     /* found: where its data would end, expected: the file's bytes at most */
    CL_SEGMENT_KIND = 8,       /* found, expected: CL_SEGMENT_* */
    CL_SEGMENT_LAYOUT = 9      /* found, expected: what the kind says of its own part */
};

enum cl_segment_flag {
    CL_SEGMENT_READ_ONLY = 1,
    CL_SEGMENT_POPULATE = 2,   /* all its pages are in our page table before the call returns */
    CL_SEGMENT_LOCK = 4,       /* mlock: never swapped out */
    CL_SEGMENT_BORROWED = 8    /* attaching a plain file: it has no header and no lease */
};

typedef struct cl_segment_plan {
    int64_t size;          /* bytes of data */
    int64_t data_offset;   /* where they begin: a multiple of 64, at least CL_SEGMENT_HEADER */
    const char *about;     /* what the kind says of itself, copied to CL_SEGMENT_ABOUT; or NULL */
    int64_t about_size;    /* at most data_offset - CL_SEGMENT_ABOUT */
    uint64_t layout;
    const uint64_t *nodes; /* NUMA nodes, a mask of whole words, or NULL */
    int32_t node_words;
    int32_t node_mode;     /* MPOL_*, as mbind(2) */
    int32_t kind;
    int32_t flags;         /* CL_SEGMENT_* */
    int32_t huge_shift;    /* log2 of the size of its pages, or 0: the system's. Only without a name */
    int32_t mode;          /* permission bits, exactly; only with a name */
    int64_t owner, group;  /* or -1; only with a name */
} cl_segment_plan;

typedef struct cl_segment_report {
    uint8_t *data;         /* NULL: nothing is mapped */
    int64_t size;          /* bytes of data */
    int64_t data_offset;   /* where they begin in the file, and in the mapping */
    int64_t fd;            /* may be passed on; -1 once it is let go of */
    int64_t file_size;
    uint64_t layout;
    int64_t created_ns;    /* CLOCK_REALTIME */
    int64_t creator;       /* its pid, in its own pid namespace: to be read by people */
    uint64_t found, expected;
    int32_t kind;
    int32_t fault;         /* CL_SEGMENT_* */
    int32_t read_only;
    int32_t unused;
} cl_segment_report;

enum { CL_SEGMENT_ABOUT = 256, CL_SEGMENT_HEADER = 4096 };

typedef struct cl_segment cl_segment;

/* An object for one segment, empty. -ENOMEM.
 * Blocks: no. Threads: any. */
int64_t cl_segment_new(cl_segment **out);

/* Unmap it, close what is open, give up its lease; the object is gone. NULL is allowed. Nobody may use its data any more.
 * Blocks: no. Threads: caller locks. */
void cl_segment_free(cl_segment *segment);

/* The directory where names of segments belong.
 * Blocks: no. Threads: any. */
const char *cl_segment_directory(void);

/* Make one, all zeros, its memory reserved. `path` NULL: it has no name; on Linux a sealed memfd. Else a file, which appears under that name when
 * it is ready, with `mode`; -EEXIST if there is one. -EINTR at a signal: call again, nothing is lost. -EBUSY: the
 * object has a segment. -ENOSPC, -ENOMEM, -EPERM and what the calls say; -ENOTSUP: the platform has no such thing.
 * Blocks: while memory is reserved. Threads: caller locks. */
int64_t cl_segment_create(cl_segment *segment, const char *path, const cl_segment_plan *plan);

/* Attach what is open as `fd` (a duplicate of it is made), or the file at `path` if fd < 0. `kind` and, unless it is 0,
 * `layout` must be the segment's. -EBADMSG: it is not what it must be, and the report says what. -EBUSY. -ENOLCK: somebody has
 * removed the file of its lease (never on Linux).
 * Blocks: as open(2), and for POPULATE and LOCK. Threads: caller locks. */
int64_t cl_segment_attach(cl_segment *segment, int32_t fd, const char *path, int32_t kind, uint64_t layout, int32_t flags);

/* Give up its lease and descriptors; the data stays mapped until the object is freed. Who takes part in what is in it leaves
 * first: who has not is dead to the others from now on, and its calls say -ESTALE.
 * Blocks: no. Threads: any. */
void cl_segment_let_go(cl_segment *segment);

/* What is known of it. 0.
 * Blocks: no. Threads: caller locks. */
int64_t cl_segment_report_of(const cl_segment *segment, cl_segment_report *out);

/* Whether anybody holds the segment open as `fd` (this process too): 1 or 0. -ENOTSUP: the file has no leases.
 * Blocks: no. Threads: any. */
int64_t cl_segment_is_held(int32_t fd);

/* What the file open as `fd` says of itself, without mapping it. 0, or -EBADMSG: see `out->fault`.
 * Blocks: no. Threads: any. */
int64_t cl_segment_peek(int32_t fd, cl_segment_report *out);

/* Remove the segment at `path` if nobody holds it: 1; 0: somebody does. -EBADMSG: it is none. -errno.
 * Blocks: as open(2). Threads: any. */
int64_t cl_segment_clean(const char *path);

/* Remove what processes that were killed have left beside segments: how many files. Always 0 on Linux, where nothing is left.
 * Blocks: as open(2). Threads: any. */
int64_t cl_segment_sweep(void);

/* Open the segment of descriptor `fd` anew, at byte `at` of its file, for reading or writing: a description of its own, for
 * a child's standard stream. What open(2) says: -ENOENT without /proc; -ENOTSUP; -EINTR: call again.
 * Blocks: no. Threads: caller locks. */
int64_t cl_segment_stream(int32_t fd, int32_t writes, int64_t at, cl_opened *out);

/* A file in memory without a header, of `size` bytes, all zeros, none of them reserved; its size is sealed. For what of a
 * segment cannot be a child's standard stream itself.
 * Blocks: no. Threads: caller locks. */
int64_t cl_segment_beside(int64_t size, cl_opened *out);
