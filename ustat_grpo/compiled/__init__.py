"""What every compiled loop needs: its random streams, its draws, its cache and its threads."""

from ustat_grpo.compiled.threads import available_threads, thread_limit

__all__ = ["available_threads", "thread_limit"]
