/* A stand-in for libnvidia-ml.so.1 that answers from a scenario file.
 *
 * It speaks the C interface that the `pynvml` binding calls through ctypes (nvmlMemory_v2, process lists
 * v3, PCI info v3, ...), so that tests exercise the real binding: buffer sizes, struct versions, error codes.
 *
 * HFGPU_FAKE_NVML      the scenario file: lines of `key=value`, `#` starts a comment, the last of two
 *                      equal keys wins; values are raw bytes, numbers may end in KiB, MiB or GiB.
 * HFGPU_FAKE_NVML_LOG  optional file to which every init and shutdown appends a line.
 *
 * Keys:  driver.version, driver.cuda (12040), nvml.version, count
 *        init.error=NAME                      nvmlInit fails with NVML_ERROR_NAME
 *        error.FUNCTION=NAME                  any system call fails
 *        deviceN.FIELD                        see the functions below; `device*.FIELD` serves every card
 *        deviceN.error.FUNCTION=NAME          that call fails for that card; FUNCTION may be `*`
 *        deviceN.migK.FIELD                   the same for MIG instance K of card N
 *        deviceN.processK=PID|KIND|BYTES|NAME KIND compute or graphics, BYTES may be NA
 * A field that the file does not give is NOT_SUPPORTED, as on a card that lacks it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int nvmlReturn_t;
enum { SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6,
       INSUFFICIENT_SIZE = 7, ARGUMENT_VERSION_MISMATCH = 25 };

static const struct { const char *name; int code; const char *text; } ERRORS[] = {
    {"SUCCESS", 0, "Success"},
    {"UNINITIALIZED", 1, "Uninitialized"},
    {"INVALID_ARGUMENT", 2, "Invalid Argument"},
    {"NOT_SUPPORTED", 3, "Not Supported"},
    {"NO_PERMISSION", 4, "Insufficient Permissions"},
    {"NOT_FOUND", 6, "Not Found"},
    {"INSUFFICIENT_SIZE", 7, "Insufficient Size"},
    {"DRIVER_NOT_LOADED", 9, "Driver Not Loaded"},
    {"TIMEOUT", 10, "Timeout"},
    {"FUNCTION_NOT_FOUND", 13, "Function Not Found"},
    {"CORRUPTED_INFOROM", 14, "Corrupted infoROM"},
    {"GPU_IS_LOST", 15, "GPU is lost"},
    {"RESET_REQUIRED", 16, "GPU requires reset"},
    {"OPERATING_SYSTEM", 17, "The operating system has blocked the request"},
    {"LIB_RM_VERSION_MISMATCH", 18, "Driver/library version mismatch"},
    {"MEMORY", 20, "Insufficient Memory"},
    {"ARGUMENT_VERSION_MISMATCH", 25, "Argument version mismatch"},
    {"NOT_READY", 27, "Not ready"},
    {"GPU_NOT_FOUND", 28, "GPU not found"},
    {"UNKNOWN", 999, "Unknown Error"},
};
enum { N_ERRORS = sizeof ERRORS / sizeof *ERRORS };

/* ---- the scenario ------------------------------------------------------------------------------ */

enum { MAX_LINES = 4096, MAX_DEVICES = 64, MAX_MIG = 8, MAX_PROCESSES = 64 };
static struct { char *key, *value; } lines[MAX_LINES];
static int n_lines, loaded, references;

static void load(void) {
    if (loaded) return;
    loaded = 1;
    const char *path = getenv("HFGPU_FAKE_NVML");
    FILE *f = path ? fopen(path, "rb") : NULL;
    if (!f) {
        fprintf(stderr, "fake nvml: cannot read the scenario %s\n", path ? path : "(HFGPU_FAKE_NVML is not set)");
        abort();
    }
    char buffer[4096];
    while (fgets(buffer, sizeof buffer, f) && n_lines < MAX_LINES) {
        buffer[strcspn(buffer, "\r\n")] = 0;
        char *equals = strchr(buffer, '=');
        if (buffer[0] == '#' || !equals) continue;
        *equals = 0;
        lines[n_lines].key = strdup(buffer);
        lines[n_lines++].value = strdup(equals + 1);
    }
    fclose(f);
}

