"""What would make a table of these runs a lie, found before anybody reads its numbers.

A check sees all configurations at once and says what is wrong in one sentence each. Warnings come first in
every output: whoever reads the numbers has read them.
"""

from collections.abc import Sequence

from experiments.compare import doubts_between, doubts_of_runs, doubts_of_starts
from experiments.compare.groups import Group
from experiments.compare.warned import Check, Warned

__all__ = ["CHECKS", "Warned", "warnings_of"]

CHECKS: tuple[Check, ...] = (  # in the order of what they say
    doubts_between.identical_results,
    doubts_of_runs.config_missing,
    doubts_of_runs.sparsity_is_not_what_was_asked,
    doubts_of_runs.sparsity_was_not_counted,
    doubts_of_runs.zeros_came_back,
    doubts_between.better_when_sparser,
    doubts_of_runs.a_rate_that_was_never_reached,
    doubts_of_runs.a_handful_of_batches,
    doubts_of_runs.no_result,
    doubts_of_runs.results_that_are_no_numbers,
    doubts_between.different_machines,
    doubts_between.the_same_work_at_another_speed,
    doubts_between.other_data,
    doubts_between.another_baseline,
    doubts_of_starts.another_start,
    doubts_of_starts.several_starts,
    doubts_of_starts.several_masks,
    doubts_between.dense_and_sparse_in_one_row,
    doubts_between.a_seed_twice,
    doubts_between.seeds_that_changed_nothing,
    doubts_of_runs.not_finished,
    doubts_of_runs.unreadable,
)


def warnings_of(groups: Sequence[Group]) -> list[Warned]:
    return [found for check in CHECKS for found in check(groups)]
