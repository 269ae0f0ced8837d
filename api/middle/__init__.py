"""Middle layer: Request Router, Task Manager, Job Dispatcher and the Job Handlers."""
