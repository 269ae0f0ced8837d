"""Middle layer: admission, Task Manager, Job Dispatcher and the Job Handlers."""
