/* Loaded into Triton before other libraries (LD_PRELOAD): a process that dies while it holds a mutex in shared
 * memory is survived by the processes that share the mutex.
 *
 * Triton's Python backend (24.10) guards each response by a robust mutex of boost::interprocess, and the process of
 * a model holds it from its message until it waits for Triton. Where that process is killed meanwhile, locking
 * returns EOWNERDEAD, boost throws lock_exception, and as ResponseSendDecoupled locks in a destructor
 * (~ScopedDefer), the server ends with status 134 and all its models are started again. With this library such a mutex
 * is made usable again and is locked: it guards a few fields that only this response has.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <time.h>

static int survived(pthread_mutex_t *mutex, int result)
{
    return result == EOWNERDEAD ? pthread_mutex_consistent(mutex) : result;
}

int pthread_mutex_lock(pthread_mutex_t *mutex)
{
    static int (*next)(pthread_mutex_t *);
    if (!next)
        next = (int (*)(pthread_mutex_t *))dlsym(RTLD_NEXT, "pthread_mutex_lock");
    return survived(mutex, next(mutex));
}

int pthread_mutex_timedlock(pthread_mutex_t *mutex, const struct timespec *end)
{
    static int (*next)(pthread_mutex_t *, const struct timespec *);
    if (!next)
        next = (int (*)(pthread_mutex_t *, const struct timespec *))dlsym(RTLD_NEXT, "pthread_mutex_timedlock");
    return survived(mutex, next(mutex, end));
}

int pthread_cond_wait(pthread_cond_t *condition, pthread_mutex_t *mutex)
{
    static int (*next)(pthread_cond_t *, pthread_mutex_t *);
    if (!next) /* an older version of the symbol has another layout of the condition */
        next = (int (*)(pthread_cond_t *, pthread_mutex_t *))dlvsym(RTLD_NEXT, "pthread_cond_wait", "GLIBC_2.3.2");
    return survived(mutex, next(condition, mutex));
}