static const char *find(const char *key) {
    load();
    for (int i = n_lines - 1; i >= 0; i--)
        if (!strcmp(lines[i].key, key)) return lines[i].value;
    return NULL;
}

static int error_code(const char *name) {
    for (int i = 0; i < N_ERRORS; i++)
        if (!strcmp(ERRORS[i].name, name)) return ERRORS[i].code;
    fprintf(stderr, "fake nvml: unknown error name %s\n", name);
    abort();
}

static unsigned long long number(const char *text) {
    if (!strcmp(text, "NA")) return ~0ULL;
    char *end;
    unsigned long long n = strtoull(text, &end, 0);
    if (!strcmp(end, "KiB")) return n << 10;
    if (!strcmp(end, "MiB")) return n << 20;
    if (!strcmp(end, "GiB")) return n << 30;
    return n;
}

static void journal(const char *what) {
    const char *path = getenv("HFGPU_FAKE_NVML_LOG");
    FILE *f = path ? fopen(path, "ab") : NULL;
    if (!f) return;
    fprintf(f, "%s\n", what);
    fclose(f);
}

/* ---- handles: one per card, one per MIG instance -------------------------------------------------- */

typedef struct { int device, mig; } Handle;  /* mig is -1 for the card itself */
static Handle handles[MAX_DEVICES][MAX_MIG + 1];

static Handle *handle_of(int device, int mig) {
    Handle *h = &handles[device][mig + 1];
    h->device = device;
    h->mig = mig;
    return h;
}

static const char *field(Handle *h, const char *name) {
    char key[256];
    const char *value;
    if (h->mig >= 0) {
        snprintf(key, sizeof key, "device%d.mig%d.%s", h->device, h->mig, name);
        return find(key);
    }
    snprintf(key, sizeof key, "device%d.%s", h->device, name);
    if ((value = find(key))) return value;
    snprintf(key, sizeof key, "device*.%s", name);
    return find(key);
}

/* SUCCESS, or the error the scenario wants for this call */
static int refusal(Handle *h, const char *function) {
    char key[256];
    const char *value;
    if (!references) return UNINITIALIZED;
    if (!h) return INVALID_ARGUMENT;
    snprintf(key, sizeof key, "error.%s", function);
    if ((value = field(h, key)) || (value = field(h, "error.*"))) return error_code(value);
    return SUCCESS;
}

static int system_refusal(const char *function) {
    char key[256];
    const char *value;
    snprintf(key, sizeof key, "error.%s", function);
    return (value = find(key)) ? error_code(value) : SUCCESS;
}

static int put_text(const char *value, char *out, unsigned size) {
    if (!value) return NOT_SUPPORTED;
    if (strlen(value) + 1 > size) return INSUFFICIENT_SIZE;
    strcpy(out, value);
    return SUCCESS;
}

static int put_uint(const char *value, unsigned *out) {
    if (!value) return NOT_SUPPORTED;
    *out = (unsigned)number(value);
    return SUCCESS;
}

