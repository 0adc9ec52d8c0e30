"""Speed against the plain ways a user would write it; `python -m benchmarks`."""

from ustat_grpo_start import end_commands_in_one_line

end_commands_in_one_line("benchmarks")
