"""The fault table: what may go wrong, row by row, and the tests of it, here and beside the code that they are about.

``python tests/faults/rows.py`` prints the tests, which ``make test-faults`` runs; ``test_table.py`` checks that each is
there. A row that has no code yet names the test of what is done instead.
"""

from __future__ import annotations

ROWS: dict[int, tuple[str, list[str]]] = {
    1: ("resumed = never stopped, bitwise, every method and strategy", [
        "test_train.py::test_a_run_that_was_stopped_twice_ends_bitwise_like_one_that_was_not",
        "hard/test_adco.py::test_a_stopped_run_ends_bitwise_like_a_whole_one",
        "methods/test_deepcluster.py::test_a_run_that_was_stopped_in_mid_epoch_ends_bitwise_like_one_that_was_not",
        "methods/test_dino.py::test_a_dino_run_under_selection_that_was_stopped_in_mid_epoch_ends_bitwise_like_one_that_was_not",
        "methods/test_gan.py::test_a_trained_gan_is_resumed_exactly_and_its_images_are_no_constant",
        "hard/test_adversarial.py::test_a_run_that_was_stopped_ends_bitwise_like_one_that_was_not",
        "methods/test_hnssl.py::test_a_stopped_run_ends_bitwise_like_a_whole_one",
        "hard/test_iou.py::test_a_run_that_was_stopped_ends_bitwise_like_one_that_was_not",
        "hard/test_generated.py::test_a_parent_is_trained_once_for_all_arms_and_a_stopped_arm_ends_like_one_that_was_not",
        "hard/test_stn.py::test_a_run_that_was_stopped_ends_bitwise_like_one_that_was_not",
    ]),
    2: ("two resumes, one in mid-epoch, loader workers", [
        "faults/test_02_resume.py::test_two_resumes_with_workers_repeat_and_skip_no_image",
    ]),
    3: ("SIGKILL at random moments of saving", [
        "test_checkpoint.py::test_a_process_killed_while_saving_leaves_a_whole_checkpoint_every_time",
        "test_run_folder.py::test_what_was_logged_after_the_last_checkpoint_is_logged_once_after_a_crash",
    ]),
    4: ("disk full, read-only folder, quota", [
        "faults/test_04_disk.py::test_a_write_into_a_full_file_system_names_the_path_and_keeps_the_file",
        "faults/test_04_disk.py::test_a_run_that_fills_the_disk_ends_in_a_sentence_and_goes_on_when_there_is_room",
        "faults/test_04_disk.py::test_another_user_may_not_write_into_a_folder_and_is_told_which",
        "test_checkpoint.py::test_a_write_that_fails_names_the_path_and_keeps_what_was_there",
    ]),
    5: ("a flipped byte, a truncated checkpoint", [
        "test_checkpoint.py::test_a_damaged_checkpoint_is_told_and_the_one_before_is_used",
        "test_train.py::test_a_damaged_newest_checkpoint_is_told_and_training_goes_on_from_the_one_before",
    ]),
    6: ("a checkpoint that carries code", [
        "test_checkpoint.py::test_a_checkpoint_that_carries_code_is_refused_and_the_code_does_not_run",
    ]),
    7: ("SIGTERM, SIGINT, SIGUSR1 to trainer and runner", [
        "test_process.py::test_each_signal_ends_the_process_with_75_and_the_same_command_goes_on_exactly",
        "workbook/test_execute.py::test_a_stop_lets_training_save_ends_everybody_and_exits_75",
    ]),
    8: ("a kernel is killed, a cell raises or exits", [
        "workbook/test_execute.py::test_a_notebook_that_does_not_reach_its_end_is_failed_and_kept",
        "workbook/test_execute.py::test_a_kernel_that_dies_and_a_limit_that_passes_leave_no_process_behind",
    ]),
    9: ("unknown, mistyped or odd parameters and tables", [
        "workbook/test_parameters.py::test_an_unknown_parameter_is_refused_with_the_nearest_name_and_nothing_is_written",
        "workbook/test_parameters.py::test_a_value_of_another_type_is_refused_with_the_name_the_value_and_the_type",
        "faults/test_fuzz.py::test_random_tables_are_read_or_refused_in_one_sentence_that_names_the_file",
    ]),
    10: ("notebooks are headless: what they hold, how they run without widgets", [
        "test_notebooks.py::test_a_notebook_is_valid_small_and_for_the_kernel_python3",
        "test_notebooks.py::test_no_cell_trains_by_itself",
        "faults/test_10_widgets.py::"
        "test_neither_the_package_nor_a_notebook_imports_a_library_of_widgets",
        "faults/test_10_widgets.py::"
        "test_a_notebook_trains_where_no_widgets_are_installed_and_says_how_far_it_is_in_text",
        "workbook/test_execute.py::"
        "test_a_done_notebook_has_its_files_is_skipped_and_runs_again_when_anything_changed",
    ]),
    11: ("broken and odd images, folders, annotations", [
        "data/test_base.py::test_broken_files_are_skipped_counted_and_remembered",
        "data/test_base.py::test_too_many_broken_files_stop_the_load_with_their_share",
        "faults/test_fuzz.py::test_random_folders_are_read_or_refused_in_one_sentence",
        "faults/test_fuzz.py::test_random_listings_of_coco_are_read_or_refused_in_one_sentence",
        "faults/test_fuzz.py::"
        "test_random_annotations_of_voc_are_read_or_refused_in_one_sentence_that_names_the_file",
    ]),
    12: ("numbers that are none in loss, gradient, D", [
        "test_train.py::test_a_loss_that_is_not_a_number_stops_before_the_update",
        "test_meters.py::test_the_watch_remembers_the_first_number_that_is_none",
        "test_session.py::test_a_number_that_is_none_is_noticed_and_named_by_its_player",
    ]),
    13: ("collapse and other ill health", [
        "test_health.py::test_a_forced_fault_is_said_within_the_stated_steps",
        "test_health.py::test_a_healthy_run_raises_no_alarm_from_its_first_step_on",
        "test_health.py::test_a_recipe_of_a_large_rung_raises_no_alarm_in_its_first_steps",
        "test_health.py::test_the_signals_of_the_workbooks_runs_raise_no_alarm_but_where_the_easiest_pair_is_selected",
    ]),
    14: ("one process against several: loss, gradient, state; processes that die, stop, or were not started together", [
        "workbook/test_parallel.py::test_two_processes_train_every_pair_like_one_and_a_stopped_run_goes_on_in_one_and_two",
        "workbook/test_parallel.py::"
        "test_four_processes_train_every_pair_like_one_and_a_stopped_run_goes_on_in_four",
        "faults/test_14_processes.py::test_one_of_several_processes_trains_and_evaluates_nothing",
        "faults/test_14_ranks.py::"
        "test_a_killed_process_ends_the_others_torchrun_starts_all_again_and_one_process_goes_on",
        "faults/test_14_ranks.py::test_a_signal_to_the_command_stops_all_processes_and_one_goes_on",
        "faults/test_14_ranks.py::test_two_agents_on_two_addresses_meet_and_train_one_run",
    ]),
    15: ("data that do not divide: the rest of an epoch is left out, evaluation counts each image once", [
        "test_cli.py::test_processes_that_cannot_share_a_batch_are_refused_and_nothing_is_written",
        "data/test_base.py::test_the_rest_of_an_order_gives_the_rest_of_the_batches_and_all_gives_each_row_once",
        "evaluate/test_features.py::test_features_do_not_depend_on_batch_size_or_order",
    ]),
    16: ("figures twice, shuffled, elsewhere", [
        "figures/test_drawing.py::test_a_figure_is_the_same_bytes_when_rows_are_shuffled_and_the_callers_style_differs",
        "figures/test_drawing.py::test_a_figure_is_the_same_bytes_in_another_process_folder_time_zone_and_locale",
    ]),
    17: ("read-only source, spaces, no home, no network", [
        "faults/test_17_surroundings.py::"
        "test_a_run_trains_and_is_evaluated_from_a_read_only_tree_without_home_and_network",
        "faults/test_17_surroundings.py::test_data_that_would_have_to_be_downloaded_end_in_one_sentence",
    ]),
    18: ("two runs into one folder", [
        "test_run_folder.py::test_a_second_process_may_not_train_in_the_same_folder",
        "workbook/test_workflow.py::test_two_reproductions_in_one_folder_are_refused",
    ]),
    19: ("evaluation leaves the run as it is", [
        "evaluate/test_runner.py::test_no_protocol_changes_a_weight_or_a_statistic_of_the_run",
        "evaluate/test_features.py::test_weights_and_statistics_are_bit_identical_and_modes_are_restored",
    ]),
}  # fmt: skip

if __name__ == "__main__":
    # all of this folder, whether it is in the table or not, and the tests elsewhere
    print("tests/faults", *(f"tests/{test}" for _, tests in ROWS.values() for test in tests if "faults/" not in test))