#define ASK(h, name) do { int r_ = refusal(h, name); if (r_) return r_; } while (0)
#define DEVICE_UINT(function, name) \
    nvmlReturn_t function(Handle *h, unsigned *out) { ASK(h, #function); return put_uint(field(h, name), out); }
#define DEVICE_TEXT(function, name) \
    nvmlReturn_t function(Handle *h, char *out, unsigned size) { \
        ASK(h, #function); return put_text(field(h, name), out, size); }

/* ---- system --------------------------------------------------------------------------------------- */

nvmlReturn_t nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    if (!references) loaded = n_lines = 0;  /* a closed library reads its scenario anew, so one process can go through many */
    const char *error = find("init.error");
    journal("init");
    if (error) return error_code(error);
    references++;
    return SUCCESS;
}
nvmlReturn_t nvmlInit_v2(void) { return nvmlInitWithFlags(0); }

nvmlReturn_t nvmlShutdown(void) {
    journal("shutdown");
    if (!references) return UNINITIALIZED;
    references--;
    return SUCCESS;
}

const char *nvmlErrorString(nvmlReturn_t code) {
    for (int i = 0; i < N_ERRORS; i++)
        if (ERRORS[i].code == code) return ERRORS[i].text;
    return "Unknown Error";
}

/* This one works without nvmlInit, as the real one does. */
nvmlReturn_t nvmlSystemGetNVMLVersion(char *out, unsigned size) {
    int error = system_refusal("nvmlSystemGetNVMLVersion");
    return error ? error : put_text(find("nvml.version"), out, size);
}

nvmlReturn_t nvmlSystemGetDriverVersion(char *out, unsigned size) {
    int error = system_refusal("nvmlSystemGetDriverVersion");
    if (!references) return UNINITIALIZED;
    return error ? error : put_text(find("driver.version"), out, size);
}

nvmlReturn_t nvmlSystemGetCudaDriverVersion_v2(int *out) {
    int error = system_refusal("nvmlSystemGetCudaDriverVersion_v2");
    return error ? error : put_uint(find("driver.cuda"), (unsigned *)out);
}
nvmlReturn_t nvmlSystemGetCudaDriverVersion(int *out) { return nvmlSystemGetCudaDriverVersion_v2(out); }

nvmlReturn_t nvmlDeviceGetCount_v2(unsigned *out) {
    int error = system_refusal("nvmlDeviceGetCount_v2");
    if (!references) return UNINITIALIZED;
    return error ? error : put_uint(find("count"), out);
}

nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned index, Handle **out) {
    const char *count = find("count");
    if (!references) return UNINITIALIZED;
    if (!count || index >= number(count) || index >= MAX_DEVICES) return INVALID_ARGUMENT;
    Handle *h = handle_of((int)index, -1);
    const char *error = field(h, "error.nvmlDeviceGetHandleByIndex_v2");
    if (error) return error_code(error);
    *out = h;
    return SUCCESS;
}

/* ---- one card ------------------------------------------------------------------------------------- */

DEVICE_TEXT(nvmlDeviceGetName, "name")
DEVICE_TEXT(nvmlDeviceGetUUID, "uuid")
DEVICE_UINT(nvmlDeviceGetPowerUsage, "power")                 /* milliwatts */
DEVICE_UINT(nvmlDeviceGetEnforcedPowerLimit, "power_limit")   /* milliwatts */
DEVICE_UINT(nvmlDeviceGetPersistenceMode, "persistence")
DEVICE_UINT(nvmlDeviceGetDisplayActive, "display_active")
DEVICE_UINT(nvmlDeviceGetComputeMode, "compute_mode")
DEVICE_UINT(nvmlDeviceGetNumGpuCores, "cores")
DEVICE_UINT(nvmlDeviceGetGpuInstanceId, "gpu_instance")
DEVICE_UINT(nvmlDeviceGetComputeInstanceId, "compute_instance")

nvmlReturn_t nvmlDeviceGetCudaComputeCapability(Handle *h, int *major, int *minor) {
    ASK(h, "nvmlDeviceGetCudaComputeCapability");
    const char *value = field(h, "capability");  /* "7.5" */
    return value && sscanf(value, "%d.%d", major, minor) == 2 ? SUCCESS : NOT_SUPPORTED;
}

typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } Memory_v2;
_Static_assert(sizeof(Memory_v2) == 40, "nvmlMemory_v2_t");

nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(Handle *h, Memory_v2 *out) {
    ASK(h, "nvmlDeviceGetMemoryInfo_v2");
    if (out->version != (sizeof(Memory_v2) | 2u << 24)) return ARGUMENT_VERSION_MISMATCH;
    const char *total = field(h, "memory.total"), *used = field(h, "memory.used");
    const char *reserved = field(h, "memory.reserved"), *free = field(h, "memory.free");
    if (!total || !used) return NOT_SUPPORTED;
    out->total = number(total);
    out->used = number(used);
    out->reserved = reserved ? number(reserved) : 0;
    out->free = free ? number(free) : out->total - out->used - out->reserved;
    return SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMemoryInfo(Handle *h, Memory *out) {
    Memory_v2 v2 = {.version = sizeof(Memory_v2) | 2u << 24};
    ASK(h, "nvmlDeviceGetMemoryInfo");
    const char *total = field(h, "memory.total");
    if (!total) return NOT_SUPPORTED;
    const char *used = field(h, "memory.used"), *reserved = field(h, "memory.reserved");
    v2.total = number(total);
    v2.used = used ? number(used) : 0;
    v2.reserved = reserved ? number(reserved) : 0;
    out->total = v2.total;
    out->used = v2.used + v2.reserved;  /* version 1 counts the reserved bytes as used */
    out->free = v2.total - out->used;
    return SUCCESS;
}

nvmlReturn_t nvmlDeviceGetUtilizationRates(Handle *h, unsigned out[2]) {
    ASK(h, "nvmlDeviceGetUtilizationRates");
    int error = put_uint(field(h, "utilization"), &out[0]);
    return error ? error : put_uint(field(h, "memory_utilization"), &out[1]);
}

typedef struct { unsigned version, sensor; int temperature; } Temperature;
nvmlReturn_t nvmlDeviceGetTemperatureV(Handle *h, Temperature *out) {
    ASK(h, "nvmlDeviceGetTemperatureV");
    if (out->version != (sizeof(Temperature) | 1u << 24)) return ARGUMENT_VERSION_MISMATCH;
    return put_uint(field(h, "temperature"), (unsigned *)&out->temperature);
}
nvmlReturn_t nvmlDeviceGetTemperature(Handle *h, unsigned sensor, unsigned *out) {
    (void)sensor;
    ASK(h, "nvmlDeviceGetTemperature");
    return put_uint(field(h, "temperature"), out);
}

static const char *clock_name(unsigned type, int maximum) {
    switch (type) {
    case 1: return maximum ? "max_sm_clock" : "sm_clock";
    case 2: return maximum ? "max_memory_clock" : "memory_clock";
    default: return "no_such_clock";
    }
}
nvmlReturn_t nvmlDeviceGetClockInfo(Handle *h, unsigned type, unsigned *out) {
    ASK(h, "nvmlDeviceGetClockInfo");
    return put_uint(field(h, clock_name(type, 0)), out);
}
nvmlReturn_t nvmlDeviceGetMaxClockInfo(Handle *h, unsigned type, unsigned *out) {
    ASK(h, "nvmlDeviceGetMaxClockInfo");
    return put_uint(field(h, clock_name(type, 1)), out);
}

nvmlReturn_t nvmlDeviceGetCurrentClocksEventReasons(Handle *h, unsigned long long *out) {
    ASK(h, "nvmlDeviceGetCurrentClocksEventReasons");
    const char *value = field(h, "clock_reasons");
    if (!value) return NOT_SUPPORTED;
    *out = number(value);
    return SUCCESS;
}
nvmlReturn_t nvmlDeviceGetCurrentClocksThrottleReasons(Handle *h, unsigned long long *out) {
    ASK(h, "nvmlDeviceGetCurrentClocksThrottleReasons");
    const char *value = field(h, "clock_reasons");
    if (!value) return NOT_SUPPORTED;
    *out = number(value);
    return SUCCESS;
}

nvmlReturn_t nvmlDeviceGetEccMode(Handle *h, unsigned *current, unsigned *pending) {
    ASK(h, "nvmlDeviceGetEccMode");
    *pending = 0;
    int error = put_uint(field(h, "ecc"), current);
    if (!error) *pending = *current;
    return error;
}

typedef struct {
    char busIdLegacy[16];
    unsigned domain, bus, device, pciDeviceId, pciSubSystemId;
    char busId[32];
} PciInfo;
nvmlReturn_t nvmlDeviceGetPciInfo_v3(Handle *h, PciInfo *out) {
    ASK(h, "nvmlDeviceGetPciInfo_v3");
    const char *bus = field(h, "pci");  /* "00000000:65:00.0" */
    if (!bus) return NOT_SUPPORTED;
    memset(out, 0, sizeof *out);
    sscanf(bus, "%x:%x:%x", &out->domain, &out->bus, &out->device);
    return put_text(bus, out->busId, sizeof out->busId);
}

/* ---- MIG ------------------------------------------------------------------------------------------ */

nvmlReturn_t nvmlDeviceGetMigMode(Handle *h, unsigned *current, unsigned *pending) {
    ASK(h, "nvmlDeviceGetMigMode");
    int error = put_uint(field(h, "mig"), current);
    if (!error) *pending = *current;
    return error;
}

nvmlReturn_t nvmlDeviceGetMaxMigDeviceCount(Handle *h, unsigned *out) {
    ASK(h, "nvmlDeviceGetMaxMigDeviceCount");
    return put_uint(field(h, "mig.max"), out);
}

nvmlReturn_t nvmlDeviceGetMigDeviceHandleByIndex(Handle *h, unsigned index, Handle **out) {
    ASK(h, "nvmlDeviceGetMigDeviceHandleByIndex");
    if (index >= MAX_MIG) return INVALID_ARGUMENT;
    Handle *child = handle_of(h->device, (int)index);
    if (!field(child, "uuid") && !field(child, "name")) return NOT_FOUND;
    *out = child;
    return SUCCESS;
}

typedef struct {
    unsigned multiprocessorCount, rest[7];
    unsigned long long memorySizeMB;
} Attributes;
nvmlReturn_t nvmlDeviceGetAttributes_v2(Handle *h, Attributes *out) {
    ASK(h, "nvmlDeviceGetAttributes_v2");
    if (h->mig < 0) return NOT_SUPPORTED;  /* the real call serves MIG instances only */
    memset(out, 0, sizeof *out);
    const char *total = field(h, "memory.total");
    out->memorySizeMB = total ? number(total) >> 20 : 0;
    return put_uint(field(h, "sm_count"), &out->multiprocessorCount);
}

/* ---- processes ------------------------------------------------------------------------------------ */

typedef struct { unsigned pid; unsigned long long used; unsigned gpu_instance, compute_instance; } Process;
_Static_assert(sizeof(Process) == 24, "nvmlProcessInfo_t");

static nvmlReturn_t processes(Handle *h, const char *kind, unsigned *count, Process *out) {
    Process found[MAX_PROCESSES];
    unsigned n = 0;
    for (int i = 0; i < MAX_PROCESSES; i++) {
        char key[32], this_kind[16], bytes[32];
        unsigned pid;
        snprintf(key, sizeof key, "process%d", i);
        const char *value = field(h, key);
        if (!value || sscanf(value, "%u|%15[^|]|%31[^|]", &pid, this_kind, bytes) != 3) continue;
        if (strcmp(this_kind, kind)) continue;
        const char *gi = field(h, "gpu_instance"), *ci = field(h, "compute_instance");
        found[n++] = (Process){pid, number(bytes), gi ? (unsigned)number(gi) : ~0u, ci ? (unsigned)number(ci) : ~0u};
    }
    if (!n) { *count = 0; return SUCCESS; }
    if (!out || *count < n) { *count = n; return INSUFFICIENT_SIZE; }
    *count = n;
    memcpy(out, found, n * sizeof *found);
    return SUCCESS;
}

nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v3(Handle *h, unsigned *count, Process *out) {
    ASK(h, "nvmlDeviceGetComputeRunningProcesses_v3");
    return processes(h, "compute", count, out);
}
nvmlReturn_t nvmlDeviceGetGraphicsRunningProcesses_v3(Handle *h, unsigned *count, Process *out) {
    ASK(h, "nvmlDeviceGetGraphicsRunningProcesses_v3");
    return processes(h, "graphics", count, out);
}

nvmlReturn_t nvmlSystemGetProcessName(unsigned pid, char *out, unsigned size) {
    int error = system_refusal("nvmlSystemGetProcessName");
    if (error) return error;
    for (int i = 0; i < n_lines; i++) {
        unsigned this_pid;
        int name_at = 0;
        if (!strstr(lines[i].key, ".process")) continue;
        if (sscanf(lines[i].value, "%u|%*[^|]|%*[^|]|%n", &this_pid, &name_at) != 1 || !name_at) continue;
        if (this_pid != pid) continue;
        if (!lines[i].value[name_at]) return NOT_FOUND;  /* the process has gone meanwhile */
        strncpy(out, lines[i].value + name_at, size - 1);
        out[size - 1] = 0;
        return SUCCESS;
    }
    return NOT_FOUND;
}
