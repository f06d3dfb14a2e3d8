//! One suite, two clusters: every scenario is written once and listed as `embedded::name`, against the dev broker in
//! this process, and as `real::name`, against real Apache RocketMQ.
//!
//! Where no real one can be had those trials are listed as ignored, with the reason. `ROCKETMQ_TEST_REAL=required`
//! makes that a failure, `ROCKETMQ_TEST_REAL=off` leaves them out on purpose. `ROCKETMQ_TEST_RETRY=1` gives up to five
//! that failed a second go, alone, and says so.

mod captured;
mod child;
mod cluster;
mod inbox;
mod parcel;
mod real_clusters;
mod trials;
mod wait;

mod allocation;
mod assigned_topics;
mod batches;
mod blocking;
mod broadcast;
mod calls;
mod changes;
mod commits;
mod compressed;
mod conditions;
mod consume;
mod consuming_faults;
mod control;
mod corrections;
mod dead_letters;
mod delayed;
mod filters;
mod frozen;
mod group;
mod heartbeats;
mod interceptors;
mod interop;
mod java;
mod lag;
mod later_queues;
mod lifecycle;
mod limits;
mod linger;
mod mixed;
mod moved_offsets;
mod name_server;
mod namespace;
mod observing;
mod offset_stores;
mod operators;
mod ordered;
mod outage;
mod outcomes;
mod popping;
mod popping_faults;
mod popping_handles;
mod popping_members;
mod popping_retries;
mod popping_waits;
mod pulling;
mod pushed_pops;
mod queued;
mod refusals;
mod replicas;
mod request;
mod resolver;
mod restart;
mod retry;
mod routes;
mod runtimes;
mod select;
mod send;
mod sending_faults;
mod set_to_pop;
mod shutdown;
mod streams;
mod transaction;
mod undecodable;
mod unresponsive;
mod vip;

use libtest_mimic::Arguments;
use real_clusters::RealClusters;
use rocketmq_integration_tests::second_look::SecondLook;
use std::{process::ExitCode, sync::Arc};
use trials::{Scenario, trials};

/// What is tested, and where: `both` clusters, or `embedded` alone where a fault rule is needed, `alone`, on a
/// cluster whose servers the scenario may stop, `pair`, on one of two brokers, `real` ones alone where the dev broker
/// cannot do what is needed, `changing`, on two brokers of which the scenario stops one (`real_changing`, real ones
/// alone), `no_auto_create`, the same where no topic is created by a send, `replicated`, on a real one with a replica, `strict`, on two
/// real ones that create no groups by themselves, `forgetful`, on a real one that soon removes what it has stored,
/// `interop`, on both with a Java client beside ours, or `since_5`, where the real one has what came with RocketMQ 5, as
/// `pair_since_5`, `alone_since_5`, `forgetful_since_5` and `interop_since_5`, `before_5`, where it has not, or
/// `retry_v2`, on a cluster of that option.
fn scenarios() -> Vec<Scenario> {
    macro_rules! scenarios {
        ($($place:ident $path:path,)*) => { vec![$(Scenario::$place(stringify!($path), $path)),*] };
    }
    // The long ones come first, so that the others run beside them.
    scenarios![
        interop interop::java_reads_all_that_we_send,
        both retry::a_listener_that_fails_twice_succeeds_the_third_time,
        both retry::what_always_fails_ends_among_the_dead_letters,
        both retry::a_listener_that_panics_gets_the_message_again,
        both streams::what_is_not_acknowledged_comes_again,
        both outcomes::a_call_that_takes_too_long_lets_the_queue_go_on,
        both outcomes::a_long_call_within_its_time_runs_once,
        both outcomes::a_call_too_long_for_its_queue_gives_nothing_back,
        both transaction::a_checker_that_panics_is_asked_again,
        both transaction::the_checker_decides_what_the_step_left_open,
        both transaction::another_producer_of_the_group_is_asked,
        interop interop::we_read_all_that_java_sends,
        both transaction::groups_of_one_client_do_not_mix,
        both namespace::what_fails_comes_again_and_dies_under_plain_names,
        both namespace::transactions_are_checked_under_plain_names,
        since_5 namespace::a_message_is_recalled_under_its_plain_name,
        both vip::a_producer_at_the_second_port_is_asked_about_transactions,
        since_5 delayed::a_timer_message_comes_at_its_time,
        since_5 delayed::a_recalled_message_does_not_come,
        since_5 pushed_pops::what_takes_longer_than_it_is_hidden_comes_once,
        since_5 set_to_pop::what_was_popped_and_left_is_pulled_after_a_switch,
        since_5 pushed_pops::what_fails_comes_again_and_is_a_dead_letter_in_the_end,
        since_5 pushed_pops::a_member_that_ends_gives_back_what_it_has_not_begun,
        since_5 pushed_pops::streams_and_batches_pop_as_well,
        since_5 set_to_pop::a_group_follows_its_operator_between_pull_and_pop,
        since_5 set_to_pop::an_operator_moves_a_group_that_pops,
        since_5 set_to_pop::queues_to_pop_may_be_shared_out,
        since_5 pushed_pops::popping_keeps_filters_and_stops_at_its_limit,
        since_5 set_to_pop::what_was_popped_is_consumed_though_its_queue_is_given_up,
        since_5 pushed_pops::what_waits_of_a_topic_that_is_unsubscribed_from_is_given_back,
        since_5 set_to_pop::a_retry_topic_cannot_be_set_to_pop,
        embedded pushed_pops::an_acknowledgement_that_fails_is_made_again,
        since_5 pushed_pops::acknowledgements_travel_together,
        embedded pushed_pops::a_broker_without_batches_gets_single_acknowledgements,
        since_5 popping_retries::what_comes_too_often_is_a_dead_letter,
        since_5 popping_retries::what_is_not_acknowledged_comes_again,
        since_5 popping::an_extension_keeps_a_message_away,
        since_5 popping::an_ordered_queue_waits_until_all_is_acknowledged,
        retry_v2 popping_retries::retry_topics_may_be_of_the_second_generation,
        since_5 popping::a_batch_of_acks_is_exact,
        since_5 popping::filters_let_exactly_theirs_through,
        since_5 popping_handles::handles_that_are_worth_nothing_are_typed_errors,
        since_5 popping_handles::a_handle_kept_as_text_outlives_its_consumer,
        since_5 popping_members::names_in_a_namespace_are_plain,
        since_5 popping::what_is_given_back_comes_sooner,
        since_5 popping::messages_of_a_dropped_receiver_are_visible_again,
        since_5 popping::what_is_acknowledged_comes_once,
        since_5 popping::a_new_group_gets_the_whole_of_a_young_queue,
        forgetful_since_5 popping::a_new_group_of_an_old_queue_begins_where_it_is_told,
        real operators::the_jvm_tool_reads_moves_and_uses_a_consumer,
        both ordered::nothing_is_consumed_on_a_lost_lock,
        both ordered::order_holds_while_queues_change_hands,
        alone ordered::order_holds_when_the_broker_dies_and_comes_back,
        alone_since_5 popping_faults::a_broker_that_dies_and_comes_back_loses_nothing_popped,
        replicated replicas::while_the_broker_is_away_its_replica_serves,
        forgetful corrections::messages_that_are_gone_are_passed_over,
        changing changes::a_broker_that_comes_is_consumed_from_and_one_that_goes_is_left,
        changing changes::what_fails_while_its_broker_is_away_comes_again_from_another,
        real_changing changes::a_broker_at_another_address_is_found_again,
        no_auto_create transaction::a_restarted_producer_is_checked_before_it_sends,
        replicated replicas::who_is_behind_reads_from_the_replica,
        alone outage::a_broker_that_dies_and_comes_back_loses_nothing_acknowledged,
        interop_since_5 mixed::a_java_member_and_ours_pop_together,
        interop mixed::order_holds_while_queues_move_between_java_and_us,
        interop mixed::java_members_and_ours_share_queues_exactly,
        interop interop::java_answers_our_requests,
        both group::two_then_three_then_one_member_lose_nothing,
        both send::ten_thousand_messages_from_64_callers_arrive_once,
        both send::messages_of_four_mib_less_their_properties_arrive,
        both send::a_body_of_four_mib_arrives_and_one_byte_more_does_not,
        real_since_5 send::a_priority_chooses_the_queue,
        both send::oneway_messages_arrive_once,
        both send::every_property_a_user_may_set_arrives,
        alone send::async_messages_for_one_queue_keep_their_order,
        both send::a_batch_lies_in_one_queue_in_order,
        both restart::a_restarted_consumer_continues_where_it_stopped,
        both restart::sigterm_under_load_leaves_nothing_done_unrecorded,
        interop interop::we_answer_javas_requests,
        interop mixed::java_allocates_as_the_goldens_say,
        both lifecycle::a_member_that_is_dropped_on_a_shared_client_is_gone,
        both lifecycle::a_start_that_is_dropped_leaves_nothing_on_a_shared_client,
        both lifecycle::a_shutdown_that_is_dropped_goes_on,
        embedded lifecycle::a_late_word_of_leaving_throws_nobody_out,
        embedded lifecycle::every_time_of_an_option_may_be_longer_than_time,
        embedded lifecycle::a_late_heartbeat_brings_nobody_back,
        both lifecycle::two_hundred_producers_and_consumers_leave_nothing_behind,
        alone outage::without_a_name_server_everything_goes_on,
        both name_server::a_dead_entry_delays_no_start,
        both name_server::a_black_hole_among_the_entries_delays_start_by_a_second_at_most,
        embedded name_server::no_name_server_at_start_is_a_typed_error,
        embedded name_server::nothing_but_a_black_hole_is_a_typed_error_in_time,
        both resolver::the_environment_tells_the_name_servers,
        both resolver::dns_tells_the_name_servers,
        both resolver::an_http_endpoint_tells_the_name_servers,
        embedded resolver::a_hostile_http_endpoint_is_a_typed_error_in_time,
        both resolver::a_list_that_changes_moves_the_client,
        both resolver::where_no_name_server_answers_the_resolver_is_asked_at_once,
        both namespace::tenants_with_the_same_names_do_not_meet,
        both namespace::the_second_kind_goes_along_with_every_request,
        embedded namespace::a_name_server_is_told_the_second_kind,
        both namespace::a_unit_is_a_part_of_the_client_id,
        both namespace::topics_of_a_unit_are_marked,
        embedded namespace::errors_name_topics_as_the_user_does,
        embedded namespace::a_namespace_may_come_with_the_address,
        embedded namespace::names_that_cannot_work_do_not_start,
        both vip::sends_go_to_the_second_port,
        both consume::a_new_group_begins_where_it_is_told,
        both consume::a_filter_lets_exactly_its_tags_through,
        both consume::several_subscriptions_and_groups_do_not_mix,
        both consume::a_producer_and_a_consumer_can_share_a_client,
        embedded consume::two_clusters_in_one_process_do_not_mix,
        both ordered::each_queue_is_consumed_in_its_order,
        both ordered::what_fails_too_often_is_a_dead_letter_and_the_queue_goes_on,
        both ordered::a_queue_that_moves_waits_for_the_call_under_way,
        both ordered::batches_come_in_order_and_only_what_failed_comes_again,
        both outcomes::a_batch_listener_says_which_messages_failed,
        both outcomes::a_listener_can_give_a_message_up_at_once,
        both control::more_or_fewer_calls_run_at_once_when_told,
        both control::a_suspended_consumer_stands_still,
        both control::a_listener_may_use_its_own_consumer,
        both blocking::offsets_are_committed_while_an_async_listener_blocks,
        both blocking::a_blocking_listener_leaves_the_runtime_to_others,
        both blocking::ordered_blocking_listeners_keep_order_and_retry,
        both blocking::a_shutdown_ends_before_a_blocking_call_does,
        both blocking::nothing_is_begun_after_a_shutdown_though_calls_block,
        both runtimes::more_calls_may_be_wanted_from_anywhere,
        both runtimes::queues_assigned_in_a_runtime_that_ends_are_fetched_from,
        both runtimes::a_topic_left_in_a_runtime_that_ends_may_come_back,
        both runtimes::connections_of_a_runtime_that_ends_are_replaced,
        both runtimes::a_consumer_whose_runtime_has_ended_says_so,
        both control::a_change_of_topics_that_is_dropped_half_way_holds,
        both control::topics_come_and_go_while_a_consumer_runs,
        both corrections::an_offset_beyond_the_end_is_corrected,
        both changes::queues_that_come_are_consumed_and_those_that_go_are_left,
        both allocation::a_strategy_of_ones_own_decides,
        both allocation::a_strategy_that_fails_changes_nothing,
        both allocation::fixed_queues_belong_to_who_names_them,
        both allocation::three_members_share_by_circle,
        both allocation::pullers_share_by_a_strategy_too,
        both allocation::changes_of_assignments_are_told,
        since_5 allocation::brokers_share_queues_out,
        both allocation::what_brokers_cannot_share_out_the_members_do,
        both streams::a_stream_brings_every_message_once,
        both streams::a_suspended_stream_goes_on_when_it_is_resumed,
        both streams::who_acknowledges_nothing_gets_no_more,
        both streams::what_the_next_owner_gets_is_not_given_back_as_well,
        both streams::what_is_refused_while_its_queue_goes_is_given_back,
        both broadcast::every_member_gets_every_message,
        both broadcast::a_member_goes_on_from_its_file,
        both broadcast::what_fails_in_a_broadcast_does_not_hold_the_queue_up,
        both pulling::polls_share_a_topic_out_and_bring_each_message_once,
        both pulling::what_the_last_poll_answered_is_done_with_the_next_one,
        both pulling::who_commits_by_hand_says_how_far_the_group_is,
        both pulling::an_operator_moves_who_commits_by_hand,
        both pulling::a_seek_goes_on_where_it_is_told,
        both pulling::a_paused_queue_waits_while_the_others_go_on,
        both pulling::queues_of_ones_choice_are_shared_with_nobody,
        both pulling::an_assignment_that_is_dropped_half_way_holds,
        both pulling::a_single_pull_changes_nothing,
        both pulling::polls_get_what_the_filter_lets_pass,
        both pulling::a_poll_that_is_dropped_loses_nothing,
        both pulling::a_poll_nobody_goes_on_with_holds_no_shutdown_up,
        both pulling::a_puller_in_a_namespace_knows_plain_names,
        both pulling::every_puller_of_a_broadcast_polls_everything,
        both pulling::new_queues_of_a_topic_are_told,
        both offset_stores::a_store_of_ones_own_takes_the_place_of_the_brokers,
        both offset_stores::a_store_that_fails_is_asked_again,
        both offset_stores::a_commit_nobody_goes_on_with_holds_no_other_up,
        both observing::interceptors_see_every_outcome,
        both observing::statistics_tell_what_is_done_what_failed_and_what_is_behind,
        both operators::running_info_tells_what_is_held_and_how_it_goes,
        both operators::a_message_is_consumed_directly_once_and_the_operator_hears_how,
        both operators::a_direct_call_that_hangs_is_given_up_and_a_stream_has_none,
        both operators::a_group_goes_back_while_messages_are_in_hand,
        both operators::a_group_goes_forward_while_messages_are_in_hand,
        both operators::the_clients_of_a_group_say_how_far_they_are,
        both operators::operators_tell_groups_of_one_client_apart,
        both operators::operators_know_a_group_of_a_namespace_by_its_whole_name,
        real filters::sql_picks_by_properties,
        both filters::sql_that_the_broker_cannot_serve_is_a_typed_error,
        both filters::a_filter_of_ones_own_keeps_messages_from_the_listener,
        both select::messages_of_one_key_lie_in_the_queue_java_picks_in_order,
        both select::a_queue_of_ones_choice_is_the_one,
        both select::a_choice_that_is_none_sends_nothing,
        both compressed::zlib_bodies_lie_compressed_and_arrive_whole,
        both compressed::lz4_bodies_lie_compressed_and_arrive_whole,
        both compressed::zstd_bodies_lie_compressed_and_arrive_whole,
        both transaction::a_commit_is_delivered_once_and_a_rollback_never,
        both transaction::what_cannot_be_decided_is_refused,
        real_before_5 delayed::an_old_broker_takes_no_timer_message,
        real_no_auto_create delayed::a_broker_without_a_timer_wheel_refuses_at_the_first_attempt,
        both delayed::a_delay_level_holds_a_message_back,
        pair request::a_reply_comes_by_a_broker_never_spoken_to_before,
        pair_since_5 routes::a_static_topic_is_one_and_its_queues_may_move,
        pair_since_5 moved_offsets::a_group_goes_on_where_it_was_when_queues_move,
        both routes::sends_go_on_when_queues_become_fewer,
        pair routes::an_order_topic_has_the_queues_its_operator_gave,
        pair_since_5 popping_members::messages_of_all_brokers_come,
        since_5 popping_members::two_poppers_share_the_messages,
        since_5 popping_members::topics_come_and_go_while_a_popper_runs,
        since_5 popping::options_that_cannot_work_are_typed_errors,
        before_5 popping::an_old_broker_is_a_typed_error,
        since_5 popping_waits::a_broker_holds_pops_and_waits,
        embedded popping_faults::pops_that_fail_are_made_again,
        embedded popping_faults::what_cannot_be_popped_is_an_error_in_time,
        embedded popping_faults::brokers_that_do_not_answer_hold_nobody_up_for_long,
        embedded popping_faults::an_ordered_pop_whose_answer_is_lost_is_made_again,
        embedded popping_faults::a_dead_letter_that_is_not_stored_is_not_lost,
        embedded popping_faults::a_broker_without_batches_is_told_one_by_one,
        embedded popping_waits::one_request_waits_for_many_receivers,
        both request::a_replier_that_panics_replies_when_the_message_comes_again,
        both request::replies_come_to_who_asked,
        both request::large_replies_travel_compressed_and_come_whole,
        both request::a_request_without_a_reply_ends_in_time_and_a_late_reply_is_dropped,
        both request::what_cannot_be_asked_or_replied_to_is_refused,
        both request::a_reply_to_who_has_gone_is_an_error,
        both request::a_producer_that_ends_does_not_cut_others_of_its_client_off,
        both calls::messages_are_sent_and_pulled,
        both calls::offsets_are_found_by_time,
        both calls::offsets_of_a_group_are_recorded,
        both calls::members_of_a_group_are_listed,
        embedded consuming_faults::a_pull_nobody_answers_is_given_up,
        embedded consuming_faults::pulls_that_fail_are_made_again,
        embedded consuming_faults::offsets_that_cannot_be_read_or_recorded_are_tried_again,
        embedded consuming_faults::offsets_a_broker_lost_are_recorded_in_the_end,
        embedded consuming_faults::a_broker_that_misses_heartbeats_gets_them_again,
        embedded consuming_faults::members_and_routes_that_are_not_told_are_asked_for_again,
        embedded consuming_faults::a_broker_that_closes_every_pull_is_not_stormed,
        embedded consuming_faults::an_offset_outside_the_queue_is_corrected,
        embedded consuming_faults::a_message_the_broker_does_not_take_back_is_retried_here,
        embedded consuming_faults::a_message_the_broker_refuses_to_take_back_is_sent_to_the_retry_topic,
        embedded consuming_faults::a_broker_that_keeps_correcting_offsets_is_not_stormed,
        embedded sending_faults::a_busy_broker_is_asked_again,
        embedded sending_faults::attempts_end_when_they_are_used_up,
        embedded sending_faults::a_message_the_broker_refuses_is_not_sent_again,
        embedded sending_faults::a_connection_that_closes_under_a_send_is_replaced,
        embedded sending_faults::a_broker_that_is_going_away_gets_a_fresh_connection,
        embedded sending_faults::a_silent_broker_leaves_time_for_the_other_one,
        embedded sending_faults::a_stopped_broker_is_avoided_within_the_send,
        embedded sending_faults::no_answer_at_all_ends_with_the_send_timeout,
        embedded sending_faults::stored_but_not_safely_is_a_status_or_another_attempt,
        embedded sending_faults::what_is_queued_is_retried_whether_or_not_its_receipt_is_awaited,
        embedded sending_faults::a_user_over_quota_waits_before_the_next_attempt,
        embedded sending_faults::an_attempt_takes_no_longer_than_it_may,
        embedded sending_faults::a_slow_broker_is_avoided_for_a_while,
        embedded sending_faults::an_unreachable_broker_is_probed_until_it_answers,
        embedded queued::messages_beyond_the_bounds_wait_for_room,
        both queued::a_flush_ends_when_everything_before_it_is_stored,
        both linger::single_sends_travel_in_batches_and_get_their_own_receipts,
        alone linger::messages_of_a_queue_stay_in_order_whatever_they_travel_in,
        embedded linger::a_batch_that_fails_fails_for_its_own_messages,
        both interceptors::interceptors_see_every_send_and_add_properties,
        both batches::a_long_list_is_divided_and_arrives_in_order,
        both batches::a_batch_of_one_sharding_key_goes_to_the_queue_of_the_key,
        both batches::a_batch_goes_to_the_queue_of_ones_choice,
        both batches::bodies_of_a_batch_lie_compressed_and_arrive_whole,
        embedded sending_faults::a_topic_that_may_not_be_written_is_an_error_and_recovers,
        both limits::fetching_stops_at_the_limit_of_messages,
        both limits::fetching_stops_at_the_limit_of_bytes,
        both limits::fetching_stops_at_the_limit_of_span,
        both limits::the_queues_of_a_topic_share_its_limit,
        both shutdown::a_slow_listener_finishes_and_its_message_is_recorded,
        both shutdown::a_listener_that_takes_too_long_is_reported_and_its_message_comes_again,
        both shutdown::a_producer_that_is_shut_down_sends_nothing_more,
        both shutdown::a_signal_shuts_everything_down,
        embedded shutdown::sends_that_do_not_end_are_reported,
        embedded refusals::bad_messages_are_refused_before_they_are_sent,
        embedded refusals::clients_that_cannot_work_do_not_start,
        embedded refusals::options_that_would_be_ignored_are_typed_errors,
        embedded refusals::a_topic_that_must_not_be_created_is_a_typed_error,
        changing frozen::sends_do_not_wait_for_a_frozen_broker,
        both name_server::one_that_knows_nothing_yet_is_not_believed,
        embedded name_server::sends_to_a_missing_topic_do_not_storm_it,
        both name_server::a_broker_in_its_place_is_told_as_such,
        embedded undecodable::a_damaged_message_is_a_dead_letter_and_the_others_are_consumed,
        embedded undecodable::a_damaged_message_is_unfinished_until_a_broker_takes_it,
        embedded undecodable::a_damaged_message_is_retried_as_one_that_failed,
        embedded undecodable::ordered_and_batch_listeners_get_the_others_in_order,
        embedded undecodable::a_stream_passes_over_what_cannot_be_decoded,
        embedded undecodable::a_broadcast_member_counts_it_as_failed_and_goes_on,
        embedded undecodable::a_poll_does_not_pass_it_before_it_is_skipped,
        embedded undecodable::a_single_pull_ends_before_it,
        embedded undecodable::a_popped_one_is_a_dead_letter_in_the_end,
        both undecodable::properties_in_another_encoding_are_read,
        both limits::compressed_bodies_are_decompressed_as_far_as_there_is_room,
        embedded consuming_faults::the_failed_messages_of_a_call_are_sent_back_together,
        both undecodable::a_codec_nobody_knows_ends_among_the_dead_letters,
        since_5 undecodable::a_popped_codec_nobody_knows_ends_among_the_dead_letters,
        embedded unresponsive::a_broker_that_does_not_answer_holds_no_topic_up,
        embedded unresponsive::locks_of_one_broker_do_not_wait_for_another,
        embedded unresponsive::a_group_unknown_to_one_broker_is_consumed_at_the_other,
        embedded unresponsive::an_assignment_is_asked_of_another_broker,
        embedded unresponsive::heartbeats_to_one_broker_do_not_wait_for_another,
        embedded commits::an_offset_lost_at_a_revoke_is_committed_again,
        embedded commits::an_offset_that_is_never_kept_is_reported,
        both heartbeats::of_other_languages_are_read,
        both heartbeats::that_make_no_sense_are_refused,
        both dead_letters::tell_where_they_come_from,
        since_5 dead_letters::of_pops_tell_where_they_come_from,
        both assigned_topics::are_fetched_from_with_the_queues_they_get,
        both assigned_topics::may_come_after_the_start,
        both assigned_topics::committed_offsets_are_read_without_queues,
        both later_queues::a_topic_that_appears_is_consumed_from_its_first_message,
        both later_queues::queues_that_appear_are_consumed_from_their_first_message,
        embedded later_queues::where_a_group_begins_is_committed_at_once,
        both broadcast::a_member_on_a_shared_client_needs_a_lasting_name,
        embedded commits::a_call_that_ends_while_its_queue_moves_is_not_made_twice,
        both corrections::a_topic_that_is_created_again_is_consumed_from_its_first_message,
        both lag::push_and_pull_consumers_tell_how_far_their_group_is_behind,
        since_5 lag::pop_consumers_tell_how_far_their_group_is_behind,
        both filters::a_filter_changes_though_the_clock_of_its_host_is_behind,
        embedded conditions::refused_pulls_are_one_warning,
        both conditions::a_missing_topic_is_one_warning,
        embedded conditions::a_topic_that_may_not_be_read_is_one_warning,
        embedded conditions::a_group_without_members_is_one_warning,
        embedded conditions::failing_commits_are_one_warning,
        embedded conditions::an_offset_store_that_is_down_is_one_warning,
        embedded conditions::refused_heartbeats_are_one_warning,
        embedded conditions::refused_pops_are_one_warning,
        embedded conditions::locks_that_fail_are_one_warning,
        strict conditions::a_group_that_does_not_exist_is_one_warning,
        strict conditions::a_group_that_may_not_consume_is_one_warning,
        strict conditions::a_group_that_one_broker_knows_is_consumed_there,
        both conditions::unequal_subscriptions_are_one_warning,
        embedded conditions::servers_that_are_down_are_one_warning_each,
        embedded filters::sql_that_one_broker_of_two_cannot_serve_is_a_typed_error,
    ]
}

fn main() -> ExitCode {
    if let Some(exit) = child::run_if_asked() {
        return exit;
    }
    trials::quiet_panics();
    captured::begin();
    let mut arguments = Arguments::from_args();
    // Most of a scenario is waiting.
    arguments.test_threads = arguments.test_threads.or(Some(trials::THREADS));
    let clusters = Arc::new(RealClusters::default());
    let second_look = Arc::new(SecondLook::of_this_run());
    let trials = trials(scenarios(), &clusters, &second_look, &arguments);
    let all_passed = second_look.run(&arguments, trials);
    // The servers end here, not in a destructor that `exit` would skip.
    clusters.end();
    // As test programs do.
    if all_passed { ExitCode::SUCCESS } else { ExitCode::from(101) }
}
